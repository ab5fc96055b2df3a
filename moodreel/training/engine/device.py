"""Choose the device of a run, its autocast dtype, and deterministic kernels."""

import os

import torch

from moodreel.errors import DataInvalid

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Values of `--device`."""


def resolve_device(name: str) -> torch.device:
    """Return the device for one of `DEVICES`: "auto" is the first available one of CUDA, MPS and the CPU.

    Raises:
        DataInvalid: This machine has no such device.
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


def use_deterministic_kernels(device: torch.device) -> None:
    """Use deterministic CUDA kernels where PyTorch has them, so that one seed gives the same weights again.

    An operation without such a kernel warns. Does nothing on the CPU, which is deterministic, or on MPS, which has no
    such mode: there one seed may give other weights.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it at its first call
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True, warn_only=True)
