"""Write a model's folder: weights and model.json."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from moodreel.models.checkpoint import file_sha256
from moodreel.models.registry import CARD_FILE, WEIGHTS_FILE


def write_folder(out: Path, state: dict[str, torch.Tensor], fields: dict[str, Any], *, data: str, licence: str) -> None:
    """Write weights.safetensors and a model.json without metrics.

    Args:
        out: The model's folder.
        state: The weights, in the data type to store.
        fields: Fields of model.json, except name, version, data, licence and sha256.
        data: Description of the training data.
        licence: License of the weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    save_weights(out / WEIGHTS_FILE, state)
    recipe = {"recipe": fields.pop("recipe")}
    stated = {"data": data, "licence": licence, "sha256": file_sha256(out / WEIGHTS_FILE)}
    write_json(out, {"name": out.name, "version": "1", **fields, **stated, **recipe})


def save_weights(file: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write weights to a new file and rename it: the contents of a file that a process has mapped must not change."""
    new_file = file.with_name(f"{file.name}.new")
    safetensors.torch.save_file(state, new_file, metadata)
    # safetensors gives only the owner access; a service seldom runs as the user who trained the model.
    new_file.chmod(0o644)
    new_file.replace(file)


def evaluation_command(name: str, data: str) -> str:
    """Return the command that evaluates a model on a data set, by the name of that set."""
    return f"python -m moodreel.training evaluate {name} --data {data}:PATH"


def write_json(out: Path, card: dict[str, Any]) -> None:
    """Write a folder's model.json atomically: without it the folder would not be a model."""
    new_file = out / f"{CARD_FILE}.new"
    new_file.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new_file.replace(out / CARD_FILE)
