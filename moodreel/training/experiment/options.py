"""Declare options once: each field of an options dataclass has the help text, range and kind of its option."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from moodreel.errors import DataInvalid
from moodreel.training.data.registry import split_spec

PATH, DATASET, MODEL = "PATH", "NAME:PATH", "MODEL"
"""Kinds of options whose values are local to a machine. Model cards and commands leave the path out."""


def option(
    default: Any, help: str, bounds: str = "", *, kind: str = "", choices: Sequence[str] = (), old: str = ""
) -> Any:
    """Declare a field of an options dataclass.

    Args:
        default: Its default value, whose type is the type of the option.
        help: One line for `--help`.
        bounds: The interval of valid numbers, such as "[0, 1)" or "(0, inf)".
        kind: `PATH`, `DATASET` or `MODEL` for a value that is local to a machine.
        choices: All valid values.
        old: Deprecated names of the option, without dashes, separated by spaces.
    """
    metadata = {"help": help, "bounds": bounds, "kind": kind, "choices": tuple(choices), "old": old.split()}
    return field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """Return the command-line option of a field: "batch_size" is set by "--batch-size"."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True)
class Options:
    """A record of options, whose fields are declared with `option`.

    Raises:
        DataInvalid: A value is out of its range; the message names the option.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            value, bounds, choices = getattr(self, each.name), each.metadata["bounds"], each.metadata["choices"]
            if bounds and (expected := _violated(bounds, value)):
                raise DataInvalid(f"{flag(each.name)} must be {expected}; it is {value:g}.")
            if choices and value not in choices:
                names = ", ".join(filter(None, choices))
                raise DataInvalid(f"{flag(each.name)} must be one of {names}; it is {value!r}.")

    def record(self) -> dict[str, Any]:
        """Return the values for model.json, without local paths."""
        return {each.name: _without_path(each.metadata["kind"], getattr(self, each.name)) for each in fields(self)}

    def words(self, defaults: Self) -> list[str]:
        """Return the command-line options that differ from `defaults`, without local paths."""
        changed = {
            name: value for name, value in self.record().items() if getattr(self, name) != getattr(defaults, name)
        }
        return [f"{flag(name)} {shlex.quote(str(value))}" for name, value in changed.items()]


def _without_path(kind: str, value: Any) -> Any:
    if kind == DATASET and value:
        return f"{split_spec(value)[0]}:PATH"
    if kind == MODEL:
        return Path(value).name
    return PATH if kind == PATH and value else value


def _violated(bounds: str, value: float) -> str:
    """Describe the interval if a value is outside of it; "" if it is inside."""
    low, high = map(float, bounds[1:-1].split(", "))
    includes_low, includes_high = bounds[0] == "[", bounds[-1] == "]"
    if (value >= low if includes_low else value > low) and (value <= high if includes_high else value < high):
        return ""
    text = f"{'at least' if includes_low else 'more than'} {low:g}"
    return text if math.isinf(high) else f"{text} and {'at most' if includes_high else 'less than'} {high:g}"
