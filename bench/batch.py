"""Analyze synthetic clips with `moodreel batch`, kill it twice, resume it, and account for every file. Then measure.

    python -m bench.batch                      # 500 clips, 20 of them broken, 2 workers
    python -m bench.batch --files 100 --workers 4
    python -m bench.batch --calendar docs/mood-calendar.png   # only draw the mood calendar of made-up moods

Prints three tables: the runs and what they left; the throughput and the CPU time of all processes, compared with one
process on the same cores, in turns; and the peak memory by number of files. The clips are small and short (1 s of
320 x 240): with longer ones, the start of the workers counts less.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.command import run_command
from moodreel.batch.analyses import Analyses
from moodreel.batch.calendar_plot import plot_calendar
from moodreel.batch.filesystem import OutputFolder
from moodreel.batch.summary import DayMoods
from moodreel.emotions import FIVE
from moodreel.training.cli.options import at_least
from moodreel.training.evaluation.markdown import format_table
from tests.support import synthetic_frames, synthetic_image, synthetic_video
from tests.support.server import ROOT

FIRST_DAY = date(2024, 1, 1)
MEASURED_FILES = 60
"""Files of one measurement of the throughput."""
ROUNDS = 3
ONE_PROCESS = """
import sys, time
from pathlib import Path
from moodreel.batch.analyzer import AnalyzerOptions, ClipAnalyzer
from moodreel.batch.filesystem import OutputFolder
from moodreel.models.model_store import find_model_store
from moodreel.pipelines.boomerang import LoopOptions

analyzer = ClipAnalyzer(AnalyzerOptions(find_model_store(), loop=LoopOptions()), OutputFolder(sys.argv[2]))
files = sorted(Path(sys.argv[1]).iterdir())
analyzer.analyze(files[0].as_uri())
start, cpu = time.monotonic(), time.process_time()
for file in files[1:]:
    analyzer.analyze(file.as_uri())
count = len(files) - 1
print(count / (time.monotonic() - start), (time.process_time() - cpu) / count)
"""
BATCH = """
import sys, time
import psutil
from moodreel.batch.analyzer import AnalyzerOptions
from moodreel.batch.run import BatchOptions, run_batch
from moodreel.models.model_store import find_model_store
from moodreel.pipelines.boomerang import LoopOptions

def cpu_seconds():
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [own, *own.children(recursive=True)])

answers = []
options = AnalyzerOptions(find_model_store(), loop=LoopOptions())
start = time.monotonic()
run_batch(
    BatchOptions(sys.argv[1], sys.argv[2], options, workers=int(sys.argv[3])),
    lambda progress: answers.append((progress.done, time.monotonic(), cpu_seconds())),
)
first, last = answers[1], answers[-1]
count = last[0] - first[0]
print(count / (last[1] - first[1]), (last[2] - first[2]) / count, first[1] - start)
"""


class Ended(NamedTuple):
    """A run of the command: how it ended, in how many seconds, and the peaks of its memory in bytes."""

    how: str
    seconds: float
    peaks: Counter[str]


def make_clips(folder: Path, count: int, broken: int) -> set[str]:
    """Write clips of a face, one a day. Returns the names of those that are broken."""
    shapes = [(320, 240), (240, 320), (320, 320), (400, 240)]
    faces = [synthetic_video.encode_video(synthetic_frames.face_frames(25, *shape)) for shape in shapes]
    still = synthetic_video.encode_video(synthetic_frames.noise_frames(10))
    picture = synthetic_image.encode_image(synthetic_frames.portrait())
    damaged = [faces[0][:2000], os.urandom(5000), still, picture, b""]
    names = set()
    for index in range(count):
        name = f"VID_{FIRST_DAY + timedelta(days=index):%Y%m%d}_120000.mp4"
        if index * broken // count != (index + 1) * broken // count:
            (folder / name).write_bytes(damaged[len(names) % len(damaged)])
            names.add(name)
        else:
            (folder / name).write_bytes(faces[index % len(faces)] + index.to_bytes(4, "big"))
    return names


def run(source: Path, out: Path, workers: int, *, kill_at: int | None = None) -> Ended:
    """Run the command, and kill it once `kill_at` rows are stored."""
    command = [sys.executable, "-m", "moodreel", "batch", source, "--out", out, "--workers", str(workers)]
    start = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    peaks: Counter[str] = Counter()
    stop = threading.Event()
    watch = threading.Thread(target=_watch_memory, args=(process.pid, peaks, stop))
    watch.start()
    how = ""
    while process.poll() is None:
        time.sleep(1)
        if kill_at and len(stored(out)) >= kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            how = "SIGKILL"
    stop.set()
    watch.join()
    return Ended(how or f"exit status {process.returncode}", time.monotonic() - start, peaks)


def _watch_memory(pid: int, peaks: Counter[str], stop: threading.Event) -> None:
    """Keep the peaks of the RSS of the first process and of the largest worker, and of the PSS of all."""
    while not stop.wait(0.5):
        with suppress(psutil.Error):
            driver = psutil.Process(pid)
            peaks["driver"] = max(peaks["driver"], driver.memory_info().rss)
            total = driver.memory_full_info().pss
            for process in driver.children(recursive=True):
                with suppress(psutil.Error):
                    total += process.memory_full_info().pss
                    if "ClipAnalyzer" in " ".join(process.cmdline()):
                        peaks["worker"] = max(peaks["worker"], process.memory_info().rss)
            peaks["total"] = max(peaks["total"], total)


def stored(out: Path) -> list[dict[str, object]]:
    return [
        row for rows in Analyses(OutputFolder(str(out))).read() for row in rows.select(["source", "error"]).to_pylist()
    ]


def survive(folder: Path, count: int, broken: int, workers: int) -> tuple[list[list[str]], Counter[str]]:
    """Kill a batch at a third and at two thirds, and let it end. Returns the table and the peaks of memory."""
    source, out = folder / "clips", folder / "moods"
    source.mkdir()
    names = make_clips(source, count, broken)
    lines: list[list[str]] = []
    before, peaks = 0, Counter[str]()
    for kill_at in (count // 3, 2 * count // 3, None):
        ended = run(source, out, workers, kill_at=kill_at)
        rows = stored(out)
        lines.append([str(len(lines) + 1), str(before), str(len(rows) - before), ended.how, f"{ended.seconds:.0f}"])
        before = len(rows)
        peaks |= ended.peaks
    files = Counter(Path(str(row["source"])).name for row in rows)
    loops = len(list((out / "loops").rglob("*.mp4")))
    assert files == Counter(path.name for path in source.iterdir()), "each file has one row"
    assert {Path(str(row["source"])).name for row in rows if row["error"]} == names, "the broken ones have an error"
    assert loops == count - broken, "each other file has a loop"
    errors = Counter(str(row["error"]) for row in rows if row["error"])
    print(f"{count} files: {len(files)} with exactly one row, {loops} loops; errors: {dict(errors)}\n")
    return lines, peaks


def throughputs(folder: Path, workers: int) -> Iterator[list[str]]:
    """Measure one process and a batch in turns. Yields the rows of the table."""
    source = folder / "measured"
    source.mkdir()
    make_clips(source, MEASURED_FILES, 0)
    for turn in range(ROUNDS):
        one, one_cpu = _measure(ONE_PROCESS, source, folder / f"one{turn}")
        many, many_cpu, start = _measure(BATCH, source, folder / f"many{turn}", workers)
        rates = [f"{one:.2f}", f"{many:.2f}", f"{many / one:.2f}"]
        yield [*rates, f"{1000 * one_cpu:.0f}", f"{1000 * many_cpu:.0f}", f"{start:.0f}"]


def _measure(script: str, *arguments: object) -> list[float]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def draw_calendar(path: Path) -> None:
    """Draw made-up moods, each of which lasts for some days."""
    generator, days, mood = random.Random(3), {}, FIVE[3]
    for number in range(960):
        if generator.random() < 0.8:
            moods = DayMoods()
            for _ in range(generator.choice([1, 1, 1, 2, 3])):
                if generator.random() < 0.35:
                    mood = generator.choices(FIVE, [1, 5, 1, 5, 2])[0]
                probability = generator.uniform(0.45, 1)
                moods.counts[mood] += 1
                moods.probabilities.update({emotion: (1 - probability) / 4 for emotion in FIVE} | {mood: probability})
            days[(date(2023, 3, 4) + timedelta(days=number)).isoformat()] = moods
    with path.open("wb") as file:
        plot_calendar(days, file)


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.batch", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=at_least(1), default=500, help="clips (default: %(default)s)")
    parser.add_argument("--broken", type=int, default=20, help="of them broken (default: %(default)s)")
    parser.add_argument("--workers", type=at_least(1), default=2, help="processes (default: %(default)s)")
    parser.add_argument("--calendar", type=Path, metavar="FILE", help="only draw the mood calendar of made-up moods")
    options = parser.parse_args()
    if options.broken > options.files:
        parser.error("--broken is more than --files")
    if options.calendar:
        draw_calendar(options.calendar)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines, large = survive(folder, options.files, options.broken, options.workers)
        print(format_table(["run", "rows before", "rows now", "ended by", "seconds"], lines), "\n", flush=True)
        lines = list(throughputs(folder, options.workers))
        head = ["one process, files/s", f"{options.workers} workers", "ratio"]
        head += ["one process, CPU ms a file", f"{options.workers} workers", "first answer, s"]
        print(format_table(head, lines, left=0), "\n", flush=True)
        (folder / "few").mkdir()
        make_clips(folder / "few", options.files // 10, 0)
        small = run(folder / "few", folder / "few_moods", options.workers).peaks
        lines = [
            [str(count), *(f"{peaks[name] / 1e6:.0f}" for name in ("driver", "worker", "total"))]
            for count, peaks in ((options.files // 10, small), (options.files, large))
        ]
        print(format_table(["files", "first process, MB", "largest worker, MB", "all processes (PSS), MB"], lines))


if __name__ == "__main__":
    run_command(main)
