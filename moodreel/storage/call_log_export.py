"""Write calls as CSV or Parquet."""

import csv
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from typing import BinaryIO, TextIO

from moodreel.storage.call_log import COLUMNS
from moodreel.storage.database import Row

_INTEGERS = {"status_code", "bytes_in", "bytes_out", "frames", "worker"}
_FLOATS = {"latency_ms", "confidence", "video_seconds"}
_ROWS = 10_000
"""Rows of a row group."""


def write_csv(rows: Iterable[Row], file: TextIO) -> None:
    """Write calls as CSV. Cells that a spreadsheet would run as formulas are escaped."""
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_csv_cell(row[column]) for column in COLUMNS])


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
    source = ({**row, "timestamp": datetime.fromisoformat(row["timestamp"])} for row in rows)
    with pq.ParquetWriter(file, schema) as writer:
        while batch := list(islice(source, _ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _csv_cell(value: object) -> object:
    if isinstance(value, Mapping):
        return json.dumps(value)
    # Spreadsheets take these for formulas, and callers may choose their own client_id.
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value
    return value
