"""The options of the training loop and the optimizer, shared by all tasks."""

from dataclasses import dataclass
from typing import Any

from moodreel.models.quantization import PRECISIONS
from moodreel.training.data.splits import SPLIT_BY
from moodreel.training.engine.schedule import SCHEDULES, Phase
from moodreel.training.engine.trainer import TrainerConfig
from moodreel.training.experiment.options import Options, option

MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class TrainConfig(Options):
    """Options of the training loop and the optimizer.

    Every task uses some of them (`Recipe.uses`). A preset sets their values; the command line may replace them.

    Raises:
        DataInvalid: A value is out of its range.
    """

    seed: int = option(0, "seed of all random numbers", f"[0, {MAX_SEED}]")
    epochs: int = option(20, "passes over the training examples", "[1, inf)", old="faces-epochs")
    steps: int = option(1000, "weight updates of the main phase", "[1, inf)")
    batch_size: int = option(64, "examples in a batch", "[1, inf)", old="batch faces faces-batch")
    lr: float = option(1e-3, "the highest learning rate", "(0, inf)", old="rate faces-rate")
    backbone_lr_scale: float = option(
        0.1, "learning rate of the backbone once it is no longer frozen, relative to --lr", "(0, inf)", old="trunk-rate"
    )
    schedule: str = option("one-cycle", "learning rate schedule", choices=tuple(SCHEDULES))
    restart_epochs: int = option(
        0, "epochs of the first cosine of cosine-restarts; 0 for a single cosine", "[0, inf)", old="restart"
    )
    warmup: float = option(
        0.1, "steps in which the learning rate rises; below 1: a fraction of all steps", "[0, inf)", old="warm"
    )
    decay_fraction: float = option(
        0.9, "fraction of the steps in which the learning rate falls to zero", "[0, 1]", old="cooling"
    )
    weight_decay: float = option(
        0.05, "AdamW's weight decay, not of biases and normalization layers", "[0, inf)", old="decay"
    )
    max_grad_norm: float = option(1.0, "the gradient's norm is clipped to this", "(0, inf)", old="clip")
    grad_accumulation: int = option(1, "batches whose gradients are summed for an update", "[1, inf)", old="accumulate")
    ema_decay: float = option(0.998, "decay of the moving average of the weights; 0 for none", "[0, 1)", old="average")
    label_smoothing: float = option(0.05, "fraction of each target spread over all labels", "[0, 1)", old="smoothing")
    mixup_alpha: float = option(0.2, "alpha of mixup's beta distribution; 0 for no mixup", "[0, inf)", old="mixup")
    mixup_prob: float = option(0.3, "fraction of the batches that are mixed up", "[0, 1]", old="mixed mix")
    class_weights: bool = option(False, "weigh the loss of a label by the inverse square root of its frequency")
    class_balance_power: float = option(
        0.4, "sample a label by its frequency to the power of minus this", "[0, inf)", old="rarity"
    )
    clean_prob: float = option(0.3, "fraction of the images that are hardly augmented", "[0, 1]", old="clean")
    freeze_epochs: int = option(0, "number of first epochs in which the backbone is frozen", "[0, inf)", old="frozen")
    val_fraction: float = option(
        0.08, "fraction of the training data for validation and calibration", "(0, 1)", old="kept held-out"
    )
    test_fraction: float = option(
        0.2, "fraction to test on, for data without a test part of its own", "(0, 1)", old="held-out"
    )
    split_by: str = option(
        "", "split by person or at random (which leaks); default: person", choices=("", *SPLIT_BY), old="by"
    )
    eval_every: int = option(
        1, "epochs, or steps for a preset with --steps, from one evaluation to the next", "[1, inf)", old="judged"
    )
    patience: int = option(0, "evaluations without an improvement after which training stops; 0 for never", "[0, inf)")
    bf16: bool = option(True, "compute in bfloat16 on a CPU; on CUDA it is always half precision", old="brief")
    weights: str = option("float16", "data type of the stored weights", choices=tuple(PRECISIONS))

    def warmup_fraction(self, steps: int) -> float:
        """Return the warmup of a phase as a fraction of its steps."""
        return self.warmup if self.warmup < 1 else min(self.warmup, steps) / max(steps, 1)

    def phase(self, name: str, steps: int, **fields: Any) -> Phase:
        """Return a phase of some steps. fields: further fields of `Phase`, which take precedence over the options."""
        names = ("lr", "schedule", "decay_fraction", "weight_decay")
        options = {"warmup": self.warmup_fraction(steps), **{name: getattr(self, name) for name in names}}
        return Phase(name, steps, **{**options, **fields})

    def trainer_config(self, eval_steps: int, **fields: object) -> TrainerConfig:
        """Return the trainer's configuration.

        Args:
            eval_steps: Steps from one evaluation to the next.
            **fields: Further fields of `TrainerConfig`; they take precedence over the options.
        """
        names = ("seed", "grad_accumulation", "max_grad_norm", "ema_decay", "patience", "bf16")
        config: dict[str, Any] = {"eval_every": eval_steps, **{name: getattr(self, name) for name in names}}
        return TrainerConfig(**{**config, **fields})
