"""Schedule the live frames of all sessions on a fixed pool of worker threads, earliest due time first.

Each session holds one pending frame; a newer one replaces it. After a result a session is due again only when its frame
rate allows. So all sessions get their turn, and one that sends ten thousand frames a second gets no more than another.
"""

import logging
import threading
import time as clock
from collections.abc import Callable
from dataclasses import dataclass

from moodreel.errors import MoodreelError
from moodreel.live.frame import check_frame, detect_faces
from moodreel.live.messages import LiveEvent, LiveFailure, LiveFrame, LiveResult, SessionSettings
from moodreel.live.session import LiveSession
from moodreel.media.image import ImageLimits
from moodreel.models.predictor import FacePredictor
from moodreel.pipelines.engine import Engine

logger = logging.getLogger(__name__)

DUE_TOLERANCE = 0.9
"""Share of the frame interval after which the next frame is due: cameras are not exact."""


@dataclass(eq=False)
class ScheduledSession:
    """A session as the scheduler knows it: its pending frame, and when that is due.

    Attributes:
        session: The session.
        on_event: Receives its results.
        pending: The frame to process next.
        due_at: When to process it.
        started_at: When the last frame was taken.
        busy: Whether a worker processes a frame.
        closed: Whether to discard results.
        reset_requested: Whether to reset the session as soon as it is not busy.
    """

    session: LiveSession
    on_event: Callable[[LiveEvent], None]
    pending: LiveFrame | None = None
    due_at: float = 0.0
    started_at: float = float("-inf")
    busy: bool = False
    closed: bool = False
    reset_requested: bool = False


class FrameScheduler:
    """Processes the frames of all live sessions of a process. Thread-safe.

    Args:
        engine: Its landmarker and models.
        limits: Of one frame.
        threads: Frames processed at the same time.
    """

    def __init__(self, engine: Engine, limits: ImageLimits, *, threads: int = 1) -> None:
        self._engine = engine
        self.limits = limits
        self._threads = threads
        self._sessions: list[ScheduledSession] = []
        self._changed = threading.Condition()
        self._workers: list[threading.Thread] = []
        self._closed = False

    def open_session(self, settings: SessionSettings, on_event: Callable[[LiveEvent], None]) -> ScheduledSession:
        """Open a session. Worker threads call `on_event` with its results, one at a time.

        Raises:
            ModelNotFound: There is no such model.
            ModelInvalid: The model cannot be loaded.
        """
        self._engine.models.get(settings.model)
        scheduled = ScheduledSession(LiveSession(settings, self._engine.facial_actions, clock.monotonic()), on_event)
        with self._changed:
            self._sessions.append(scheduled)
            while len(self._workers) < self._threads and not self._closed:
                thread = threading.Thread(target=self._run_worker, name="live", daemon=True)
                self._workers.append(thread)
                thread.start()
        return scheduled

    def configure(self, scheduled: ScheduledSession, settings: SessionSettings) -> None:
        """Change a session's settings. Raises as `open_session` does."""
        self._engine.models.get(settings.model)
        with self._changed:
            scheduled.session.configure(settings, clock.monotonic())

    def submit(
        self, scheduled: ScheduledSession, data: bytes, *, sequence: int | None = None, time: float | None = None
    ) -> LiveFrame | None:
        """Submit a frame. Returns the pending frame that it replaces, if any.

        Raises:
            UnsupportedMedia: It is not a JPEG.
            ImageTooBig: It has too many bytes.
        """
        frame = LiveFrame(data, clock.monotonic(), sequence, time)
        with self._changed:
            session = scheduled.session
            session.load_controller.on_received()
            try:
                check_frame(data, self.limits)
            except MoodreelError:
                session.dropped += 1
                raise
            replaced, scheduled.pending = scheduled.pending, frame
            if replaced is None:
                scheduled.due_at = max(
                    frame.received_at, scheduled.started_at + DUE_TOLERANCE / session.settings.frame_rate
                )
                self._changed.notify()
            else:
                session.dropped += 1
            return replaced

    def pause(self, scheduled: ScheduledSession) -> None:
        """Drop the pending frame and forget the faces of the video."""
        with self._changed:
            self._drop_pending(scheduled)
            scheduled.reset_requested = True
            self._reset_if_idle(scheduled)

    def close_session(self, scheduled: ScheduledSession) -> None:
        """Close a session. It gets no more results, except one that is being delivered."""
        with self._changed:
            scheduled.closed = True
            self._drop_pending(scheduled)
            if scheduled in self._sessions:
                self._sessions.remove(scheduled)

    def close(self) -> None:
        """Stop the workers after the frames that they process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _drop_pending(self, scheduled: ScheduledSession) -> None:
        if scheduled.pending is not None:
            scheduled.pending = None
            scheduled.session.dropped += 1

    def _reset_if_idle(self, scheduled: ScheduledSession) -> None:
        # Not while a worker uses the session.
        if scheduled.reset_requested and not scheduled.busy:
            scheduled.reset_requested = False
            scheduled.session.restart()

    def _run_worker(self) -> None:
        while (scheduled := self._next_due()) is not None:
            try:
                self._process_next(scheduled)
            except Exception:
                # An error must not end the worker thread: without workers no session would get results.
                logger.exception("a live frame was lost")
            finally:
                with self._changed:
                    scheduled.busy = False
                    self._reset_if_idle(scheduled)
                    self._changed.notify()

    def _next_due(self) -> ScheduledSession | None:
        """Wait for the session with the earliest due time. Returns None after `close`."""
        with self._changed:
            while not self._closed:
                ready = [
                    scheduled for scheduled in self._sessions if scheduled.pending is not None and not scheduled.busy
                ]
                now = clock.monotonic()
                scheduled = min(ready, key=lambda scheduled: scheduled.due_at, default=None)
                if scheduled is not None and scheduled.due_at <= now:
                    scheduled.busy, scheduled.started_at = True, now
                    return scheduled
                self._changed.wait(scheduled.due_at - now if scheduled is not None else None)
        return None

    def _process_next(self, scheduled: ScheduledSession) -> None:
        with self._changed:
            session, frame, scheduled.pending = scheduled.session, scheduled.pending, None
        if frame is None:
            return
        event = self._process_frame(session, frame)
        if scheduled.closed:
            return
        scheduled.on_event(event)
        if isinstance(event, LiveResult):
            suggestion = session.load_controller.update(clock.monotonic(), (event.width, event.height))
            if suggestion is not None:
                scheduled.on_event(suggestion)

    def _process_frame(self, session: LiveSession, frame: LiveFrame) -> LiveResult | LiveFailure:
        started, settings, side = clock.monotonic(), session.settings, session.load_controller.side
        try:
            predictor: FacePredictor = self._engine.models.get(settings.model)
            detections = detect_faces(
                self._engine.landmarker,
                frame.data,
                self.limits,
                side=side,
                crop_kind=predictor.crop_kind,
                use_fallbacks=session.wants_fallbacks(frame.received_at),
            )
            faces = session.classify(detections, self._engine.landmarker, predictor, frame.received_at)
        except MoodreelError as error:
            session.dropped += 1
            # It took time too, but its failure is no reason to scale down.
            session.load_controller.on_answered((clock.monotonic() - frame.received_at) * 1000)
            return LiveFailure(frame, error)
        except Exception:
            logger.exception("a live frame could not be processed")
            session.dropped += 1
            return LiveFailure(frame, None)
        session.frames += 1
        milliseconds = (clock.monotonic() - frame.received_at) * 1000
        session.load_controller.on_answered(milliseconds)
        return LiveResult(
            frame=frame,
            faces=faces,
            width=detections.width,
            height=detections.height,
            side=side,
            latency_ms=milliseconds,
            queued_ms=(started - frame.received_at) * 1000,
            frames=session.frames,
            dropped=session.dropped,
            model=predictor.info.name,
        )
