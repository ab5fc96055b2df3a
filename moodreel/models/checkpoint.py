"""Read weights from a file of any origin without running what is in it."""

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from moodreel.errors import ModelInvalid

WRAPPERS = ("state_dict", "model_state_dict")
"""Keys under which training scripts keep the weights among other things."""

PREFIX = "module."
"""What `torch.nn.DataParallel` puts before every key."""


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file or a torch checkpoint, told apart by content.

    A torch checkpoint is unpickled with `weights_only=True`: it can hold tensors and plain containers, no code.
    Raises ModelInvalid.
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
            f"The checkpoint {path.name!r} is a web page, as a download gives that needs a login or is over its quota; "
            "download the file itself."
        )
    try:
        if head[8:9] == b"{":
            loaded = safetensors.torch.load_file(path)
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler and its zip reader stumble over
        raise ModelInvalid(
            f"The checkpoint {path.name!r} is incomplete, or no weights-only torch or safetensors file; copy or "
            "download it again, or save its state_dict() with safetensors."
        ) from error
    return _unwrap(loaded, path.name)


def load_state_dict(module: nn.Module, weights: dict[str, torch.Tensor], name: str) -> None:
    """Put weights into a module, each at its place and none left over.

    The tensors become the module's own, as float32 where the module has floats. Raises ModelInvalid naming what is
    missing, unexpected, of another shape or not finite.
    """
    expected = module.state_dict()
    complaints = []
    if missing := [key for key in expected if key not in weights]:
        complaints.append(f"missing {_some(missing)}")
    if unexpected := [key for key in weights if key not in expected]:
        complaints.append(f"unexpected {_some(unexpected)}")
    for key in expected.keys() & weights.keys():
        if weights[key].shape != expected[key].shape:
            complaints.append(f"{key} is {tuple(weights[key].shape)}, not {tuple(expected[key].shape)}")
        elif not torch.isfinite(weights[key]).all():
            complaints.append(f"{key} holds numbers that are not finite")
    if complaints:
        raise ModelInvalid(
            f"The weights of {name!r} do not fit the architecture: {'; '.join(complaints[:4])}. Name the architecture "
            "and arguments they were trained with in a model.json beside them."
        )
    module.load_state_dict({key: weights[key].to(tensor.dtype) for key, tensor in expected.items()}, assign=True)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unwrap(loaded: object, name: str) -> dict[str, torch.Tensor]:
    for key in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise ModelInvalid(f"The checkpoint {name!r} holds no state dict; save the model's state_dict() by itself.")
    return {str(key).removeprefix(PREFIX): tensor for key, tensor in loaded.items()}


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
