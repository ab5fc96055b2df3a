"""Check the numbers on a command line."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

_Number = TypeVar("_Number", int, float)


def number(cast: Callable[[str], _Number], low: float, high: float) -> Callable[[str], _Number]:
    """Make an argparse type: a number in a range."""

    def parse(text: str) -> _Number:
        try:
            value = cast(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
        if not low <= value <= high:
            allowed = f"from {low:g} to {high:g}" if high < math.inf else f"{low:g} or more"
            raise argparse.ArgumentTypeError(f"{text} is not {allowed}")
        return value

    return parse
