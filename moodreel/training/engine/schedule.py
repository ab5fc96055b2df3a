"""How the rate of learning goes up and down in a phase."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler, OneCycleLR

if TYPE_CHECKING:
    from moodreel.training.engine.trainer import Phase


def _one_cycle(optimiser: Optimizer, phase: "Phase") -> LRScheduler:
    """Up and down again as a cosine (Smith & Topin 2019)."""
    highest = [group["lr"] for group in optimiser.param_groups]
    return OneCycleLR(optimiser, highest, total_steps=max(phase.steps, 2))


def _cosine_restarts(optimiser: Optimizer, phase: "Phase") -> LRScheduler:
    """Down as a cosine, and again from the top, for twice as long (SGDR, Loshchilov & Hutter 2017)."""
    return CosineAnnealingWarmRestarts(optimiser, phase.restart_steps or max(phase.steps, 1), T_mult=2)


def _trapezoid(optimiser: Optimizer, phase: "Phase") -> LRScheduler:
    """Up, level, and down to zero in straight lines."""
    rising, falling = (max(1, round(phase.steps * share)) for share in (phase.warmup, phase.decay_fraction))
    return LambdaLR(optimiser, lambda step: min(1, (step + 1) / rising, (phase.steps - step) / falling))


SCHEDULES: dict[str, Callable[[Optimizer, "Phase"], LRScheduler]] = {
    "one-cycle": _one_cycle,
    "cosine-restarts": _cosine_restarts,
    "trapezoid": _trapezoid,
}
