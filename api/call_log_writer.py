"""Write calls into the call log, and keep them in memory while it cannot be written.

A call is written by its own thread when it begins and when it has ended. If that fails, it waits in memory, and so do
all that follow, until a background thread has written them in their order. So no call waits long for the log, and each
has its row when the log is back. Rows that wait are lost if their process is killed.
"""

import json
import logging
import threading
import time
from datetime import datetime
from itertools import islice

from api.metrics import LOG_FAILURES, LOST_CALLS, WAITING_CALLS
from moodreel.storage.call_log import Call, CallLog, CallLogError
from moodreel.storage.timestamps import format_timestamp
from moodreel.timing import stage

MAX_WAITING = 20_000
"""Calls that wait in one process, some 2 kB each. Further calls are not logged."""
RETRY_SECONDS = 0.5
REPORT_SECONDS = 60.0
"""Time between two messages about the same failure."""
STOP_SECONDS = 5.0
"""How long a process that stops tries to write the calls that wait."""

_BATCH = 200

logger = logging.getLogger(__name__)
calls_logger = logging.getLogger("moodreel.calls")


class CallLogWriter:
    """Write calls into the log, now or as soon as possible. Thread-safe. Make one after a fork, never before."""

    def __init__(self, log: CallLog) -> None:
        self._log = log
        self._waiting: dict[Call, None] = {}
        self._changed = threading.Condition()
        self._thread_runs = False
        self._reason = ""
        self._reported_at = 0.0

    def write(self, call: Call, trace_id: str | None = None) -> None:
        """Write a call that has begun or ended, and one line about one that has ended. Never raises.

        The line has the `trace_id`, which must be given if the call's context is gone already.
        """
        if call.row["status_code"] is not None:
            _print(call, trace_id)
        with self._changed:
            if self._waiting:
                return self._enqueue(call)
        try:
            with stage("log"):
                self._log.write(call)
        except CallLogError as error:
            with self._changed:
                self._report(error)
                self._enqueue(call)

    def failure(self, seconds: float) -> str | None:
        """Wait until all calls are written. Returns None, or after `seconds` why calls still wait."""
        with self._changed:
            if self._changed.wait_for(lambda: not self._waiting, seconds):
                return None
            return f"The call log cannot be written: {self._reason}. Waiting rows: {len(self._waiting)}."

    def waiting_calls(self, caller: str, since: datetime, until: datetime) -> list[datetime]:
        """Return the times of a caller's calls that wait, as `CallLog.recent` counts them."""
        start, end = format_timestamp(since), format_timestamp(until)
        with self._changed:
            rows = [call.row for call in self._waiting if not call.is_job_run]
        return [
            datetime.fromisoformat(row["timestamp"])
            for row in rows
            if row["caller"] == caller and start <= row["timestamp"] <= end and row["error"] != "rate_limited"
        ]

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Wait until all calls are written; those that still wait after `seconds` are lost."""
        if self.failure(seconds):
            LOST_CALLS.inc(len(self._waiting))
            logger.critical("%d rows of the call log are lost: it could not be written", len(self._waiting))

    def _enqueue(self, call: Call) -> None:
        if call not in self._waiting and len(self._waiting) >= MAX_WAITING:
            # A call that has only begun is tried again when it ends.
            if call.row["status_code"] is not None:
                LOST_CALLS.inc()
            return
        self._waiting[call] = None
        WAITING_CALLS.set(len(self._waiting))
        if not self._thread_runs:
            self._thread_runs = True
            threading.Thread(target=self._write_waiting, name="call-log", daemon=True).start()

    def _write_waiting(self) -> None:
        """Write the calls that wait, in their order, until there are none."""
        count = 0
        while batch := self._next_batch():
            try:
                self._log.write(*(call for call, _ in batch))
            except CallLogError as error:
                with self._changed:
                    self._report(error)
                time.sleep(RETRY_SECONDS)
                continue
            count += len(batch)
            with self._changed:
                for call, row in batch:
                    # A call that has ended meanwhile is written again.
                    if call.row is row:
                        del self._waiting[call]
                WAITING_CALLS.set(len(self._waiting))
                self._changed.notify_all()
        logger.warning("The call log is written again; %d rows had waited.", count)

    def _next_batch(self) -> list[tuple[Call, object]]:
        with self._changed:
            self._thread_runs = bool(self._waiting)
            return [(call, call.row) for call in islice(self._waiting, _BATCH)]

    def _report(self, error: CallLogError) -> None:
        LOG_FAILURES.inc()
        reason, now = error.reason, time.monotonic()
        if reason != self._reason or now - self._reported_at > REPORT_SECONDS:
            logger.error("%s Calls are answered, and their rows wait in memory.", error)
            self._reported_at = now
        self._reason = reason


def _print(call: Call, trace_id: str | None) -> None:
    fields = {name: value for name, value in call.row.items() if value is not None and name != "worker"}
    if call.row["timings"]:
        fields["timings"] = json.loads(call.row["timings"])
    if trace_id:
        fields["trace_id"] = trace_id
    calls_logger.info(
        "%(method)s %(endpoint)s %(status_code)d %(latency_ms).1f ms",
        call.row,
        extra=fields | {"success": bool(call.row["success"])},
    )
