"""Let a real Prometheus scrape the service under load, check that every panel has data, and draw the dashboard.

    python -m bench.dashboard --out docs/dashboard.png --seconds 90

It needs `prometheus` and `promtool` (Debian: apt-get install prometheus). The pictures are drawn from the queries of
deploy/grafana/dashboards/moodreel.json, without Grafana.
"""

import argparse
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import matplotlib
import requests
from matplotlib import dates
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from bench.clips import phone_clip
from bench.command import run_command
from tests.support.server import REAL_APP, ROOT, Server, free_port

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "moodreel.json"
RATE_INTERVAL = "20s"
"""Value of Grafana's `$__rate_interval`, for a scrape each second."""
ROW = 0.36
"""Inches of one row of Grafana's grid."""
BACKGROUND, PANEL, TEXT, MUTED = "#0f1218", "#181c25", "#e6e8ee", "#8b93a5"
COLORS = ("#7eb6ff", "#ffb86b", "#8be0a4", "#ff7f9f", "#c7a2ff", "#6fe3e1", "#f4e285", "#b0b7c6", "#e58fd6", "#9ccc65")
FORMATS: dict[str, Callable[[float], str]] = {
    "reqps": lambda value: f"{value:.3g}/s",
    "s": lambda value: f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms",
    "percentunit": lambda value: f"{100 * value:.3g} %",
    "short": lambda value: f"{value:.3g}",
}


@dataclass(frozen=True)
class Series:
    """A line of a panel: its legend, times and values."""

    legend: str
    times: Sequence[datetime]
    values: Sequence[float]


class Prometheus:
    """Run a real Prometheus that scrapes one target each second, as a context manager."""

    def __init__(self, folder: Path, target: str) -> None:
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        (folder / "rules.yml").write_bytes((DEPLOY / "prometheus" / "rules.yml").read_bytes())
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [rules.yml]\n"
            f"scrape_configs: [{{job_name: moodreel, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )

    def __enter__(self) -> "Prometheus":
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--log.level=error",
            ]
        )
        for _ in range(150):
            try:
                if requests.get(f"{self.url}/-/ready", timeout=5).ok:
                    return self
            except requests.ConnectionError:
                pass
            time.sleep(0.1)
        self.__exit__()
        raise RuntimeError("Prometheus is not ready after 15 s")

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def query(self, expression: str, start: float, end: float) -> list[dict]:
        """Return the series of a range query. Raises requests.HTTPError if the expression is wrong."""
        answer = requests.get(
            f"{self.url}/api/v1/query_range",
            params={
                "query": expression.replace("$__rate_interval", RATE_INTERVAL),
                "start": start,
                "end": end,
                "step": 1,
            },
            timeout=20,
        )
        answer.raise_for_status()
        return answer.json()["data"]["result"]

    def unhealthy_rules(self) -> list[str]:
        """Return the rules that were not evaluated without an error."""
        groups = requests.get(f"{self.url}/api/v1/rules", timeout=20).json()["data"]["groups"]
        return [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"]


def read_panels() -> list[dict]:
    """Return the panels of the dashboard."""
    return json.loads(DASHBOARD.read_text())["panels"]


def read_series(prometheus: Prometheus, panel: dict, start: float, end: float) -> list[Series]:
    """Return the lines of a panel that have a value."""
    found = []
    for target in panel["targets"]:
        for result in prometheus.query(target["expr"], start, end):
            points = [(datetime.fromtimestamp(at, UTC), float(value)) for at, value in result["values"]]
            points = [(at, value) for at, value in points if value == value]
            legend = target["legendFormat"]
            for name, value in result["metric"].items():
                legend = legend.replace(f"{{{{{name}}}}}", value)
            if points:
                found.append(Series(legend, *zip(*points, strict=True)))
    return found


@contextmanager
def load(server: Server, clips: Sequence[bytes]) -> Iterator[None]:
    """Call the service in a `with` block: clips, pictures, texts, and mistakes that callers make."""
    stop = threading.Event()
    picture = (ROOT / "examples" / "smile.webp").read_bytes()

    def mixed_calls(client: int) -> None:
        number = client
        while not stop.is_set():
            clip = clips[number % len(clips)]
            server.post(("/predict", "/thumbnail", "/predict")[number % 3], clip)
            server.call("POST", "/api/text", json={"text": f"What a lovely day, the {number}th of them"})
            server.call("POST", "/api/detect", files={"file": picture})
            if number % 4 == 0:
                server.call("POST", "/api/predict/multimodal", files={"file": clip})
                server.post("/predict", b"no video")
            if number % 6 == 0:
                server.call("GET", "/logs", headers={})
            number += 1
            stop.wait(0.15 * (1 + client))

    threads = [threading.Thread(target=mixed_calls, args=(client,)) for client in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def draw(panels: Sequence[tuple[dict, Sequence[Series]]], out: Path) -> None:
    """Draw the dashboard as Grafana lays it out."""
    matplotlib.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "text.color": TEXT})
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel, _ in panels)
    figure = Figure(figsize=(16, ROW * rows + 0.6), facecolor=BACKGROUND)
    height = ROW * rows + 0.6
    figure.text(0.012, 1 - 0.34 / height, "moodreel", fontsize=15, weight="bold")
    for panel, series in panels:
        grid = panel["gridPos"]
        left, top = grid["x"] / 24, 1 - (0.6 + ROW * grid["y"]) / height
        wide, high = grid["w"] / 24, ROW * grid["h"] / height
        box = (left + 0.004, top - high + 0.004, wide - 0.008, high - 0.008)
        frame = figure.add_axes(box, facecolor=PANEL, xticks=[], yticks=[])
        frame.spines[:].set_visible(False)
        frame.text(
            0.012 * 24 / grid["w"], 1 - 0.24 / (ROW * grid["h"]), panel["title"], color=TEXT, va="center", fontsize=9
        )
        inner = (box[0] + 0.034, box[1] + 0.25 * high, box[2] - 0.044, 0.58 * high)
        unit = FORMATS[panel["fieldConfig"]["defaults"]["unit"]]
        if panel["type"] == "stat":
            _draw_stat(frame, figure.add_axes((box[0], box[1], box[2], 0.4 * high), facecolor="none"), series, unit)
        else:
            stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
            _draw_series(figure.add_axes(inner, facecolor="none"), series, unit, stacked)
    figure.savefig(out, dpi=100, facecolor=BACKGROUND)


def _draw_stat(frame: Axes, line: Axes, series: Sequence[Series], unit: Callable[[float], str]) -> None:
    [only] = series
    frame.text(0.05, 0.52, unit(only.values[-1]), color=COLORS[2], fontsize=22, weight="bold", va="center")
    line.fill_between(only.times, only.values, color=COLORS[2], alpha=0.2, lw=0)
    line.plot(only.times, only.values, color=COLORS[2], lw=1.2)
    line.set_ylim(0, 2 * max(only.values) or 1)
    line.margins(x=0)
    line.set_axis_off()


def _draw_series(axes: Axes, series: Sequence[Series], unit: Callable[[float], str], stacked: bool) -> None:
    if stacked:
        times = sorted({at for each in series for at in each.times})
        known = [dict(zip(each.times, each.values, strict=True)) for each in series]
        values = [[each.get(at, 0.0) for at in times] for each in known]
        axes.stackplot(times, values, colors=COLORS, alpha=0.55, labels=[each.legend for each in series], lw=0)
    else:
        for each, color in zip(series, COLORS * 3, strict=False):
            axes.plot(each.times, each.values, color=color, lw=1.6, label=each.legend)
    axes.set_ylim(0, 1.1 * axes.dataLim.y1 or 1)
    axes.margins(x=0)
    axes.grid(axis="y", color="#2a3040", lw=0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=MUTED, length=0, labelsize=7)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: unit(value)))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.08, -0.14), ncols=4, frameon=False, fontsize=7, labelcolor=MUTED,
        handlelength=1, columnspacing=1.2, borderaxespad=0,
    )  # fmt: skip


def measure(seconds: float, folder: Path) -> list[tuple[dict, list[Series]]]:
    """Run service, Prometheus and load for some seconds. Returns each panel with its lines.

    Raises:
        RuntimeError: A rule fails, or a query of a panel returns no series.
    """
    smile = (ROOT / "examples" / "smile.mp4").read_bytes()
    clips = [smile, *(phone_clip(640, 360, seconds=1.5 + 0.2 * number, fps=15) for number in range(5))]
    with Server(folder, REAL_APP) as server, Prometheus(folder, server.url.removeprefix("http://")) as prometheus:
        start = time.time()
        with load(server, clips):
            time.sleep(seconds)
        end = time.time()
        if failed := prometheus.unhealthy_rules():
            raise RuntimeError(f"rules that fail: {', '.join(failed)}")
        panels = [(panel, read_series(prometheus, panel, start, end)) for panel in read_panels()]
    if empty := [panel["title"] for panel, series in panels if not series]:
        raise RuntimeError(f"panels without a series: {', '.join(empty)}")
    return panels


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.dashboard", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="PNG to draw; by default nothing is drawn")
    parser.add_argument("--seconds", type=float, default=60, help="how long to call the service (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        panels = measure(options.seconds, Path(folder))
    for panel, series in panels:
        print(f"{panel['title']:45} {len(series)} series")
    if options.out:
        draw(panels, options.out)


if __name__ == "__main__":
    run_command(main)
