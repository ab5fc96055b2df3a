"""What a run keeps to go on from: written whole or not at all, and read without running what is in it."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from moodreel.errors import DataInvalid

CHECKPOINT = "checkpoint.pt"


def plain(values: Any) -> Any:
    """The same in what a checkpoint may hold without running code: dicts, lists, numbers, words."""
    if isinstance(values, Mapping):
        return {str(key): plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value) for value in values]
    return values if is_plain(values) else str(values)


def is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def only_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a checkpoint cannot hold: functions, which whoever goes on has anyway."""
    return {name: value for name, value in values.items() if is_plain(value)}


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(".new")
    torch.save(state, made)
    made.replace(path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; it holds tensors and plain values, no code. Raises DataInvalid."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["about"], state["network"]
    except (OSError, RuntimeError, UnpicklingError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DataInvalid(
            f"{path} is no checkpoint of this program, or broken; train without --resume, or "
            "where --heard named its run, name another."
        ) from error
    return state


def resume(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Read the checkpoint of a run that is to go on. Raises DataInvalid where it is of another one."""
    state = read_checkpoint(path)
    theirs = state["about"]
    if differ := [name for name in about.keys() | theirs.keys() if about.get(name) != theirs.get(name)]:
        raise DataInvalid(
            f"{path} is of another run: {', '.join(sorted(differ))} differ. Train as it was, or without --resume."
        )
    return state
