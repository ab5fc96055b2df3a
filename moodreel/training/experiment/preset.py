"""Read presets: TOML files, each with the complete recipe of a model."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "presets"


@dataclass(frozen=True)
class Preset:
    """The content of a preset file.

    Attributes:
        name: The file's name without .toml.
        description: One line for `--help`.
        task: The name of the recipe that trains it (`recipes.task_table.RECIPES`).
        architecture: The network's name in model.json.
        model: Keyword arguments of the network.
        training: Values of fields of `TrainConfig`; the others keep their defaults.
        task_options: The same for the task's own options.
    """

    name: str
    description: str
    task: str
    architecture: str
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    task_options: Mapping[str, Any] = field(default_factory=dict)


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def load_preset(name: str) -> Preset:
    """Read a preset, one of `preset_names`."""
    return Preset(name, **tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8")))
