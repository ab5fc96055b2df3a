"""Analyze the files of a batch in one worker process."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from zoneinfo import ZoneInfo

import pyarrow as pa

from moodreel.batch.analyses import ROW_SCHEMA, UNKNOWN_DAY
from moodreel.batch.errors import BatchError
from moodreel.batch.filesystem import OutputFolder
from moodreel.batch.sources import LOOPS, find_day, read_source
from moodreel.errors import MoodreelError
from moodreel.models.model_card import DIARY
from moodreel.pipelines.boomerang import LoopOptions

logger = logging.getLogger(__name__)

STOPPED = "stopped"
"""Value in place of an error code: the batch cannot go on, and `detail` says why."""

Row = dict[str, object]


@dataclass(frozen=True)
class AnalyzerOptions:
    """The options of the analysis of each file.

    Attributes:
        model_store: Folder of the models, on the machine of the worker.
        model: Name of a model in the store; None for the default.
        model_path: Checkpoint or model folder outside the store.
        prior: One of `moodreel.models.model_card.PRIORS`.
        use_gpu: "0" or "1".
        loop: How to make loops; None to make none.
        zone: Time zone in which the day of a time in UTC is determined.
    """

    model_store: Path
    model: str | None = None
    model_path: Path | None = None
    prior: str = DIARY
    use_gpu: str = "0"
    loop: LoopOptions | None = None
    zone: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))


class ClipAnalyzer:
    """Analyze files, and write their loops and posters. Ray makes one in each worker process."""

    def __init__(self, options: AnalyzerOptions, output: OutputFolder) -> None:
        """Load the models. If that fails, each answer says so: Ray would start the process again and again."""
        # Imported here: the process that only distributes the files and stores the answers needs no models.
        import torch

        from moodreel.pipelines.engine import Engine
        from moodreel.pipelines.video import VideoPipeline

        torch.set_num_threads(1)
        self._options = options
        self._output = output
        self._failure: MoodreelError | None = None
        try:
            engine = Engine.load(
                options.model_store, model_path=options.model_path, use_gpu=options.use_gpu, prior=options.prior
            )
            engine.models.get(options.model)
            self._pipeline = VideoPipeline(engine)
        except MoodreelError as error:
            self._failure = error

    def __call__(self, batch: dict[str, Sequence[str]]) -> pa.Table:
        """Analyze the files that `batch["item"]` names. Returns a row for each, with the columns of `ROW_SCHEMA`."""
        return pa.Table.from_pylist([self.analyze(str(url)) for url in batch["item"]], ROW_SCHEMA)

    def analyze(self, url: str) -> Row:
        """Analyze a file. Returns its row, whatever is wrong with the file."""
        if self._failure:
            return {"source": url, "error": STOPPED, "detail": str(self._failure)}
        data: bytes | None = None
        row: Row = {}
        try:
            data = read_source(url)
            row = find_day_columns(url, data, self._options.zone)
            row |= self._predict(url, data, row["day"])
        except BatchError as error:
            return {"source": url, "error": STOPPED, "detail": str(error)}
        except Exception as error:
            row = (row or find_day_columns(url, data, self._options.zone)) | describe_error(error)
        return row | {"source": url, "bytes": data and len(data)}

    def _predict(self, url: str, data: bytes, day: object) -> Row:
        result = self._pipeline.predict(data, model=self._options.model, loop=self._options.loop)
        row: Row = {
            "emotion": result.emotion,
            "confidence": result.confidence,
            "probabilities": result.probabilities,
            "certain": result.certain,
            "reason": result.quality.reason,
            "face_coverage": result.face_coverage,
            "peak": result.peak,
            "frames_analysed": result.frames_analysed,
            "duration": result.duration,
            "width": result.width,
            "height": result.height,
            "model": result.model.name,
            "model_version": result.model.version,
            "timings": result.timings,
            "track": result.track,
            "timeline": [asdict(point) for point in result.timeline],
        }
        if result.boomerang:
            folder = f"{LOOPS}/day={day}"
            row["loop"] = f"{folder}/{_file_name(url)}.{result.boomerang.output}"
            row["poster"] = f"{folder}/{_file_name(url)}.jpg"
            self._output.write(str(row["loop"]), result.boomerang.data)
            self._output.write(str(row["poster"]), result.boomerang.poster)
        return row


def find_day_columns(url: str, data: bytes | None, zone: ZoneInfo) -> Row:
    """Return the columns that say on which day a clip was recorded."""
    day, day_from, time = find_day(url, data, zone)
    return {"day": day.isoformat() if day else UNKNOWN_DAY, "day_from": day_from, "recorded_at": time}


def describe_error(error: Exception) -> Row:
    """Return the columns that say what is wrong with a file. The code of an unexpected error is `internal`."""
    if isinstance(error, MoodreelError) and error.code:
        return {"error": error.code, "detail": str(error)}
    logger.error("A file could not be analyzed.", exc_info=error)
    return {"error": "internal", "detail": f"{type(error).__name__}: {error}"}


def _file_name(url: str) -> str:
    """Return a name for the loop of a file: folders may hold files of the same name."""
    return f"{PurePosixPath(url).stem[:50]}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
