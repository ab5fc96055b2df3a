"""Measure what traces cost: CPU and time of a call with them against without, and of one stage without them. Draw one.

    python -m bench.tracing --rounds 12

Two services with one worker each take turns, one without a collector and one with. The collector runs in this process.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.command import run_command
from bench.serve import cpu_ms, post
from moodreel.timing import stage
from moodreel.training.cli.options import at_least
from tests.support.server import REAL_APP, ROOT, Server
from tests.support.trace_collector import TraceCollector, attributes, trace_collector

CALLS = {"/predict": 10, "/api/text": 200}
"""Calls between two measurements of the CPU time, which Linux counts in steps of 10 ms."""


def measure(server: Server, call: Callable[[Server], object], count: int) -> tuple[float, float]:
    """Return the CPU time and the wall-clock time of one call in milliseconds."""
    processes = server.processes
    before, start = cpu_ms(processes), time.perf_counter()
    for _ in range(count):
        call(server)
    elapsed = 1000 * (time.perf_counter() - start)
    return (cpu_ms(processes) - before) / count, elapsed / count


def stage_microseconds() -> float:
    """Return the microseconds of a stage that nobody observes."""
    count = 100_000
    timings: dict[str, float] = {}
    start = time.perf_counter()
    for _ in range(count):
        with stage("nothing", timings):
            pass
    return 1e6 * (time.perf_counter() - start) / count


def draw_trace(collector: TraceCollector, request_id: str) -> None:
    """Print the spans of a call as bars."""
    columns = 60
    call = collector.call(request_id)
    stages = [span for span in collector.spans if span.parent_span_id == call.span_id]
    milliseconds = (call.end_time_unix_nano - call.start_time_unix_nano) / 1e6
    for span in (call, *sorted(stages, key=lambda span: span.start_time_unix_nano)):
        start, end = (
            (time - call.start_time_unix_nano) / 1e6 for time in (span.start_time_unix_nano, span.end_time_unix_nano)
        )
        first, last = (round(columns * time / milliseconds) for time in (start, end))
        bar = " " * min(first, columns - 1) + "=" * max(1, last - first)
        busy = attributes(span).get("moodreel.busy_ms")
        print(f"{span.name:15} |{bar:{columns}}| {end - start:6.1f} ms{f', busy {busy:.1f}' if busy else ''}")


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.tracing", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=at_least(1), default=12, help="default: %(default)s")
    options = parser.parse_args()
    clip = (ROOT / "examples" / "smile.mp4").read_bytes()
    calls: dict[str, Callable[[Server], object]] = {
        "/predict": lambda server: post(server, "/predict", clip),
        "/api/text": lambda server: server.call("POST", "/api/text", json={"text": "I am glad to see you."}),
    }
    print(f"a stage without traces: {stage_microseconds():.1f} µs")
    with ExitStack() as stack:
        collector = stack.enter_context(trace_collector())
        servers = {}
        for name, url in (("off", ""), ("on", collector.url)):
            folder = Path(stack.enter_context(TemporaryDirectory()))
            settings = {"WEB_CONCURRENCY": 1, "ANALYSIS_CACHE_SECONDS": 0, "OTEL_EXPORTER_OTLP_ENDPOINT": url}
            servers[name] = stack.enter_context(Server(folder, REAL_APP, LOG_LEVEL="WARNING", **settings))
        for path, call in calls.items():
            costs: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
            for number in range(options.rounds + 1):
                for name in sorted(servers, reverse=number % 2 == 0):
                    cost = measure(servers[name], call, CALLS[path])
                    if number:  # the first round loads the models
                        costs[name].append(cost)
            for index, unit in enumerate(("CPU", "time")):
                off, on = ([cost[index] for cost in costs[name]] for name in ("off", "on"))
                ratio = statistics.median(b / a for a, b in zip(off, on, strict=True))
                medians = f"{statistics.median(off):.2f} ms without, {statistics.median(on):.2f} ms with"
                print(f"{path}, {unit} of a call: {medians}, ratio {ratio:.3f} (medians of {len(on)} rounds)")
        answer = post(servers["on"], "/predict", clip, thumbnail=True)
        draw_trace(collector, answer.headers["x-request-id"])


if __name__ == "__main__":
    run_command(main)
