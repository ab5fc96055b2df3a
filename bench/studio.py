"""Measure the first load of the studio and its interactions in Chromium, by the browser's own metrics.

    python -m bench.studio
    python -m bench.studio --rounds 9

Each round is a new browser context, so nothing is cached in its first load. The service has fake models: no analysis is
measured.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser

from bench.command import run_command
from moodreel.training.cli.options import at_least
from moodreel.training.evaluation.markdown import format_table
from tests.support.browser import chromium
from tests.support.server import FAKE_APP, KEY, Server

MAX_BYTES = 150_000
"""Bytes that the first load may transfer."""
SCREENS = ("Live", "Words", "Calendar", "Log")

# Event Timing: from an input to the next frame that shows its effect, in steps of 8 ms, from 16 ms on.
_OBSERVE = f"""
sessionStorage.setItem("moodreel.credential", "{KEY}");
window.interactions = [0];
new PerformanceObserver(list => list.getEntries().forEach(entry => window.interactions.push(entry.duration)))
  .observe({{type: "event", buffered: true, durationThreshold: 16}});
"""
_LOAD = """() => {
  const files = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  const bytes = files.reduce((sum, {transferSize}) => sum + transferSize, 0);
  const received = files.filter(({transferSize}) => transferSize > 0).length;
  return [received, bytes, paint.startTime, Math.max(...files.map(({responseEnd}) => responseEnd))];
}"""


def measure(browser: Browser, url: str) -> list[float]:
    """Return files, bytes, first contentful paint and last response in ms of the first load and of a second one.

    The last number is the slowest interaction in ms.
    """
    with browser.new_context(base_url=url) as context:
        page = context.new_page()
        page.add_init_script(_OBSERVE)
        page.goto("/", wait_until="networkidle")
        load: list[float] = page.evaluate(_LOAD)
        for name in SCREENS:
            page.get_by_role("link", name=name, exact=True).click()
            page.locator("h1").wait_for()
            page.wait_for_timeout(300)
        slowest = page.evaluate("Math.max(...window.interactions)")
        page.goto("about:blank")
        page.goto("/", wait_until="networkidle")
        return [*load, *page.evaluate(_LOAD), slowest]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.studio", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=at_least(1), default=5)
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder), FAKE_APP, WEB_CONCURRENCY=1) as server,
        chromium() as browser,
    ):
        rounds = [measure(browser, server.url) for _ in range(options.rounds)]
    medians = [median(column) for column in zip(*rounds, strict=True)]
    names = [
        "files received",
        "bytes received, headers included",
        "first contentful paint, ms",
        "last file received, ms",
    ]
    rows = [[name, *(f"{medians[load + row]:,.0f}" for load in (0, 4))] for row, name in enumerate(names)]
    print(format_table(["median of the rounds", "first load", "second load"], rows))
    print(f"\nSlowest interaction while changing screens: {medians[-1]:.0f} ms")
    size = medians[1]
    print(f"\nTarget: at most {MAX_BYTES:,} bytes ({'met' if size <= MAX_BYTES else 'missed'})")


if __name__ == "__main__":
    run_command(main)
