"""Store analyses as Parquet, one folder a day: `analyses/day=2025-03-31/*.parquet`.

Types are those of the call log's Parquet: times in UTC, probabilities and timings as maps.
"""

import io
import uuid
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import pyarrow.parquet as pq

from moodreel.batch.errors import BatchError
from moodreel.batch.filesystem import OutputFolder

FOLDER = "analyses"
UNKNOWN_DAY = "unknown"
"""Stands for the day of a file that no longer exists. (pandas fails on Hive's own name for it.)"""
_DOUBLES = pa.map_(pa.string(), pa.float64())
_POINT = pa.struct(
    [
        ("time", pa.float64()),
        ("emotion", pa.string()),
        ("probabilities", _DOUBLES),
        ("weight", pa.float64()),
        ("box", pa.list_(pa.int64())),
        ("track", pa.int64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("day_from", pa.string()),
        ("recorded_at", pa.timestamp("us", "UTC")),
        ("bytes", pa.int64()),
        ("error", pa.string()),
        ("detail", pa.string()),
        ("emotion", pa.string()),
        ("confidence", pa.float64()),
        ("probabilities", _DOUBLES),
        ("certain", pa.bool_()),
        ("reason", pa.string()),
        ("face_coverage", pa.float64()),
        ("peak", pa.float64()),
        ("frames_analysed", pa.int64()),
        ("duration", pa.float64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("model", pa.string()),
        ("model_version", pa.string()),
        ("loop", pa.string()),
        ("poster", pa.string()),
        ("timings", _DOUBLES),
        ("track", pa.int64()),
        ("timeline", pa.list_(_POINT)),
    ]
)
"""Columns of a file. `day` is in the name of its folder."""
ROW_SCHEMA = SCHEMA.append(pa.field("day", pa.string()))
"""Columns of an analysis before it is stored."""
SUMMARY_COLUMNS = ["source", "day", "error", "emotion", "probabilities"]
"""Columns that a summary needs."""


class Analyses:
    """The analyses of one output folder. One process writes them."""

    def __init__(self, output: OutputFolder) -> None:
        self._output = output
        self._path = f"{output.path}/{FOLDER}"

    def append(self, rows: pa.Table) -> None:
        """Store analyses, with the columns of `ROW_SCHEMA`: one new file for each of their days. Raises BatchError."""
        for day in pc.unique(rows["day"]).to_pylist():
            part = rows.filter(pc.equal(rows["day"], day)).drop("day")
            self._write(f"{FOLDER}/day={day}/{uuid.uuid4().hex}.parquet", part)

    def read(self) -> Iterator[pa.Table]:
        """Read `SUMMARY_COLUMNS` of what is stored, in parts. Raises BatchError."""
        if dataset := self._open():
            try:
                for batch in dataset.to_batches(columns=SUMMARY_COLUMNS):
                    yield pa.Table.from_batches([batch])
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(error) from error

    def drop(self, sources: set[str], *, errors_only: bool) -> None:
        """Delete the analyses of files, or only those with an error. Raises BatchError."""
        dataset = self._open()
        for path in dataset.files if dataset else []:
            try:
                table = pq.read_table(path, schema=SCHEMA, filesystem=self._output.files, partitioning=None)
            except (pa.ArrowException, OSError) as error:
                raise self._unreadable(error) from error
            dropped = pc.is_in(table["source"], pa.array(sources, pa.string()))
            if errors_only:
                dropped = pc.and_(dropped, pc.is_valid(table["error"]))
            kept = table.filter(pc.invert(dropped))
            if not kept.num_rows:
                self._output.delete(path)
            elif kept.num_rows < table.num_rows:
                self._write(path.removeprefix(f"{self._output.path}/"), kept)

    def _open(self) -> pds.Dataset | None:
        files = self._output.files
        try:
            files.invalidate_cache()
            if not files.exists(self._path):
                return None
        except Exception as error:  # each storage library raises its own exceptions
            raise BatchError(f"{self._output.url} cannot be read: {error!r}") from error
        days = pds.partitioning(pa.schema([("day", pa.string())]), flavor="hive")
        try:
            return pds.dataset(self._path, ROW_SCHEMA, "parquet", filesystem=files, partitioning=days)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _write(self, name: str, table: pa.Table) -> None:
        file = io.BytesIO()
        pq.write_table(table, file)
        self._output.write(name, file.getvalue())

    def _unreadable(self, error: Exception) -> BatchError:
        return BatchError(
            f"{self._output.url}/{FOLDER} cannot be read: {error}. Name another folder, or delete that file."
        )
