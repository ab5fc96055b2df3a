"""Test the trainer on a small network: learning, resuming, schedules, averaging, devices."""

import csv
import json
import logging
import os
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from moodreel.errors import DataInvalid
from moodreel.training.engine import trainer
from moodreel.training.engine.batches import epoch_indices, prefetch
from moodreel.training.engine.checkpoint import CHECKPOINT
from moodreel.training.engine.device import autocast_dtype, resolve_device, use_deterministic_kernels
from moodreel.training.engine.schedule import SCHEDULES, Phase
from moodreel.training.engine.task import Task
from moodreel.training.engine.trainer import TrainerConfig, TrainingHistory

COUNT, CLASSES = 32, 4


def fit(task, phases, config, folder=None, **more):
    """Fit with a folder, or with one that is removed."""
    with TemporaryDirectory() as scratch:
        return trainer.fit(task, phases, config, folder or Path(scratch), **more)


class Toy(Task):
    """Learn random labels of 32 points through dropout and batch normalization."""

    monitor = "accuracy"

    def __init__(self, *, interrupt_at: int | None = None, dropout: float = 0.1) -> None:
        torch.manual_seed(7)
        draw = np.random.default_rng(7)
        self.points = draw.normal(size=(COUNT, 8)).astype(np.float32)
        self.labels = torch.from_numpy(draw.integers(CLASSES, size=COUNT))
        self.network = nn.Sequential()
        self.network.add_module("trunk", nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU()))
        self.network.add_module("head", nn.Sequential(nn.Dropout(dropout), nn.Linear(32, CLASSES)))
        self.interrupt_at, self.drawn = interrupt_at, []

    def sample_batch(self, step, rng, phase):
        rows = epoch_indices(step, COUNT, 16, seed=0)
        return self.points[rows] + rng.normal(0, 0.01, (len(rows), 8)).astype(np.float32), rows

    def loss(self, batch, phase):
        points, rows = batch
        self.drawn.append(points.sum())
        if len(self.drawn) == self.interrupt_at:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(self.network(torch.from_numpy(points)), self.labels[torch.from_numpy(rows)])

    def evaluate(self, phase):
        predicted = self.eval_network(torch.from_numpy(self.points)).argmax(dim=1)
        return {"accuracy": float((predicted == self.labels).float().mean())}


PHASES = (
    Phase("head", 20, 1e-2, frozen=("trunk.",)),
    Phase("all", 180, 2e-2, schedule="cosine-restarts", restart_steps=60, lr_scales={"trunk.": 0.5}),
)
CONFIG = TrainerConfig(eval_every=10, ema_decay=0.5)


class FullRun(NamedTuple):
    """A run of all phases: its task, its history and its folder, which tests only read."""

    task: Toy
    history: TrainingHistory
    folder: Path


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    task, folder = Toy(), tmp_path_factory.mktemp("full")
    return FullRun(task, fit(task, PHASES, CONFIG, folder), folder)


def test_it_overfits_thirty_two_samples(full_run):
    losses = [row["loss"] for row in full_run.history.rows]
    assert losses[-1] < losses[0] / 4
    assert full_run.history.best["accuracy"] == 1.0
    assert not full_run.task.network.training


@pytest.mark.parametrize("interrupt_at", [3, 27, 28, 115])
def test_an_interrupted_run_resumes_bit_for_bit(full_run, tmp_path, interrupt_at):
    with pytest.raises(KeyboardInterrupt):
        fit(Toy(interrupt_at=interrupt_at), PHASES, CONFIG, tmp_path)
    task = Toy()
    resumed = fit(task, PHASES, CONFIG, tmp_path, resume=True)
    assert resumed.rows == full_run.history.rows
    assert len(task.drawn) < 200 or interrupt_at < 10
    assert (tmp_path / "metrics.csv").read_text() == (full_run.folder / "metrics.csv").read_text()
    size = (full_run.folder / CHECKPOINT).stat().st_size
    assert (tmp_path / CHECKPOINT).stat().st_size == pytest.approx(size, rel=0.05)


def test_worker_processes_give_the_same_run(full_run, monkeypatch):
    monkeypatch.setattr(trainer, "prefetch", lambda steps, make, workers: prefetch(steps, make, workers=2))
    assert fit(Toy(), PHASES, CONFIG).rows == full_run.history.rows


def test_resuming_a_finished_run_gives_the_same_network(full_run, tmp_path):
    again, folder = Toy(), tmp_path / "copy"
    shutil.copytree(full_run.folder, folder)
    assert fit(again, PHASES, CONFIG, folder, resume=True).rows == full_run.history.rows
    assert again.drawn == []
    expected, actual = full_run.task.network.state_dict(), again.network.state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_the_averaged_network_has_the_counters_of_the_network(full_run):
    assert full_run.task.network.trunk[1].num_batches_tracked == PHASES[1].steps


def test_frozen_parameters_and_their_batch_statistics_do_not_change():
    task = Toy()
    before = {name: tensor.clone() for name, tensor in task.network.trunk.state_dict().items()}
    fit(task, PHASES[:1], CONFIG)
    after = task.network.trunk.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    fit(task, PHASES[1:], CONFIG)
    assert not any(torch.equal(before[name], task.network.trunk.state_dict()[name]) for name in before)


def test_gradient_accumulation_of_two_halves_equals_one_batch():
    class Plain(Toy):
        def __init__(self, batch):
            super().__init__(dropout=0.0)
            self.network.trunk[1] = nn.Identity()  # batch normalization would depend on the batch size
            self.batch = batch

        def sample_batch(self, step, rng, phase):
            rows = epoch_indices(step, COUNT, self.batch, seed=0)
            return self.points[rows], rows

    phase = Phase("all", 6, 1e-2)
    tasks = Plain(32), Plain(16)
    fit(tasks[0], [phase], TrainerConfig())
    fit(tasks[1], [phase], TrainerConfig(grad_accumulation=2))
    for first_tensor, second_tensor in zip(*(task.network.parameters() for task in tasks), strict=True):
        assert torch.allclose(first_tensor, second_tensor, atol=1e-5)


def test_early_stopping_keeps_the_best_weights():
    class Worse(Toy):
        """Its metric falls after the third evaluation."""

        count = 0

        def evaluate(self, phase):
            self.count += 1
            if self.count == 3:
                self.at_best = {name: tensor.clone() for name, tensor in self.eval_network.state_dict().items()}
            return {"accuracy": self.count if self.count <= 3 else 3 - self.count / 100}

    task = Worse()
    fitted = fit(task, PHASES[1:], replace(CONFIG, patience=4))
    assert [row["step"] for row in fitted.rows] == [10, 20, 30, 40, 50, 60, 70]
    assert fitted.best["step"] == 30
    for name, tensor in task.network.state_dict().items():
        assert torch.equal(tensor, task.at_best[name])


def test_the_learning_rate_follows_its_schedule():
    def learning_rates(name, **more):
        phase = Phase("all", 60, 1.0, schedule=name, **more)
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=phase.lr)
        schedule = SCHEDULES[name](optimizer, phase)
        rates = []
        for _ in range(phase.steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return rates

    cycle, restarts = learning_rates("one-cycle"), learning_rates("cosine-restarts", restart_steps=20)
    assert cycle[0] < 0.1 and max(cycle) == pytest.approx(1, abs=0.01) and cycle[-1] < 0.01
    assert restarts[0] == restarts[20] == 1 and restarts[19] < 0.01 and restarts[59] < 0.01
    straight = learning_rates("trapezoid", warmup=0.5, decay_fraction=0.25)
    assert straight[14] == pytest.approx(0.5) and straight[30] == 1 and straight[-1] == pytest.approx(1 / 15)


def test_each_example_comes_once_an_epoch_in_another_order():
    epochs = [np.concatenate([epoch_indices(step, 10, 4, seed=1) for step in range(e * 3, e * 3 + 3)]) for e in (0, 1)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert list(epochs[0]) != list(epochs[1])


def test_examples_with_more_weight_are_drawn_more_often():
    drawn = np.concatenate(
        [epoch_indices(step, 4, 50, seed=0, weights=np.array([0.7, 0.1, 0.1, 0.1])) for step in range(9)]
    )
    assert 0.6 < (drawn == 0).mean() < 0.8


def test_log_lines_do_not_mix_with_the_progress_bar(capsys, caplog):
    caplog.set_level(logging.INFO)
    console = logging.StreamHandler()
    logging.getLogger().addHandler(console)
    try:
        fit(Toy(), PHASES[:1], CONFIG)
    finally:
        logging.getLogger().removeHandler(console)
    lines = re.split(r"[\r\n]", capsys.readouterr().err)
    assert [line for line in lines if line.startswith("head: step 10, loss")]
    assert not [line for line in lines if "step/s]head" in line]


def test_without_warmup_the_ema_uses_the_same_decay_at_all_steps():
    class Recorder(Toy):
        def __init__(self):
            super().__init__()
            self.weights = []

        def evaluate(self, phase):
            self.weights.append(self.network.head[1].weight.detach().clone())
            return super().evaluate(phase)

    for constant_decay in (True, False):
        task = Recorder()
        fit(task, [Phase("all", 12, 1e-2)], TrainerConfig(eval_every=1, ema_decay=0.9, ema_warmup=not constant_decay))
        mean = task.weights[0]
        for weight in task.weights[1:]:
            mean = 0.9 * mean + 0.1 * weight
        assert torch.allclose(task.network.head[1].weight, mean, atol=1e-6) == constant_decay


def test_metrics_go_to_a_csv_file_and_to_tensorboard(full_run):
    with (full_run.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [row["step"] for row in full_run.history.rows]
    assert float(rows[-1]["accuracy"]) == full_run.history.rows[-1]["accuracy"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(full_run.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [row["step"] for row in full_run.history.rows]


def test_a_checkpoint_has_metadata_and_no_code(tmp_path):
    fit(Toy(), PHASES, CONFIG, tmp_path, metadata={"architecture": "toy", "labels": ("a", "b")})
    state = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    assert state["about"]["architecture"] == "toy"
    assert state["about"]["labels"] == ["a", "b"]
    json.dumps(state["about"])


def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(tmp_path):
    fit(Toy(), PHASES[:1], CONFIG, tmp_path, metadata={"architecture": "toy"})
    with pytest.raises(DataInvalid, match="architecture, running differ"):
        fit(Toy(), PHASES[:1], TrainerConfig(seed=1), tmp_path, resume=True, metadata={"architecture": "other"})


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut short", b"no zip at all"])
def test_a_broken_checkpoint_is_refused(tmp_path, damage):
    fit(Toy(), PHASES[:1], CONFIG, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(damage)
    with pytest.raises(DataInvalid, match="train without --resume"):
        fit(Toy(), PHASES[:1], CONFIG, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_last_checkpoint(tmp_path):
    class Diverging(Toy):
        def loss(self, batch, phase):
            loss = super().loss(batch, phase)
            return loss * float("nan") if len(self.drawn) == 15 else loss

    with pytest.raises(
        DataInvalid, match=r"At step 15 of head the loss is nan; train at a lower learning rate than 0\.01"
    ):
        fit(Diverging(), PHASES, CONFIG, tmp_path)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 10


def test_freezing_everything_is_an_error():
    with pytest.raises(DataInvalid, match="trains nothing"):
        fit(Toy(), [Phase("none", 5, 1e-3, frozen=("trunk.", "head."))], CONFIG)


def test_wandb_must_be_installed_to_be_used(monkeypatch):
    monkeypatch.setattr("moodreel.training.engine.logger.find_spec", lambda name: None)
    with pytest.raises(DataInvalid, match="pip install wandb"):
        fit(Toy(), PHASES, CONFIG, wandb="moodreel")


def test_an_unknown_or_missing_device_is_refused_and_auto_takes_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "mps", "tpu"):
        with pytest.raises(DataInvalid, match=f"no device '{name}' here; this machine has cpu"):
            resolve_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


def test_half_precision_depends_on_the_device_and_on_the_cpu_on_bf16(monkeypatch):
    cpu, cuda, mps = map(torch.device, ("cpu", "cuda", "mps"))
    assert autocast_dtype(cpu, bf16=False) is autocast_dtype(mps, bf16=True) is None
    assert autocast_dtype(cpu, bf16=True) is torch.bfloat16
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda supported=supported: supported)
        assert autocast_dtype(cuda, bf16=False) is dtype


def test_cuda_runs_deterministic_kernels_and_the_cpu_is_left_alone(monkeypatch):
    def flags():
        return torch.backends.cudnn.deterministic, torch.are_deterministic_algorithms_enabled()

    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    use_deterministic_kernels(torch.device("cpu"))
    assert flags() == (False, False)
    try:
        use_deterministic_kernels(torch.device("cuda"))
        assert flags() == (True, True)
    finally:
        torch.use_deterministic_algorithms(False)


def test_batches_come_in_order_and_are_made_ahead():
    made = [threading.Event() for _ in range(7)]
    batches = prefetch(range(7), lambda step: made[step].set() or step)
    for step in range(7):
        assert next(batches) == step
        assert all(event.wait(20) for event in made[: step + 2])
        assert not any(event.is_set() for event in made[step + 2 :])
    assert list(batches) == []


def test_for_a_gpu_batches_come_in_order_from_worker_processes():
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 3)  # OpenCV has its threads before the fork

    def make(step):
        if step == 9:
            raise DataInvalid("There is no face.")
        image = np.random.default_rng(step).integers(0, 256, (96, 96, 3), np.uint8)
        return step, torch.from_numpy(cv2.GaussianBlur(image, (0, 0), 3)), os.getpid()

    batches = list(prefetch(range(3, 9), make, workers=2))
    assert [step for step, *_ in batches] == list(range(3, 9))
    assert all(torch.equal(image, make(step)[1]) for step, image, _ in batches)
    makers = {maker for *_, maker in batches}
    assert len(makers) == 2 and os.getpid() not in makers
    with pytest.raises(DataInvalid, match="There is no face"):
        list(prefetch(range(3, 12), make, workers=2))


def test_the_thread_that_makes_batches_ends_with_them():
    makers = []

    def make(step):
        makers.append(threading.current_thread())
        if step == 2:
            raise DataInvalid("There is no face.")
        return step

    stopped = prefetch(range(7), make)
    next(stopped)
    stopped.close()
    with pytest.raises(DataInvalid):
        list(prefetch(range(7), make))
    assert len(set(makers)) == 2
    assert not any(maker.is_alive() for maker in makers)
