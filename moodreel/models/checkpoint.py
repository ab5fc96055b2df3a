"""Read weights from files of any origin without executing code in them."""

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from moodreel.errors import ModelInvalid

WRAPPERS = ("state_dict", "model_state_dict")
"""Keys under which training scripts store the weights beside other state."""

PREFIX = "module."
"""Prefix that `torch.nn.DataParallel` adds to every key."""


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file or a torch checkpoint, whatever the file's name.

    A torch checkpoint is unpickled with `weights_only=True`: tensors and plain containers, no code.

    Raises:
        ModelInvalid: The file is missing, is neither of the two, or holds no state dict.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelInvalid(
            f"There is no readable checkpoint {path.name!r}; check the name and its permissions."
        ) from error
    if not head:
        raise ModelInvalid(f"The checkpoint {path.name!r} is empty; copy or download it again.")
    if head.lstrip()[:1] == b"<":
        raise ModelInvalid(
            f"The checkpoint {path.name!r} is a web page: the download needed a login or was over its quota; download "
            "the file itself."
        )
    try:
        if head[8:9] == b"{":
            loaded = safetensors.torch.load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load passes on errors of its unpickler and zip reader
        raise ModelInvalid(
            f"The checkpoint {path.name!r} is incomplete, or is not a safetensors or weights-only torch file; copy or "
            "download it again, or save its state_dict() with safetensors."
        ) from error
    return _unwrap(loaded, path.name)


def load_state_dict(module: nn.Module, weights: dict[str, torch.Tensor], name: str) -> None:
    """Load weights into a module, without copying them where the dtype fits.

    Args:
        module: The module; it may be on the meta device.
        weights: Its state dict; each tensor is converted to the dtype that the module has.
        name: Name of the model, for errors.

    Raises:
        ModelInvalid: A tensor is missing, unexpected, of another shape or not finite.
    """
    expected = module.state_dict()
    problems = []
    if missing := [key for key in expected if key not in weights]:
        problems.append(f"missing {_shortened(missing)}")
    if unexpected := [key for key in weights if key not in expected]:
        problems.append(f"unexpected {_shortened(unexpected)}")
    for key in expected.keys() & weights.keys():
        if weights[key].shape != expected[key].shape:
            problems.append(f"{key} is {tuple(weights[key].shape)}, not {tuple(expected[key].shape)}")
        elif not torch.isfinite(weights[key]).all():
            problems.append(f"{key} holds numbers that are not finite")
    if problems:
        raise ModelInvalid(
            f"The weights of {name!r} do not fit the architecture: {'; '.join(problems[:4])}. Name the architecture "
            "and arguments they were trained with in a model.json beside them."
        )
    module.load_state_dict({key: weights[key].to(tensor.dtype) for key, tensor in expected.items()}, assign=True)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwrap(loaded: object, name: str) -> dict[str, torch.Tensor]:
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ModelInvalid(f"The checkpoint {name!r} holds no state dict; save the model's state_dict() by itself.")
    return {str(key).removeprefix(PREFIX): tensor for key, tensor in loaded.items()}


def _shortened(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
