"""Phases of training: trained parameters, optimizer and learning-rate schedule of each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR, LRScheduler, OneCycleLR

from moodreel.errors import DataInvalid


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own learning rate and frozen parameters.

    Attributes:
        name: Name in log lines and metrics.csv.
        steps: Number of optimizer steps.
        lr: Highest learning rate of AdamW (Loshchilov & Hutter 2019).
        schedule: A name in `SCHEDULES`.
        warmup: Fraction of the steps in which a trapezoid rises.
        decay_fraction: Fraction of the steps in which a trapezoid falls to zero.
        restart_steps: Steps of the first cosine; each later one is twice as long. 0 for a single one.
        frozen: Name prefixes of parameters that are not trained ("trunk."). Modules with these prefixes stay in eval
            mode: no dropout, and fixed batch statistics.
        lr_scales: Factors of `lr` by name prefix; the longest prefix that matches a parameter counts.
        weight_decay: Weight decay of weights; biases and normalization parameters have none.
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


def _one_cycle(optimizer: Optimizer, phase: Phase) -> LRScheduler:
    """Rise and fall as a cosine (Smith & Topin 2019)."""
    return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=max(phase.steps, 2))


def _cosine_restarts(optimizer: Optimizer, phase: Phase) -> LRScheduler:
    """Fall as a cosine, then restart from the top for twice as long (SGDR, Loshchilov & Hutter 2017)."""
    return CosineAnnealingWarmRestarts(optimizer, phase.restart_steps or max(phase.steps, 1), T_mult=2)


def _trapezoid(optimizer: Optimizer, phase: Phase) -> LRScheduler:
    """Rise linearly, stay, and fall linearly to zero."""
    rise, fall = (max(1, round(phase.steps * fraction)) for fraction in (phase.warmup, phase.decay_fraction))
    return LambdaLR(optimizer, lambda step: min(1, (step + 1) / rise, (phase.steps - step) / fall))


SCHEDULES: dict[str, Callable[[Optimizer, Phase], LRScheduler]] = {
    "one-cycle": _one_cycle,
    "cosine-restarts": _cosine_restarts,
    "trapezoid": _trapezoid,
}


def build_optimizer(network: nn.Module, phase: Phase, betas: tuple[float, float]) -> AdamW:
    """Freeze the parameters that a phase freezes, and build AdamW for the others, grouped by learning rate and decay.

    Raises:
        DataInvalid: All parameters are frozen.
    """
    groups: dict[tuple[float, float], list[torch.Tensor]] = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(phase.frozen))
        prefixes = [prefix for prefix in phase.lr_scales if name.startswith(prefix)]
        lr = phase.lr * (phase.lr_scales[max(prefixes, key=len)] if prefixes else 1)
        if parameter.requires_grad:
            groups.setdefault((lr, phase.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    if not groups:
        raise DataInvalid(f"Phase {phase.name} trains nothing: all parameters are frozen; freeze fewer.")
    params = [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]
    return AdamW(params, lr=phase.lr, betas=betas)


def set_train_mode(network: nn.Module, phase: Phase) -> None:
    """Set train mode, except in modules that the phase freezes: they are in eval mode."""
    network.train()
    for name, module in network.named_modules():
        if f"{name}.".startswith(phase.frozen):
            module.eval()
