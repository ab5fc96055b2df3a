"""Share a cache of analyses between the workers. Hits and misses are counted; a failure never fails a request."""

import logging
from pathlib import Path

import moodreel
from api.metrics import ANALYSIS_CACHE
from api.settings import Settings
from moodreel.storage.analysis_store import AnalysisStore, AnalysisStoreError

logger = logging.getLogger(__name__)


class SharedAnalysisCache:
    """An `AnalysisCache` in a file. Its keys also hold the settings that change an analysis."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Open the file. Raises AnalysisStoreError."""
        self._store = AnalysisStore(path, seconds=settings.analysis_cache_seconds)
        names = ("prior", "analysis_fps", "max_seconds", "max_frames", "max_frame_pixels", "max_total_pixels")
        self._prefix = f"{moodreel.__version__} {[getattr(settings, name) for name in names]} "

    def get(self, key: str) -> str | None:
        """Return the text that is stored under a key; None without one, or if the file cannot be read."""
        try:
            text = self._store.get(self._prefix + key)
        except AnalysisStoreError as error:
            self._report(error)
            return None
        ANALYSIS_CACHE.labels("hit" if text else "miss").inc()
        return text

    def put(self, key: str, text: str) -> None:
        """Store a text, if the file can be written."""
        try:
            self._store.put(self._prefix + key, text)
        except AnalysisStoreError as error:
            self._report(error)

    def prune(self) -> None:
        """Delete what is too old."""
        try:
            self._store.prune()
        except AnalysisStoreError as error:
            self._report(error)

    def _report(self, error: AnalysisStoreError) -> None:
        ANALYSIS_CACHE.labels("failed").inc()
        logger.error("%s", error)
