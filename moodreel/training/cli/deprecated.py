"""Old verbs, options and values, accepted for one release with a notice that names the new one."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from moodreel.training.experiment.preset import preset_names

VERBS = {"movements": ["train", "movements"], "baseline": ["train", "audio-logreg"]}
MODEL_ARGUMENTS = ("width", "embedding", "hidden", "dropout", "blank", "patch", "heads", "layers")
"""Arguments of networks that are deprecated as options of `train`."""
GPU = {"0": "cpu", "1": "cuda"}
"""Value of --device for each value of --gpu."""


def replace_verb(arguments: Sequence[str]) -> list[str]:
    """Replace a deprecated verb by the present one, with a notice."""
    words = list(arguments)
    old, new = words[:1], VERBS.get("".join(words[:1]))
    if old == ["fit"] and len(words) > 1:
        classifier = f"{words[1]}-classifier"
        old, new = words[:2], ["train", classifier if classifier in preset_names() else words[1]]
    if new is None:
        return words
    notice(" ".join(old), " ".join(new))
    return new + words[len(old) :]


def add_deprecated(
    parser: argparse.ArgumentParser,
    option: argparse.Action,
    *old: str,
    new: str = "",
    type: Callable[[str], Any] | None = None,
) -> None:
    """Add old names of an option, which `--help` does not show.

    Args:
        parser: The parser to add them to.
        option: The present option, which does the work.
        *old: Old names, with dashes.
        new: Replacement that the notice names; the option's name by default.
        type: Converts an old value to the present one.
    """
    parser.add_argument(*old, action=_Deprecated, option=option, new=new, type=type or option.type or str)


class _Deprecated(argparse.Action):
    """Print a notice, and do what the present option does."""

    def __init__(self, option_strings: Sequence[str], dest: str, option: argparse.Action, new: str, type: Any) -> None:
        hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        super().__init__(option_strings, dest, nargs=option.nargs, choices=option.choices, type=type, **hidden)
        self._option, self._new = option, new or option.option_strings[0]

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        notice(option_string, self._new)
        self._option(parser, namespace, values, option_string)


def notice(old: str, new: str) -> None:
    """Print that something is deprecated, and its replacement."""
    print(f"moodreel.training: {old} is deprecated and will be removed; use {new}.", file=sys.stderr)
