"""Write the report of a comparison as one HTML page, as Markdown and as JSON."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from moodreel.training.comparison import tables
from moodreel.training.comparison.plots import Plot, draw_plots
from moodreel.training.comparison.results import Comparison
from moodreel.training.comparison.verdict import METRIC_NAMES, loser, verdict, winner

PAGE, TEXT, NUMBERS = "report.html", "report.md", "comparison.json"
MAX_PEOPLE = 12
"""Maximum number of persons listed for each model, the worst first."""
_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]<>|#~$&])")


def write_report(out: Path, comparison: Comparison, command: str, faces: Sequence[Plot] = ()) -> None:
    """Write `report.html`, `report.md` with its plots, and `comparison.json`, replacing older ones.

    Args:
        out: The folder, which is created if it is missing.
        comparison: The results to report.
        command: The command that made the comparison.
        faces: A plot of each model's most confident predictions.
    """
    plots = draw_plots(comparison)
    page, text = (render(name, comparison, command, plots, faces) for name in ("html.jinja", "markdown.jinja"))
    out.mkdir(parents=True, exist_ok=True)
    for plot in (*plots.values(), *faces):
        (out / f"{plot.name}.png").write_bytes(plot.png())
    (out / TEXT).write_text(text, encoding="utf-8")
    (out / NUMBERS).write_text(to_json(comparison, command), encoding="utf-8")
    (out / PAGE).write_text(page, encoding="utf-8")


def render(
    format: str, comparison: Comparison, command: str, plots: dict[str, Plot], faces: Sequence[Plot] = ()
) -> str:
    """Render the report in a format, "html.jinja" or "markdown.jinja", with the same words and numbers in both."""
    environment = Environment(
        loader=PackageLoader("moodreel.training"),
        autoescape=format == "html.jinja",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["escaped"] = escape_markdown
    text = environment.get_template("report.jinja").render(
        format=format,
        title=_title(comparison),
        comparison=comparison,
        verdict=verdict(comparison),
        metric_names=METRIC_NAMES,
        max_people=MAX_PEOPLE,
        tables=tables,
        plots=plots,
        plots_named=lambda kind: [plot for name, plot in plots.items() if name.startswith(f"{kind}-")],
        faces=faces,
        command=command,
    )
    return re.sub(r"\n{3,}", "\n\n", text.strip()) + "\n"


def escape_markdown(text: str) -> str:
    """Escape text so that Markdown shows it literally, on one line."""
    return _MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def to_json(comparison: Comparison, command: str) -> str:
    """Return everything as JSON; undefined values, such as an odds ratio with a denominator of 0, are null."""
    conclusions = {"verdict": verdict(comparison), "winner": winner(comparison), "loser": loser(comparison)}
    everything = {"command": command} | conclusions | asdict(comparison)
    return json.dumps(everything, indent=2, ensure_ascii=False, allow_nan=False, default=np.ndarray.tolist) + "\n"


def _title(comparison: Comparison) -> str:
    *names, last = (result.name for result in comparison.results)
    models = f"{', '.join(names)} and {last}" if names else last
    if len(names) > 3:
        models = f"{len(names) + 1} models"
    return f"{'LEAKS: ' if comparison.leaks else ''}{models} on {comparison.data}"
