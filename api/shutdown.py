"""Run hooks as soon as a Gunicorn worker is stopped."""

import logging
import os
import threading
import time
from collections.abc import Callable

from gunicorn.workers.gthread import ThreadWorker

POLL_SECONDS = 0.25
"""How often to check whether the worker has been stopped."""

logger = logging.getLogger(__name__)


class ShutdownHooks:
    """Hooks that close long-lived connections at a stop. Gunicorn would wait for these as it does for requests.

    Attributes:
        stopping: Whether the worker has been stopped.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._hooks: list[Callable[[], None]] = []

    def add(self, hook: Callable[[], None]) -> None:
        """Register a hook during startup. It runs in a thread of its own, before running requests have ended."""
        self._hooks.append(hook)

    def start_watcher(self, worker: ThreadWorker) -> None:
        """Start to watch a Gunicorn worker, in a thread. Call it after the fork: a fork copies no threads."""
        threading.Thread(target=self._watch, args=[worker], name="shutdown-hooks", daemon=True).start()

    def run(self) -> None:
        """Run all hooks. One that fails is logged."""
        self.stopping = True
        for hook in self._hooks:
            try:
                hook()
            except Exception:
                logger.exception("a shutdown hook failed")

    def _watch(self, worker: ThreadWorker) -> None:
        # Polled, because hooks take locks and a signal handler must not.
        while worker.alive and worker.ppid == os.getppid():
            time.sleep(POLL_SECONDS)
        self.run()
