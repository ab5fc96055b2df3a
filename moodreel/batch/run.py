"""Run a batch: list the files, leave out those that are done, analyze the others, store and summarize."""

import io
import json
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace

import pyarrow as pa

from moodreel.batch.analyses import Analyses
from moodreel.batch.analyzer import AnalyzerOptions
from moodreel.batch.calendar_plot import plot_calendar
from moodreel.batch.filesystem import OutputFolder
from moodreel.batch.ray_runner import analyze, ray_session
from moodreel.batch.sources import list_sources
from moodreel.batch.summary import BatchSummary

STORE_SECONDS = 10.0
"""Rows are stored this often: a batch that is killed analyzes the files of these seconds again."""
STORE_ROWS = 2_000
"""Number of waiting rows at which they are stored earlier."""


@dataclass(frozen=True)
class BatchOptions:
    """The options of a batch.

    Attributes:
        source: Folder, pattern or file.
        workers: Number of worker processes; None for one a core.
        limit: Files to analyze at most; None for all.
        retry_errors: Whether to analyze files again that had an error.
        force: Whether to analyze all files again.
    """

    source: str
    out: str
    analyzer: AnalyzerOptions
    workers: int | None = None
    limit: int | None = None
    retry_errors: bool = False
    force: bool = False


@dataclass(frozen=True)
class BatchProgress:
    """The progress of a batch.

    Attributes:
        files: Number of files of the source.
        before: Number of files that were analyzed by earlier runs.
        done: Number of files that were analyzed by this run.
        errors: Number of files in `done` with an error.
    """

    files: int
    before: int
    done: int = 0
    errors: int = 0


def run_batch(options: BatchOptions, report: Callable[[BatchProgress], None]) -> BatchSummary:
    """Run a batch. What is done when it is interrupted stays done.

    Args:
        options: What to analyze.
        report: Called with the progress, once before the first file and then whenever some are done.

    Returns:
        A summary of all that is in the output folder.

    Raises:
        BatchError: The batch cannot run or go on, or another one writes to the folder.
    """
    output = OutputFolder(options.out)
    sources = list_sources(options.source, output)
    with output.locked():
        return _run(options, sources, output, report)


def _run(
    options: BatchOptions, sources: list[str], output: OutputFolder, report: Callable[[BatchProgress], None]
) -> BatchSummary:
    analyses = Analyses(output)
    if options.force or options.retry_errors:
        analyses.drop(set(sources[: options.limit] if options.force else sources), errors_only=not options.force)
    summary, done = BatchSummary(), set[str]()
    for rows in analyses.read():
        summary.add(rows)
        done.update(rows["source"].to_pylist())
    remaining = [source for source in sources if source not in done]
    progress = BatchProgress(len(sources), len(sources) - len(remaining))
    report(progress)
    if remaining := remaining[: options.limit]:
        with (
            ray_session(options.workers) as workers,
            closing(_store(analyses, analyze(remaining, options.analyzer, output, workers))) as stored,
        ):
            for rows in stored:
                summary.add(rows)
                errors = len(rows) - rows["error"].null_count
                progress = replace(progress, done=progress.done + len(rows), errors=progress.errors + errors)
                report(progress)
    _write_summary(summary, output)
    return summary


def _store(analyses: Analyses, answers: Iterable[pa.Table]) -> Generator[pa.Table]:
    """Yield rows, and store them from time to time and at the end, however it comes."""
    waiting, stored_at = list[pa.Table](), time.monotonic()
    try:
        for rows in answers:
            waiting.append(rows)
            if time.monotonic() > stored_at + STORE_SECONDS or sum(map(len, waiting)) >= STORE_ROWS:
                analyses.append(pa.concat_tables(waiting))
                waiting, stored_at = [], time.monotonic()
            yield rows
    finally:
        if waiting:
            analyses.append(pa.concat_tables(waiting))


def _write_summary(summary: BatchSummary, output: OutputFolder) -> None:
    output.write("summary.json", json.dumps(summary.to_json(), indent=2).encode())
    if summary.days:
        image = io.BytesIO()
        plot_calendar(summary.days, image)
        output.write("calendar.png", image.getvalue())
