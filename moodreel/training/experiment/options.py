"""Declare options once: each field of an options dataclass carries the help text, range and kind of its option."""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from moodreel.errors import DataInvalid

PATH, DATASET, MODEL = "PATH", "NAME:PATH", "MODEL"
"""Kinds of an option whose text names something of one machine. Model cards and commands leave the path out."""


def option(
    default: Any, help: str, bounds: str = "", *, kind: str = "", choices: Sequence[str] = (), old: str = ""
) -> Any:
    """Declare a field of an options dataclass.

    Args:
        default: Its default value. The type of the option is that of the default.
        help: One line for `--help`.
        bounds: The interval of valid numbers, such as "[0, 1)" or "(0, inf)".
        kind: `PATH`, `DATASET` or `MODEL` for text that names something of one machine.
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
                raise DataInvalid(f"{flag(each.name)} takes {expected}; {value:g} is not.")
            if choices and value not in choices:
                raise DataInvalid(f"{flag(each.name)} is one of {', '.join(filter(None, choices))}, not {value!r}.")

    def record(self) -> dict[str, Any]:
        """Return the values for model.json, without paths of this machine."""
        return {each.name: _without_path(each.metadata["kind"], getattr(self, each.name)) for each in fields(self)}

    def words(self, defaults: Self) -> list[str]:
        """Return the options of a command that makes this record of `defaults`, without paths of this machine."""
        changed = {
            name: value for name, value in self.record().items() if getattr(self, name) != getattr(defaults, name)
        }
        return [f"{flag(name)} {shlex.quote(str(value))}" for name, value in changed.items()]


def _without_path(kind: str, value: Any) -> Any:
    if kind == DATASET and value:
        return f"{value.partition(':')[0]}:PATH"
    if kind == MODEL:
        return Path(value).name
    return PATH if kind == PATH and value else value


def _violated(bounds: str, value: float) -> str:
    """Return what a value has to be, or "" if it is in the interval."""
    low, high = map(float, bounds[1:-1].split(", "))
    from_low, to_high = bounds[0] == "[", bounds[-1] == "]"
    if (value >= low if from_low else value > low) and (value <= high if to_high else value < high):
        return ""
    text = f"{low:g} or more" if from_low else f"more than {low:g}"
    return text if math.isinf(high) else f"{text}, {'up to' if to_high else 'less than'} {high:g}"
