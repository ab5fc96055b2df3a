"""Render model cards (CARD.md) from the templates in moodreel/training/templates."""

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from moodreel.models.registry import CARD_FILE, find_weights
from moodreel.training.export.model_folder import write_json

TEMPLATES = Path(__file__).resolve().parents[1] / "templates"
WIDTH = 118
"""Characters after which lines of a card are wrapped."""

_environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    autoescape=False,
)
_environment.filters["combine"] = lambda first, second: {**first, **second}
_environment.filters["percent"] = lambda value: f"{value:.0%}"
_environment.filters["g"] = lambda value: f"{value:g}"
_environment.filters["fixed"] = lambda value, digits=3: "" if value is None else f"{value:.{digits}f}"


def write_card(out: Path, template: str, metrics: list[dict[str, Any]], **values: Any) -> None:
    """Add metrics to a folder's model.json, and write its CARD.md.

    Args:
        out: The model's folder, with weights and model.json.
        template: A file in `TEMPLATES`.
        metrics: Entries for model.json.
        **values: Values for the template, besides the fields of model.json (`fields`).
    """
    fields = json.loads((out / CARD_FILE).read_text(encoding="utf-8"))
    fields["metrics"] = metrics
    write_json(out, fields)
    (out / "CARD.md").write_text(render(template, fields=fields, **values), encoding="utf-8")


def metric_entries(values: Mapping[str, float | None], data: str, command: str) -> list[dict[str, Any]]:
    """Return the entries of model.json for metrics by name; metrics that are None are left out."""
    source = {"data": data, "command": command}
    return [{"name": name, "value": round(value, 4), **source} for name, value in values.items() if value is not None]


def megabytes(out: Path) -> float:
    """Return the size of the weights in a model's folder, in megabytes (10⁶ bytes)."""
    return find_weights(out).stat().st_size / 1e6


def render(template: str, **values: Any) -> str:
    """Render a template, with paragraphs and list items wrapped, and runs of blank lines merged."""
    lines: list[str] = []
    in_code = False
    for line in _environment.get_template(template).render(**values).splitlines():
        in_code ^= line.startswith("```")
        if in_code or line.startswith(("|", "#", "```")) or len(line) <= WIDTH:
            if line or (lines and lines[-1]):
                lines.append(line)
            continue
        indent = "  " if line.startswith("- ") else ""
        lines += textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).rstrip() + "\n"
