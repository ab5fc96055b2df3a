"""Analyzers without models, so that a test of what Ray does starts its workers in a second."""

import os
import signal
from pathlib import Path

from moodreel.batch.analyzer import STOPPED, AnalyzerOptions, ClipAnalyzer, Row
from moodreel.batch.filesystem import OutputFolder


class LightAnalyzer(ClipAnalyzer):
    """Answer by the name of a file: some are broken, some kill the worker. Count the attempts at each beside it."""

    def __init__(self, options: AnalyzerOptions, output: OutputFolder) -> None:
        pass

    def analyze(self, url: str) -> Row:
        path = Path(url.removeprefix("file://"))
        with path.with_suffix(".attempts").open("a") as attempts:
            attempts.write("x")
        if "crash" in path.name:
            os.kill(os.getpid(), signal.SIGKILL)
        row: Row = {"source": url, "day": "2025-03-31", "day_from": "name"}
        if "broken" in path.name:
            return row | {"error": "video_corrupt", "detail": "It is damaged."}
        if "full" in path.name:
            return {"source": url, "error": STOPPED, "detail": "No space left on device."}
        return row | {"emotion": "Happy", "probabilities": {"Happy": 1.0}}
