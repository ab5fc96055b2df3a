"""Write checkpoints atomically, and read them without running code in them."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from moodreel.errors import DataInvalid

CHECKPOINT = "checkpoint.pt"
"""File in the folder of a run."""

State = dict[str, Any]
"""Content of a checkpoint by name: tensors, state dicts, and plain values."""


def to_plain(values: Mapping[str, object]) -> dict[str, object]:
    """Convert values to types that load without running code: dicts, lists, numbers and strings."""
    converted: dict[str, object] = json.loads(
        json.dumps(values, default=lambda value: dict(value) if isinstance(value, Mapping) else str(value))
    )
    return converted


def save(path: Path, state: State) -> None:
    """Write a checkpoint atomically; if that fails, the previous one stays. Raises DataInvalid."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    try:
        torch.save(state, partial)
    except RuntimeError as error:  # PyTorch also raises it for a full disk
        partial.unlink(missing_ok=True)
        raise DataInvalid(
            f"{path} cannot be written; make room on its disk, and continue with the same command and --resume."
        ) from error
    partial.replace(path)


def resume(path: Path, about: Mapping[str, object]) -> State:
    """Read the checkpoint of a run into CPU memory, to continue the run; it may hold only tensors and plain values.

    Args:
        path: The checkpoint.
        about: Metadata, trainer's config and phases of the continued run.

    Raises:
        DataInvalid: The checkpoint is broken, or has another `about`.
    """
    try:
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        saved, _ = state["about"], state["network"]
    except (OSError, RuntimeError, UnpicklingError, zipfile.BadZipFile, KeyError, TypeError, EOFError) as error:
        raise DataInvalid(
            f"{path} is not a checkpoint of this program, or is broken; train without --resume."
        ) from error
    if differ := [name for name in about.keys() | saved.keys() if about.get(name) != saved.get(name)]:
        raise DataInvalid(
            f"{path} belongs to another run: {', '.join(sorted(differ))} differ. Train with the same options as "
            "before, or without --resume."
        )
    return state
