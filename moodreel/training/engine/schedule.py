"""Phases of training and their learning-rate schedules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler, OneCycleLR


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own learning rate and frozen parameters.

    Attributes:
        name: as log lines and metrics.csv show it.
        steps: updates of the weights.
        lr: highest learning rate of AdamW (Loshchilov & Hutter 2019).
        schedule: a name in `SCHEDULES`.
        warmup: fraction of the steps in which a trapezoid rises.
        decay_fraction: fraction of the steps in which a trapezoid falls to zero.
        restart_steps: steps of the first cosine; each next one is twice as long. 0 for a single one.
        frozen: name prefixes of parameters that are not trained ("trunk."). A module with no trained parameter stays
            in eval mode: no dropout, and its batch statistics do not move.
        lr_scales: factors of `lr` by name prefix; the longest prefix that fits a parameter counts.
        weight_decay: of weights; biases and normalization parameters have none.
        reset_from_ema: start from the EMA weights of the phase before and begin a new EMA, instead of going on from
            the last weights.
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


def _one_cycle(optimizer: Optimizer, phase: Phase) -> LRScheduler:
    """Rise and fall as a cosine (Smith & Topin 2019)."""
    return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=max(phase.steps, 2))


def _cosine_restarts(optimizer: Optimizer, phase: Phase) -> LRScheduler:
    """Fall as a cosine, then restart from the top for twice as long (SGDR, Loshchilov & Hutter 2017)."""
    return CosineAnnealingWarmRestarts(optimizer, phase.restart_steps or max(phase.steps, 1), T_mult=2)


def _trapezoid(optimizer: Optimizer, phase: Phase) -> LRScheduler:
    """Rise, stay and fall to zero in straight lines."""
    rise, fall = (max(1, round(phase.steps * fraction)) for fraction in (phase.warmup, phase.decay_fraction))
    return LambdaLR(optimizer, lambda step: min(1, (step + 1) / rise, (phase.steps - step) / fall))


SCHEDULES: dict[str, Callable[[Optimizer, Phase], LRScheduler]] = {
    "one-cycle": _one_cycle,
    "cosine-restarts": _cosine_restarts,
    "trapezoid": _trapezoid,
}
