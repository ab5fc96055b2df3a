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
        fields: Of model.json, except name, version, data, licence and sha256.
        data: What the model was trained on.
        licence: License of the weights, under the key that model.json has for it.
    """
    out.mkdir(parents=True, exist_ok=True)
    save_weights(out / WEIGHTS_FILE, state)
    recipe = {"recipe": fields.pop("recipe")}
    stated = {"data": data, "licence": licence, "sha256": file_sha256(out / WEIGHTS_FILE)}
    write_json(out, {"name": out.name, "version": "1", **fields, **stated, **recipe})


def save_weights(file: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write weights beside a file, and move them there: what a process has mapped into memory must not change."""
    made = file.with_name(f"{file.name}.new")
    safetensors.torch.save_file(state, made, metadata)
    # safetensors writes for the owner alone; a service seldom runs as the user who trained.
    made.chmod(0o644)
    made.replace(file)


def evaluation_command(name: str, data: str) -> str:
    """Return the command that measures a model. data: the name of a data set."""
    return f"python -m moodreel.training evaluate {name} --data {data}:PATH"


def write_json(out: Path, card: dict[str, Any]) -> None:
    """Write a folder's model.json atomically: without it the folder is no model any more."""
    made = out / f"{CARD_FILE}.new"
    made.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    made.replace(out / CARD_FILE)
