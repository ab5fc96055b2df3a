"""Declare options once: each field of an options dataclass carries the help text, range and kind of its option."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import Field, field, fields
from pathlib import Path
from typing import Any

from moodreel.errors import DataInvalid

PATH, DATASET, MODEL = "PATH", "NAME:PATH", "MODEL"
"""Kinds of an option whose text names something of one machine. Model cards and commands leave the path out."""

_INTERVAL = re.compile(r"([\[(])(\S+), (\S+)([\])])")


def option(default: Any, help: str, bounds: str = "", *, kind: str = "", choices: Sequence[str] = ()) -> Any:
    """Declare a field of an options dataclass.

    Args:
        default: Its default value. The type of the option is that of the default.
        help: One line for `--help`.
        bounds: The interval of valid numbers, such as "[0, 1)". Infinite values are never valid.
        kind: `PATH`, `DATASET` or `MODEL` for text that names something of one machine.
        choices: All valid values.
    """
    return field(default=default, metadata={"help": help, "bounds": bounds, "kind": kind, "choices": tuple(choices)})


def flag(name: str) -> str:
    """Return the command-line option of a field: "batch_size" is set by "--batch-size"."""
    return "--" + name.replace("_", "-")


def validate(options: Any) -> None:
    """Check all fields of an options dataclass. Raises DataInvalid that names the option."""
    for each in fields(options):
        value, bounds, choices = getattr(options, each.name), each.metadata["bounds"], each.metadata["choices"]
        if bounds and not _contains(bounds, value):
            raise DataInvalid(f"{flag(each.name)} takes {_describe(bounds)}; {value:g} is not.")
        if choices and value not in choices:
            raise DataInvalid(f"{flag(each.name)} is one of {', '.join(filter(None, choices))}, not {value!r}.")


def changed(options: Any, defaults: Any) -> Iterator[tuple[Field[Any], Any]]:
    """Yield the fields of which two objects of one options dataclass have other values, and the first one's value."""
    for each in fields(options):
        if getattr(options, each.name) != getattr(defaults, each.name):
            yield each, getattr(options, each.name)


def without_path(each: Field[Any], value: Any) -> Any:
    """Return an option's value as a model card may show it: without paths of this machine."""
    kind = each.metadata["kind"]
    if kind == DATASET and value:
        return f"{value.partition(':')[0]}:PATH"
    if kind == MODEL:
        return Path(value).name
    return PATH if kind == PATH and value else value


def as_record(options: Any) -> dict[str, Any]:
    """Return the values of an options dataclass for model.json, without paths of this machine."""
    return {each.name: without_path(each, getattr(options, each.name)) for each in fields(options)}


def _parse(bounds: str) -> tuple[bool, float, float, bool]:
    match = _INTERVAL.fullmatch(bounds)
    assert match, bounds
    return match[1] == "(", float(match[2]), float(match[3]), match[4] == ")"


def _contains(bounds: str, value: float) -> bool:
    open_low, low, high, open_high = _parse(bounds)
    at_edge = (open_low and value == low) or (open_high and value == high)
    return low <= value <= high and not at_edge and not math.isinf(value)


def _describe(bounds: str) -> str:
    open_low, low, high, open_high = _parse(bounds)
    text = f"more than {low:g}" if open_low else f"{low:g} or more"
    if math.isinf(high):
        return text
    return f"{text}, less than {high:g}" if open_high else f"{text}, up to {high:g}"
