"""Optimizer and train mode of a phase: what is trained, and at which rate."""

import torch
from torch import nn
from torch.optim import AdamW

from moodreel.errors import DataInvalid
from moodreel.training.engine.schedule import Phase


def build_optimizer(network: nn.Module, phase: Phase, betas: tuple[float, float]) -> AdamW:
    """Freeze what a phase freezes, and build AdamW for the rest, grouped by learning rate and weight decay.

    Raises:
        DataInvalid: all parameters are frozen.
    """
    groups: dict[tuple[float, float], list[torch.Tensor]] = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(phase.frozen))
        prefixes = [prefix for prefix in phase.lr_scales if name.startswith(prefix)]
        lr = phase.lr * (phase.lr_scales[max(prefixes, key=len)] if prefixes else 1)
        if parameter.requires_grad:
            groups.setdefault((lr, phase.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    if not groups:
        raise DataInvalid(f"In {phase.name} nothing is left to learn: all of it is frozen.")
    params = [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]
    return AdamW(params, lr=phase.lr, betas=betas)


def set_train_mode(network: nn.Module, phase: Phase) -> None:
    """Set train mode; modules whose parameters are all frozen stay in eval mode."""
    network.train()
    for name, module in network.named_modules():
        if f"{name}.".startswith(phase.frozen):
            module.eval()
