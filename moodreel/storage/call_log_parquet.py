"""Write calls as Parquet."""

from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from typing import BinaryIO

from moodreel.storage.call_log import COLUMNS
from moodreel.storage.database import Row

_INTEGERS = {"status_code", "bytes_in", "bytes_out", "frames", "worker"}
_FLOATS = {"latency_ms", "confidence", "video_seconds"}
_ROWS = 10_000
"""Rows of a row group."""


def write_parquet(rows: Iterable[Row], file: BinaryIO) -> None:
    """Write calls; `timestamp` is a time in UTC, `timings` a map. Raises ImportError without pyarrow."""
    import pyarrow as pa  # optional: the extra `parquet`
    import pyarrow.parquet as pq

    types = {
        **dict.fromkeys(COLUMNS, pa.string()),
        **dict.fromkeys(_INTEGERS, pa.int64()),
        **dict.fromkeys(_FLOATS, pa.float64()),
        "timestamp": pa.timestamp("us", "UTC"),
        "success": pa.bool_(),
        "timings": pa.map_(pa.string(), pa.float64()),
    }
    schema = pa.schema([(column, types[column]) for column in COLUMNS])
    source = map(_convert, rows)
    with pq.ParquetWriter(file, schema) as writer:
        while batch := list(islice(source, _ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _convert(row: Row) -> Row:
    timings = row["timings"]
    return row | {
        "timestamp": datetime.fromisoformat(row["timestamp"]),
        "timings": None if timings is None else list(timings.items()),
    }
