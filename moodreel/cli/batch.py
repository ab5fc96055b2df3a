"""`moodreel batch SOURCE --out DIR`: analyze a folder or a bucket of videos with Ray."""

import argparse
import contextlib
import io
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tqdm import tqdm

from moodreel.batch.analyzer import AnalyzerOptions
from moodreel.batch.run import BatchOptions, BatchProgress, run_batch
from moodreel.batch.summary import BatchSummary
from moodreel.cli.number import number
from moodreel.cli.options import add_loop_options, add_model_options
from moodreel.errors import MoodreelError
from moodreel.models.model_store import find_model_store
from moodreel.pipelines.boomerang import LoopOptions

LOG_SECONDS = 10.0
"""Time between two lines of progress where standard error is not a terminal."""
MAX_WORKERS = 10_000


def main(argv: Sequence[str]) -> int:
    """Run a batch. Returns 0 if every file has its row, 2 for a wrong command line or if the batch cannot go on."""
    options = _parser().parse_args(argv)
    display = _ProgressDisplay()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where Ray prints that a worker died; its file gets a row
            summary = run_batch(_batch_options(options), display.show)
    except MoodreelError as error:
        display.close()
        print(f"moodreel: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        display.close()
        print("moodreel: stopped. The same command, without --force, continues where it stopped.", file=sys.stderr)
        return 130
    display.close()
    _print_summary(summary, options.out)
    return 0


class _ProgressDisplay:
    """Show a bar on a terminal, and lines elsewhere."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._shown = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._last: BatchProgress | None = None

    def show(self, progress: BatchProgress) -> None:
        if sys.stderr.isatty():
            self._bar = self._bar or tqdm(total=progress.files, initial=progress.before, unit="file", smoothing=0.05)
            self._bar.set_postfix(errors=progress.errors, refresh=False)
            self._bar.update(progress.before + progress.done - self._bar.n)
        elif self._last is None or time.monotonic() > self._shown + LOG_SECONDS:
            self._log(progress)
        if progress.done and not self._first:
            self._first = time.monotonic(), progress.done
        self._last = progress

    def close(self) -> None:
        if self._bar:
            self._bar.close()
        elif self._last and self._last.done:
            self._log(self._last)

    def _log(self, progress: BatchProgress) -> None:
        self._shown = time.monotonic()
        finished, speed = progress.before + progress.done, ""
        if self._first and progress.done > self._first[1]:  # without the seconds in which the workers start
            rate = (progress.done - self._first[1]) / (self._shown - self._first[0])
            speed = f", {rate:.2f} files/s, {(progress.files - finished) / rate:.0f} s left"
        print(
            f"{datetime.now(UTC).isoformat(timespec='seconds')} {finished} of {progress.files} files "
            f"({progress.before} before), {progress.errors} errors{speed}",
            file=sys.stderr,
            flush=True,
        )


def _batch_options(options: argparse.Namespace) -> BatchOptions:
    loop = None if options.no_loops else LoopOptions(options.duration, options.size, aspect=options.aspect)
    analyzer = AnalyzerOptions(
        model_store=options.model_store or find_model_store(),
        model=options.model,
        model_path=options.model_path,
        prior=options.prior,
        use_gpu=options.use_gpu,
        loop=loop,
        zone=options.tz,
    )
    return BatchOptions(
        options.source, options.out, analyzer, options.workers, options.limit, options.retry_errors, options.force
    )


def _print_summary(summary: BatchSummary, out: str) -> None:
    analyzed = summary.files - summary.errors.total()
    print(f"{out} has {summary.files} files: {analyzed} analyzed, {summary.errors.total()} with an error.")
    for title, counts in (("emotions", summary.emotions), ("errors", summary.errors)):
        if counts:
            print(f"  {title:9} {_counts(counts)}")
    if summary.days:
        print(f"  {'days':9} {len(summary.days)}, from {min(summary.days)} to {max(summary.days)}; see calendar.png")


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(f"there is no time zone {text!r}; Europe/Berlin is one") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "moodreel batch",
        description="Analyze many videos in several processes: on this machine, or on the Ray cluster that RAY_ADDRESS "
        "names. DIR gets analyses/day=2025-03-31/*.parquet (one row per file, with or without an error), loops/, "
        "summary.json and calendar.png. The same command continues after a stop.",
        epilog="Limits are as in `moodreel predict`, error codes as in the HTTP service. Exit "
        "status: 0 if every file has its row, 2 for a wrong command line or a batch that stopped, 130 after Ctrl-C.",
    )
    parser.add_argument(
        "source", metavar="SOURCE", help="a folder or a pattern: videos, gs://bucket/2025, 's3://bucket/**/*.mp4'"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where to write: a folder, gs:// or s3://")
    parser.add_argument("--workers", type=number(int, 1, MAX_WORKERS), help="worker processes (default: one per core)")
    parser.add_argument("--limit", type=number(int, 1, float("inf")), metavar="N", help="analyze at most N files now")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--retry-errors", action="store_true", help="also analyze files that had an error before")
    again.add_argument("--force", action="store_true", help="analyze all files again, and replace their results in DIR")
    parser.add_argument("--no-loops", action="store_true", help="do not write loops and posters")
    add_loop_options(parser)
    add_model_options(parser)
    parser.add_argument("--use-gpu", choices=("0", "1"), default="0", help="1: each worker takes one GPU (default: 0)")
    parser.add_argument(
        "--tz",
        type=_zone,
        default=ZoneInfo("UTC"),
        help="time zone of the days, where a file has only UTC (default: UTC)",
    )
    return parser
