"""Choose the device of a run, its autocast dtype, and deterministic kernels; move batches to it."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from moodreel.errors import DataInvalid

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Values of `--device`."""


def resolve_device(name: str) -> torch.device:
    """Return the device for one of `DEVICES`: "auto" is the first available one of CUDA, MPS and the CPU.

    Raises:
        DataInvalid: this machine has no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, usable in available.items() if usable)
    if not available.get(name):
        kinds = ", ".join(kind for kind, usable in available.items() if usable)
        raise DataInvalid(f"There is no device {name!r} here; this machine has {kinds}.")
    return torch.device(name)


def autocast_dtype(device: torch.device, *, bf16: bool) -> torch.dtype | None:
    """Return the dtype that forward passes are computed in by autocast; None for plain float32.

    CUDA always computes in half precision: bfloat16, or float16 where the GPU lacks it. The CPU computes in bfloat16 if
    `bf16` is set. MPS computes in float32: PyTorch has no gradient scaler for its float16.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if bf16 and device.type == "cpu" else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return an autocast context; one that does nothing where `dtype` is None."""
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Use deterministic CUDA kernels where PyTorch has them, so that one seed gives the same weights again.

    An operation without such a kernel warns. Does nothing on the CPU, which is deterministic, or on MPS, which has no
    such mode: there one seed may give other weights.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first call
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn.deterministic, cudnn.benchmark = True, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, enabled = before
        torch.use_deterministic_algorithms(enabled, warn_only=warned)


def to_device(value: Any, device: torch.device) -> Any:
    """Move all tensors in a batch: in tuples, lists, mappings and dataclasses, at any depth.

    Values without tensors are returned as they are.
    """
    if isinstance(value, torch.Tensor):
        if device.type == "cuda" and value.device.type == "cpu":
            return value.pin_memory().to(device, non_blocking=True)
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(each, device) for key, each in value.items()}
    if isinstance(value, tuple | list):
        moved = [to_device(each, device) for each in value]
        return moved if isinstance(value, list) else tuple(moved)
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: getattr(value, field.name) for field in fields(value)}
        changed = {name: new for name, each in own.items() if (new := to_device(each, device)) is not each}
        return replace(value, **changed) if changed else value
    return value
