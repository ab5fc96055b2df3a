"""Train the network of a task, phase by phase.

1. A `Task` has the network and its data: it makes batches, returns their loss and evaluates the network.
2. Each `Phase` sets the number of steps, the learning rates, and which parameters are frozen.
3. `fit` runs them. It may be killed at any time: with the same folder and `resume` it continues at its last evaluation.

The random numbers of each step are seeded by the phase and the step. So a resumed run sees the same batches and the
same dropout, and ends with the same weights, bit for bit, on the same machine.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from moodreel.errors import DataInvalid
from moodreel.training.engine import checkpoint
from moodreel.training.engine.batches import prefetch
from moodreel.training.engine.checkpoint import CHECKPOINT, State
from moodreel.training.engine.device import autocast_dtype, use_deterministic_kernels
from moodreel.training.engine.ema import averaged_model
from moodreel.training.engine.logger import MetricsLogger, MetricsRow
from moodreel.training.engine.schedule import SCHEDULES, Phase, build_optimizer, set_train_mode
from moodreel.training.engine.task import Task

logger = logging.getLogger(__name__)

_RESUMED = ("phase", "step", "stale", "history", "best", "kept")
"""Attributes of `Trainer` that a checkpoint holds as they are."""


@dataclass(frozen=True)
class TrainerConfig:
    """The settings of all phases of a run.

    Attributes:
        seed: Seed of batches and dropout.
        grad_accumulation: Batches whose gradients are accumulated for one step.
        max_grad_norm: Gradients are clipped to this norm.
        ema_decay: Decay of the exponential moving average of the weights (Polyak & Juditsky 1992); 0 for none.
        ema_warmup: Let the decay rise from 0, so that the first weights are soon forgotten. False keeps the average
            near them, which suits pretrained weights.
        eval_every: Steps between evaluations; a checkpoint is written at each.
        patience: Evaluations without improvement after which a phase ends, 0 for never. With patience the best
            weights are kept, without it the last ones.
        betas: Betas of AdamW.
        bf16: Compute in bfloat16 on the CPU too, which makes some twice as fast. CUDA always uses half precision.
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


@dataclass(frozen=True, eq=False)
class TrainingHistory:
    """The course of a run: a row for each evaluation, as in metrics.csv, and the row of the weights that were kept."""

    rows: tuple[MetricsRow, ...]
    best: MetricsRow


def fit(
    task: Task,
    phases: Iterable[Phase],
    config: TrainerConfig,
    folder: Path,
    *,
    resume: bool = False,
    metadata: Mapping[str, object] | None = None,
    wandb: str = "",
) -> TrainingHistory:
    """Train a task's network, and leave the weights that were kept in it, in eval mode.

    Args:
        task: Is trained in place, on the device of its network.
        phases: Run one after the other.
        config: Settings of all phases.
        folder: For `CHECKPOINT`, metrics.csv and TensorBoard's events.
        resume: Continue from the checkpoint in the folder, if there is one.
        metadata: The run as the checkpoint describes it (architecture, arguments, labels, recipe, data): plain values.
        wandb: Project of Weights & Biases to log to as well.

    Raises:
        DataInvalid: The checkpoint is broken or of another run, or the loss is no longer finite.
    """
    phases = tuple(phases)
    about = checkpoint.to_plain({**(metadata or {}), "running": asdict(config), "phases": [asdict(p) for p in phases]})
    path = folder / CHECKPOINT
    state = checkpoint.resume(path, about) if resume and path.is_file() else None
    trainer = Trainer(task, config, state)
    metrics_logger = MetricsLogger(folder, history=trainer.history, wandb=wandb, about=about)
    with metrics_logger, logging_redirect_tqdm():
        for number, phase in list(enumerate(phases))[trainer.phase :]:
            for row in trainer.run_phase(phase, number, first_step=sum(each.steps for each in phases[:number])):
                metrics_logger.write(row)
                checkpoint.save(path, {**trainer.state_dict(), "about": about})
    return trainer.finish()


class Trainer:
    """Run phases and hold the state of the run, which a checkpoint saves.

    Attributes:
        phase: Number of the current phase, from 0.
        step: Steps done in it.
        stale: Evaluations since the best one.
        history: Rows of metrics so far.
        best: Row of the best evaluation.
        kept: Weights of the best evaluation; None without patience, when the last ones are kept.
    """

    def __init__(self, task: Task, config: TrainerConfig, state: State | None = None) -> None:
        """Prepare a run, or load one from a checkpoint's state."""
        self.task, self.config = task, config
        self.device = task.device
        use_deterministic_kernels(self.device)
        self.dtype = autocast_dtype(self.device, bf16=config.bf16)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        self.ema: AveragedModel | None = None
        if config.ema_decay:
            self.ema = averaged_model(task.network, config.ema_decay, warmup=config.ema_warmup)
        task.eval_network = self.ema.module if self.ema else task.network
        self.optimizer: AdamW
        self.schedule: LRScheduler
        self.phase, self.step, self.stale = 0, 0, 0
        self.history: list[MetricsRow] = []
        self.best: MetricsRow = {}
        self.kept: dict[str, torch.Tensor] | None = None
        self._resumed = state
        if state:
            self._load_state_dict(state)

    def run_phase(self, phase: Phase, number: int, *, first_step: int) -> Iterator[MetricsRow]:
        """Train one phase. Yields a row of metrics after each evaluation, when `state_dict` is complete.

        Args:
            phase: To run, or to continue after a resume.
            number: Number of the phase, from 0.
            first_step: Steps of all phases before it.
        """
        self._start_phase(phase, number)
        if self._out_of_patience():
            return
        set_train_mode(self.task.network, phase)
        total, steps = 0.0, range(self.step, phase.steps)
        with tqdm(total=phase.steps, initial=self.step, desc=phase.name, unit="step", mininterval=2) as bar:
            for step, batches in zip(steps, self._batches(steps, first_step, phase), strict=True):
                torch.manual_seed(int(np.random.SeedSequence((self.config.seed, number, step)).generate_state(1)[0]))
                lr, loss = self.optimizer.param_groups[-1]["lr"], self._update(batches, phase)
                _check_finite(loss, phase, step)
                total += loss
                self.step = step + 1
                bar.update()
                if self.step % self.config.eval_every == 0 or self.step == phase.steps:
                    count = step % self.config.eval_every + 1
                    yield self._evaluate(phase, {"step": first_step + self.step, "lr": lr, "loss": total / count})
                    total = 0.0
                    if self._out_of_patience():
                        logger.info("%s: no improvement for %d evaluations; stopped early.", phase.name, self.stale)
                        return

    def state_dict(self) -> State:
        """Return the content of a checkpoint, without its `about`."""
        return {
            "network": self.task.network.state_dict(),
            "mean": self.ema.state_dict() if self.ema else None,
            "scaler": self.scaler.state_dict(),
            "optimiser": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            **{name: getattr(self, name) for name in _RESUMED},
        }

    def finish(self) -> TrainingHistory:
        """Load the kept weights into the network, unfreeze it, and put it in eval mode."""
        network = self.task.network
        network.load_state_dict(self.kept or self.task.eval_network.state_dict())
        network.requires_grad_(True)
        network.eval()
        self.task.eval_network = network
        return TrainingHistory(rows=tuple(self.history), best=self.best)

    def _load_state_dict(self, state: State) -> None:
        self.task.network.load_state_dict(state["network"])
        if self.ema:
            self.ema.load_state_dict(state["mean"])
        self.scaler.load_state_dict(state["scaler"])
        for name in _RESUMED:
            setattr(self, name, state[name])
        logger.info("Resuming at step %d of phase %d.", self.step, self.phase + 1)

    def _start_phase(self, phase: Phase, number: int) -> None:
        """Build optimizer and schedule; load their state if the phase is resumed, else start it at step 0."""
        self.optimizer = build_optimizer(self.task.network, phase, self.config.betas)
        self.schedule = SCHEDULES[phase.schedule](self.optimizer, phase)
        if self._resumed and number == self.phase:
            self.optimizer.load_state_dict(self._resumed["optimiser"])
            self.schedule.load_state_dict(self._resumed["schedule"])
            self._resumed = None
            return
        self.phase, self.step, self.stale = number, 0, 0

    def _out_of_patience(self) -> bool:
        return bool(self.config.patience) and self.stale >= self.config.patience

    def _batches(self, steps: range, first_step: int, phase: Phase) -> Iterator[list[Any]]:
        """Yield the batches of each step, made ahead: for a GPU by as many processes as torch may use threads."""
        parts, number = self.config.grad_accumulation, self.phase

        def make(step: int) -> list[Any]:
            rng = np.random.default_rng((self.config.seed, number, step))
            return [self.task.sample_batch((first_step + step) * parts + i, rng, phase) for i in range(parts)]

        return prefetch(steps, make, workers=torch.get_num_threads() if self.device.type == "cuda" else 0)

    def _update(self, batches: list[Any], phase: Phase) -> float:
        """Take one optimizer step. Returns the mean loss of the batches."""
        self.optimizer.zero_grad()
        losses = []
        for batch in batches:
            with torch.autocast(self.device.type, self.dtype or torch.bfloat16, enabled=self.dtype is not None):
                loss = self.task.loss(batch, phase) / len(batches)
            torch.autograd.backward(self.scaler.scale(loss))
            losses.append(loss.detach())
        self.scaler.unscale_(self.optimizer)
        params = [param for group in self.optimizer.param_groups for param in group["params"]]
        nn.utils.clip_grad_norm_(params, self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema:
            self.ema.update_parameters(self.task.network)
        return sum(loss.item() for loss in losses)  # read last: it waits for the GPU

    def _evaluate(self, phase: Phase, row: MetricsRow) -> MetricsRow:
        """Evaluate the task, add its metrics to a row, and keep the best weights."""
        self.task.network.eval()
        with torch.inference_mode():
            metrics = self.task.evaluate(phase)
        row = {"phase": phase.name, **row, **metrics}
        self.history.append(row)
        value = metrics.get(self.task.monitor)
        better = value is None or not self.best or value > float(self.best.get(self.task.monitor, -math.inf))
        if better or not self.config.patience:
            self.best = row
            # Without patience the last weights are kept, which need no copy.
            self.kept = _cloned(self.task.eval_network) if self.config.patience else None
        self.stale = 0 if better else self.stale + 1
        formatted = ", ".join(f"{name} {number:.4f}" for name, number in metrics.items())
        held_out = f", held out: {formatted}" if formatted else ""
        logger.info("%s: step %d, loss %.4f%s", phase.name, row["step"], row["loss"], held_out)
        set_train_mode(self.task.network, phase)
        return row


def _check_finite(loss: float, phase: Phase, step: int) -> None:
    if not math.isfinite(loss):
        raise DataInvalid(
            f"At step {step + 1} of {phase.name} the loss is {loss}; train at a lower learning rate "
            f"than {phase.lr:g}, or look for numbers in the data that are not finite."
        )


def _cloned(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
