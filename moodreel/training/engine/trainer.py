"""The loop that every network is trained by. Reads from top to bottom.

1. A `Task` knows the network and what it learns: it draws batches, gives their loss and judges the network.
2. `Phase`s say how: for how long, at which rates, and which layers are frozen.
3. `fit` goes through them, and can be killed at any time: with the same folder it goes on where it last judged.

Each step draws from a seed of its own, number of phase and step, so that a run that was killed goes on as if it had not
been: the same batches, the same dropout, the same curve.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from moodreel.errors import DataInvalid
from moodreel.training.engine import checkpoint
from moodreel.training.engine.checkpoint import CHECKPOINT
from moodreel.training.engine.ema import ExponentialMovingAverage
from moodreel.training.engine.logger import MetricsLogger
from moodreel.training.engine.schedule import SCHEDULES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    steps: updates of the weights. rate: the highest of AdamW's (Loshchilov & Hutter 2019).
    schedule: a name in `SCHEDULES`. warm: share of the steps over which a trapezoid rises; cooling: over which it falls
        to zero. restart: steps of the first cosine, each of the next being twice as long; 0 for one that lasts.
    frozen: first words of the names of parameters that stay as they are ("trunk."); a module of which nothing learns is
        as in serving, with its normalisation and without dropout.
    rates: factors of the rate by first words of names; the longest that fits counts.
    decay: of weights, but not of biases and normalisations, which are not drawn towards zero.
    afresh: whether it begins from the averaged weights of the phase before, and averages anew; else it goes on from the
        last ones.
    """

    name: str
    steps: int
    lr: float
    schedule: str = "one-cycle"
    warmup: float = 0.1
    decay_fraction: float = 0.9
    restart_steps: int = 0
    frozen: tuple[str, ...] = ()
    lr_scales: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.05
    reset_from_ema: bool = False


@dataclass(frozen=True)
class TrainerConfig:
    """What holds for all phases.

    accumulate: batches of which the gradients are added up for each step. clip: longest gradient.
    average: how much of the averaged weights stays at each step (Polyak & Juditsky 1992); 0 to keep the last ones.
    anchored: whether so much stays from the first step on, which suits pretrained weights: they are worth keeping near;
        else the first steps are forgotten quickly.
    every: steps from one judgement, and one checkpoint, to the next.
    patience: judgements without a better one after which a phase ends; 0 for never. The best is what is kept then;
        without patience the last.
    betas: of AdamW. brief: whether to compute in bfloat16 on a CPU too, which some do twice as fast; on a GPU it is
        always half precision.
    """

    seed: int = 0
    grad_accumulation: int = 1
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    ema_warmup: bool = True
    eval_every: int = 100
    patience: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    bf16: bool = False


class Task(ABC):
    """What is learnt.

    network: is trained where it is. averaged: the mean of its last weights where there is one, or itself.
    watched: the name of the judgement that says which weights are best; higher is better.
    """

    network: nn.Module
    eval_network: nn.Module
    monitor = ""

    @abstractmethod
    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        """Make batch number `step`, from 0, counted through all phases; in another thread, while one is learnt."""

    @abstractmethod
    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        """The mean loss of a batch, with gradients. May draw from torch's generator, which is seeded."""

    def evaluate(self, phase: Phase) -> dict[str, float]:
        """Measure `averaged`, in eval mode and without gradients, on what is not learnt from."""
        return {}


@dataclass(frozen=True, eq=False)
class TrainingHistory:
    """How training went. history: a row a judgement, as in metrics.csv. best: the row of the weights that were kept."""

    rows: tuple[dict[str, Any], ...]
    best: dict[str, Any]


def fit(
    task: Task,
    phases: Iterable[Phase],
    config: TrainerConfig,
    folder: Path | None = None,
    *,
    resume: bool = False,
    metadata: Mapping[str, Any] | None = None,
    wandb: str = "",
) -> TrainingHistory:
    """Train a task's network, phase by phase, and leave the weights that were kept in it, in eval mode.

    folder: for `CHECKPOINT`, metrics.csv and TensorBoard's events; None keeps nothing.
    resume: go on from the checkpoint in the folder, if there is one.
    describe: what the checkpoint says of itself (architecture, arguments, labels, recipe, data): plain values.
    wandb: the project of Weights & Biases to write to as well.
    Raises DataInvalid for a checkpoint that is broken or of another run, or a loss that is no number any more.
    """
    phases, about = tuple(phases), checkpoint.plain(metadata or {}) | {"running": checkpoint.plain(asdict(config))}
    about["phases"] = [checkpoint.plain(asdict(phase)) for phase in phases]
    state = None
    if folder and resume and (folder / CHECKPOINT).is_file():
        state = checkpoint.resume(folder / CHECKPOINT, about)
    run = Trainer(task, config, state)
    with MetricsLogger(folder, history=run.history, wandb=wandb, about=about) as metrics, logging_redirect_tqdm():
        for number, phase in enumerate(phases):
            if number < run.phase:
                continue
            for row in run.go_through(phase, number, first=sum(p.steps for p in phases[:number])):
                metrics.write(row)
                if folder:
                    checkpoint.save(folder / CHECKPOINT, {**run.state(), "about": about})
    return run.finish()


class Trainer:
    """What a checkpoint keeps, and one way through a phase."""

    def __init__(self, task: Task, running: TrainerConfig, state: dict[str, Any] | None) -> None:
        self.task, self.running = task, running
        self.device = next(task.network.parameters()).device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self._half is torch.float16)  # type: ignore[attr-defined]
        self.mean = (
            ExponentialMovingAverage(task.network, running.ema_decay, anchored=not running.ema_warmup)
            if running.ema_decay
            else None
        )
        task.eval_network = self.mean.network if self.mean else task.network
        self.phase, self.step, self.stale = 0, 0, 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.kept: dict[str, torch.Tensor] | None = None
        self.resumed = state
        if state:
            task.network.load_state_dict(state["network"])
            if self.mean:
                self.mean.load_state_dict(state["mean"])
            self.scaler.load_state_dict(state["scaler"])
            for name in ("phase", "step", "stale", "history", "best", "kept"):
                setattr(self, name, state[name])
            log.info("Going on at step %d of phase %d.", self.step, self.phase + 1)

    @property
    def _half(self) -> torch.dtype:
        return torch.float16 if self.device.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16

    def go_through(self, phase: Phase, number: int, *, first: int) -> Iterator[dict[str, Any]]:
        """Train; yields a row of metrics after each judgement, when `state` is whole. first: steps before it."""
        network, running = self.task.network, self.running
        self.optimiser = AdamW(_groups(network, phase), lr=phase.lr, betas=running.betas)
        self.schedule = SCHEDULES[phase.schedule](self.optimiser, phase)
        if self.resumed and number == self.phase:
            self.optimiser.load_state_dict(self.resumed["optimiser"])
            self.schedule.load_state_dict(self.resumed["schedule"])
            self.resumed = None
        else:
            self.phase, self.step, self.stale = number, 0, 0
            if phase.reset_from_ema and self.mean:
                network.load_state_dict(self.mean.network.state_dict())
                self.mean.restart()
        if running.patience and self.stale >= running.patience:
            return
        _listen(network, phase)
        total, ended = 0.0, False
        steps = range(self.step, phase.steps)
        with tqdm(total=phase.steps, initial=self.step, desc=phase.name, unit="step", mininterval=2) as bar:
            for step, batches in zip(steps, self._batches(steps, first, number, phase), strict=True):
                torch.manual_seed(_seed(running.seed, number, step))
                rate, loss = self.optimiser.param_groups[-1]["lr"], self._update(batches, phase)
                if not math.isfinite(loss):
                    raise DataInvalid(
                        f"At step {step + 1} of {phase.name} the loss is {loss}; train at a lower rate than "
                        f"{phase.lr:g}, or look for numbers in the data that are not finite."
                    )
                total += loss
                self.step = step + 1
                bar.update()
                ended = self.step == phase.steps
                if self.step % running.eval_every == 0 or ended:
                    count = (self.step - 1) % running.eval_every + 1
                    yield self._judge(phase, first + self.step, rate, total / count)
                    total = 0.0
                    if running.patience and self.stale >= running.patience:
                        log.info("%s: no better for %d judgements; ended early.", phase.name, self.stale)
                        return

    def _batches(self, steps: range, first: int, number: int, phase: Phase) -> Iterator[list[Any]]:
        """The batches of each step; the next ones are made while some are learnt."""
        parts = self.running.grad_accumulation

        def make(step: int) -> list[Any]:
            rng = np.random.default_rng((self.running.seed, number, step))
            return [self.task.sample_batch((first + step) * parts + part, rng, phase) for part in range(parts)]

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(make, steps.start) if steps else None
            for step in steps:
                assert following is not None
                ready = following.result()
                if step + 1 < steps.stop:
                    following = pool.submit(make, step + 1)
                yield ready

    def _update(self, batches: list[Any], phase: Phase) -> float:
        """One step of the optimiser. Returns the mean loss of the batches."""
        self.optimiser.zero_grad()
        mean = 0.0
        for batch in batches:
            brief = self.running.bf16 or self.device.type == "cuda"
            with torch.autocast(self.device.type, self._half, enabled=brief):
                loss = self.task.loss(batch, phase) / len(batches)
            self.scaler.scale(loss).backward()
            mean += loss.item()
        self.scaler.unscale_(self.optimiser)
        learning = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(learning, self.running.max_grad_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        if self.mean:
            self.mean.update(self.task.network)
        return mean

    def _judge(self, phase: Phase, step: int, rate: float, loss: float) -> dict[str, Any]:
        self.task.network.eval()
        with torch.inference_mode():
            judged = self.task.evaluate(phase)
        row = {"phase": phase.name, "step": step, "rate": rate, "loss": loss, **judged}
        self.history.append(row)
        value = judged.get(self.task.monitor)
        better = value is None or not self.best or value > self.best.get(self.task.monitor, -math.inf)
        if better or not self.running.patience:
            self.best = row
            # Without patience the last weights are kept, which need no copy.
            self.kept = _copied(self.task.eval_network) if self.running.patience else None
        self.stale = 0 if better else self.stale + 1
        said = ", ".join(f"{name} {number:.4f}" for name, number in judged.items())
        log.info("%s: step %d, loss %.4f%s", phase.name, step, loss, f", held out: {said}" if said else "")
        _listen(self.task.network, phase)
        return row

    def state(self) -> dict[str, Any]:
        return {
            "network": self.task.network.state_dict(),
            "mean": self.mean.state_dict() if self.mean else None,
            "scaler": self.scaler.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": {
                name: value for name, value in self.schedule.state_dict().items() if checkpoint.is_plain(value)
            },
            **{name: getattr(self, name) for name in ("phase", "step", "stale", "history", "best", "kept")},
        }

    def finish(self) -> TrainingHistory:
        network = self.task.network
        network.load_state_dict(self.kept or self.task.eval_network.state_dict())
        network.requires_grad_(True)
        network.eval()
        self.task.eval_network = network
        return TrainingHistory(rows=tuple(self.history), best=self.best)


def epoch_indices(step: int, count: int, batch: int, seed: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Rows of batch number `step` of a set of `count`, in another order each epoch; int64 (B,), at most `batch`.

    weights: (N,), how often each row comes, adding up to 1; drawn with replacement then.
    """
    each = math.ceil(count / batch)
    epoch, place = divmod(step, each)
    rng = np.random.default_rng((seed, epoch))
    if weights is not None:
        order = rng.choice(count, each * batch, p=weights / weights.sum(dtype=np.float64))
    else:
        order = rng.permutation(count)
    return order[place * batch : (place + 1) * batch]


def _groups(network: nn.Module, phase: Phase) -> list[dict[str, Any]]:
    """Parameters that learn, by rate and decay."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(phase.frozen))
        fits = [word for word in phase.lr_scales if name.startswith(word)]
        rate = phase.lr * (phase.lr_scales[max(fits, key=len)] if fits else 1)
        if parameter.requires_grad:
            groups.setdefault((rate, phase.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    if not groups:
        raise DataInvalid(f"In {phase.name} nothing is left to learn: all of it is frozen.")
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _listen(network: nn.Module, phase: Phase) -> None:
    """Put a network in training mode, but for modules of which all is frozen."""
    network.train()
    for name, module in network.named_modules():
        if f"{name}.".startswith(phase.frozen):
            module.eval()


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint32)[0])


def _copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
