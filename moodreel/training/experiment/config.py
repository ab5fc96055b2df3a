"""A study: one architecture, one data set, and everything that decides what comes out."""

import math
from dataclasses import dataclass
from typing import Any

from moodreel.errors import DataInvalid
from moodreel.models.model_card import AUDIO_VISUAL
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.trainer import TrainerConfig
from moodreel.training.experiment.audiovisual_inputs import SMALL_FACES
from moodreel.training.experiment.classification import LossConfig

BACKBONES = {
    AUDIO_VISUAL: ("trunk.",),
    "compact-emotimesh": ("encoder.", "mean", "std"),
    "resnet-50": ("network.resnet.",),
    "temporal-vit": ("frame.",),
    "vit-b-16": ("network.vit.",),
}
"""First words of the names of what may stay frozen at first, by architecture: what pretrained weights are for."""

_LEAST = dict.fromkeys(("epochs", "batch", "accumulate", "judged"), 1) | dict.fromkeys(
    ("seed", "frozen", "restart", "decay", "mixup", "rarity", "patience", "small"), 0
)
_SHARES = ("average", "smoothing", "mixed", "clean", "kept", "held_out", "video", "audio")
_ABOVE_NOTHING = ("rate", "trunk_rate", "clip", "kept", "held_out")
_BELOW_ALL = ("average", "smoothing", "kept", "held_out")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what comes out, besides architecture, arguments and data.

    Raises DataInvalid for a number that nothing can be trained by, before anything is read or found.

    epochs: how often each example is shown. frozen: of these, those at first in which the trunk stays as it is.
    rate: the highest. trunk_rate: the trunk's, in parts of the rate, once it is no longer frozen.
    schedule: one-cycle, cosine-restarts or trapezoid. restart: epochs of the first cosine; 0 for one that lasts.
    batch, accumulate: examples at a time, and how many times for each step.
    decay, clip, average, smoothing, mixup, mixed, class_weights, rarity: see `Phase`, `Running` and `Manner`.
    judged: epochs from one judgement, and one checkpoint, to the next.
    patience: judgements without a better one after which training ends; 0 for never. Then the weights of
        the best one are kept, or else the last.
    clean: share of the faces that are hardly disturbed.
    kept: share of what is learnt from that is not learnt from, but judged by and calibrated on.
    by: person, random (which leaks), or nothing for the best split there is. held_out: share to measure on, of a set
        that has no such part of its own.
    small: of the epochs, those of an audio-visual network on pictures in which faces are shown small.
    video, audio: shares of the windows with both a face and a voice that lose the one or the other.
    brief: whether to compute in bfloat16 on a CPU too.
    weights: how they are stored: float32, float16 or int8.
    """

    seed: int = 0
    epochs: int = 20
    frozen: int = 0
    rate: float = 1e-3
    trunk_rate: float = 0.1
    schedule: str = "one-cycle"
    restart: int = 0
    batch: int = 64
    accumulate: int = 1
    decay: float = 0.05
    clip: float = 1.0
    average: float = 0.998
    smoothing: float = 0.05
    mixup: float = 0.2
    mixed: float = 0.3
    class_weights: bool = False
    rarity: float = 0.4
    judged: int = 1
    patience: int = 0
    clean: float = 0.3
    kept: float = 0.08
    by: str = ""
    held_out: float = 0.2
    small: int = 0
    video: float = 0.15
    audio: float = 0.15
    brief: bool = True
    weights: str = "float16"

    def __post_init__(self) -> None:
        for name in sorted({*_LEAST, *_SHARES, *_ABOVE_NOTHING}):
            self._check(name, getattr(self, name))
        if self.video + self.audio > 1:
            raise DataInvalid(f"--video and --audio are at most 1 together; {self.video + self.audio:g} is not.")

    def _check(self, name: str, value: float) -> None:
        least, most = _LEAST.get(name, 0), 1 if name in _SHARES else math.inf
        if (
            not least <= value <= most
            or math.isinf(value)
            or (value == 0 and name in _ABOVE_NOTHING)
            or (value == 1 and name in _BELOW_ALL)
        ):
            over = f"more than {least}" if name in _ABOVE_NOTHING else f"{least} or more"
            under = "" if name not in _SHARES else ", less than 1" if name in _BELOW_ALL else ", up to 1"
            raise DataInvalid(f"--{name.replace('_', '-')} takes {over}{under}; {value:g} is not.")

    @property
    def loss_config(self) -> LossConfig:
        return LossConfig(
            batch=self.batch,
            smoothing=self.smoothing,
            mixup=self.mixup,
            mixed=self.mixed,
            class_weights=self.class_weights,
            rarity=self.rarity,
        )

    def trainer_config(self, epoch: int) -> TrainerConfig:
        """How the loop runs. epoch: batches of one."""
        return TrainerConfig(
            seed=self.seed,
            grad_accumulation=self.accumulate,
            max_grad_norm=self.clip,
            ema_decay=self.average,
            eval_every=self.judged * self._steps(epoch),
            patience=self.patience,
            bf16=self.brief,
        )

    def phases(self, architecture: str, epoch: int, idle: tuple[str, ...] = ()) -> tuple[Phase, ...]:
        """Two phases, where a trunk is frozen at first, or one.

        epoch: batches of one. idle: first words of the names of what has nothing to learn from, and stays as it is.
        """
        trunk, steps = BACKBONES.get(architecture, ()), self._steps(epoch)
        frozen = min(self.frozen, self.epochs) if trunk else 0
        common: dict[str, Any] = {
            "lr": self.rate,
            "schedule": self.schedule,
            "restart_steps": self.restart * steps,
            "weight_decay": self.decay,
        }
        first = Phase("trunk frozen", frozen * steps, frozen=(*trunk, *idle), **common)
        slower = dict.fromkeys(trunk, self.trunk_rate) if frozen else {}
        small = Phase(
            SMALL_FACES, min(self.small, self.epochs - frozen) * steps, frozen=idle, lr_scales=slower, **common
        )
        rest = Phase("all", self.epochs * steps - first.steps - small.steps, frozen=idle, lr_scales=slower, **common)
        return tuple(phase for phase in (first, small, rest) if phase.steps)

    def _steps(self, epoch: int) -> int:
        return max(1, epoch // self.accumulate)
