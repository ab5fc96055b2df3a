"""Analyze files in many worker processes with Ray Data, on this machine or on a cluster.

Blocks of the dataset hold only the names of files. A worker reads each file itself when its turn comes, so memory does
not grow with the number of files.
"""

import contextlib
import logging
import os
import secrets
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import ray
import ray.data

from moodreel.batch.analyses import ROW_SCHEMA
from moodreel.batch.analyzer import STOPPED, AnalyzerOptions, ClipAnalyzer, describe_error, find_day_columns
from moodreel.batch.errors import BatchError, WorkerCrashed
from moodreel.batch.filesystem import OutputFolder

MAX_FILES_PER_TASK = 8
TASKS_PER_WORKER = 8
"""With few files a task has fewer of them, so that all workers end at about the same time."""
FILES_PER_DATASET = 20_000
"""Ray keeps some kilobytes for each task, so a longer list is several datasets, one after the other. Each starts its
workers again, which takes seconds; 20,000 files take an hour."""
MAX_RESTARTS = 100
"""How often the process of one worker is started again in one dataset."""
OBJECT_STORE_BYTES = 200 * 2**20
"""Ray's shared memory on one machine: only names and rows pass through it."""


@contextlib.contextmanager
def ray_session(workers: int | None) -> Iterator[int]:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray on this machine, unless that was done already.

    Args:
        workers: Number of worker processes; None for one a core that may be used here, or that the cluster has.

    Yields:
        The number of workers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    started = not ray.is_initialized()
    if started:
        _start(workers)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        yield workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if started:
            ray.shutdown()


def analyze(sources: Sequence[str], options: AnalyzerOptions, output: OutputFolder, workers: int) -> Iterator[pa.Table]:
    """Analyze files in a Ray session.

    A file that ends the process of its worker does so at most twice: the files of its task are tried again one by one.

    Yields:
        Rows as they are made, with the columns of `ROW_SCHEMA`: one for each file.

    Raises:
        BatchError: The models cannot be loaded, or the output cannot be written.
    """
    for start in range(0, len(sources), FILES_PER_DATASET):
        files = sources[start : start + FILES_PER_DATASET]
        per_task = min(MAX_FILES_PER_TASK, max(1, len(files) // (workers * TASKS_PER_WORKER)))
        missing = yield from _run(files, per_task, options, output, workers)
        if missing:
            missing = yield from _run(missing, 1, options, output, workers)
        for url in missing:
            error = WorkerCrashed("The analysis of this file ended its process twice. The file may be damaged.")
            row = {"source": url} | find_day_columns(url, None, options.zone) | describe_error(error)
            yield pa.Table.from_pylist([row], ROW_SCHEMA)


def stop_if_told(answers: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the answers of workers. Raises BatchError as soon as one says that the batch cannot go on."""
    for rows in answers:
        for error, detail in zip(rows["error"].to_pylist(), rows["detail"].to_pylist(), strict=True):
            if error == STOPPED:
                raise BatchError(detail)
        yield rows


def _start(workers: int | None) -> None:
    init = partial(ray.init, logging_level=logging.ERROR, log_to_driver=False)
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            init(address=address)
        else:
            # Who has the token may run code. Without this one Ray writes one into the home folder, for all to read.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            init(
                address="local",
                num_cpus=workers or (len(os.sched_getaffinity(0)) if sys.platform == "linux" else None),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "" if not address else " Does it ask for a token? Then set RAY_AUTH_MODE=token."
        raise BatchError(f"Ray cannot be used: {error}.{hint}") from error


def _run(
    files: Sequence[str], per_task: int, options: AnalyzerOptions, output: OutputFolder, workers: int
) -> Generator[pa.Table, None, list[str]]:
    """Analyze files once. Yields their rows, and returns the files whose worker died before it had answered."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a task whose worker died is left out
    dataset = ray.data.from_items(list(files), override_num_blocks=-(-len(files) // per_task))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `ray_remote_args_fn` will be replaced after 2.63; only it sets the retries
        answers = dataset.map_batches(
            ClipAnalyzer,
            fn_constructor_args=(options, output),
            batch_size=None,
            num_cpus=1,
            num_gpus=1 if options.use_gpu == "1" else None,
            # One task at a time: tasks that wait for a worker that dies are lost with it.
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(files)), max_tasks_in_flight_per_actor=1),
            ray_remote_args_fn=lambda: {"max_restarts": MAX_RESTARTS, "max_task_retries": 0},
        )
    missing = dict.fromkeys(files)
    for rows in stop_if_told(answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)):
        for url in rows["source"].to_pylist():
            missing.pop(url)
        yield rows
    return list(missing)
