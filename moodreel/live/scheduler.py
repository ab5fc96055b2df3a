"""Schedule the live frames of all sessions on a fixed pool of worker threads, earliest due time first.

Each session holds one pending frame; a newer one replaces it. After a result a session is due again only when its frame
rate allows. So all sessions get their turn, and one that sends ten thousand frames a second gets no more than another.
"""

import logging
import threading
import time as clock
from collections.abc import Callable
from dataclasses import dataclass, field

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
class SessionSlot:
    """A session and its pending frame.

    Attributes:
        session: the session.
        on_event: receives its results.
        pending: the frame to process next.
        due_at: when to process it.
        started_at: when the last frame was taken.
        busy: whether a worker processes a frame.
        closed: whether to discard results.
        reset_requested: whether to reset the session as soon as it is not busy.
    """

    session: LiveSession
    on_event: Callable[[LiveEvent], None]
    pending: LiveFrame | None = None
    due_at: float = 0.0
    started_at: float = field(default=float("-inf"))
    busy: bool = False
    closed: bool = False
    reset_requested: bool = False


class FrameScheduler:
    """Processes the frames of all live sessions of a process. Thread-safe.

    Args:
        engine: its landmarker and models.
        limits: of one frame.
        threads: frames processed at the same time.
    """

    def __init__(self, engine: Engine, limits: ImageLimits, *, threads: int = 1) -> None:
        self._engine = engine
        self.limits = limits
        self._threads = threads
        self._sessions: list[SessionSlot] = []
        self._changed = threading.Condition()
        self._workers: list[threading.Thread] = []
        self._closed = False

    def open_session(self, settings: SessionSettings, on_event: Callable[[LiveEvent], None]) -> SessionSlot:
        """Open a session. Worker threads call `on_event` with its results, one at a time.

        Raises:
            ModelNotFound: there is no such model.
            ModelInvalid: the model cannot be loaded.
        """
        self._engine.models.get(settings.model)
        slot = SessionSlot(LiveSession(settings, self._engine.facial_actions, clock.monotonic()), on_event)
        with self._changed:
            self._sessions.append(slot)
            while len(self._workers) < self._threads and not self._closed:
                thread = threading.Thread(target=self._run_worker, name="live", daemon=True)
                self._workers.append(thread)
                thread.start()
        return slot

    def configure(self, slot: SessionSlot, settings: SessionSettings) -> None:
        """Change a session's settings. Raises as `open_session` does."""
        self._engine.models.get(settings.model)
        with self._changed:
            slot.session.configure(settings, clock.monotonic())

    def submit(
        self, slot: SessionSlot, data: bytes, *, sequence: int | None = None, time: float | None = None
    ) -> LiveFrame | None:
        """Submit a frame. Returns the pending frame that it replaces, if any.

        Raises:
            UnsupportedMedia: it is not a JPEG.
            ImageTooBig: it has too many bytes.
        """
        frame = LiveFrame(data, clock.monotonic(), sequence, time)
        with self._changed:
            session = slot.session
            session.rate_controller.on_received()
            try:
                check_frame(data, self.limits)
            except MoodreelError:
                session.dropped += 1
                raise
            replaced, slot.pending = slot.pending, frame
            if replaced is None:
                slot.due_at = max(frame.received_at, slot.started_at + DUE_TOLERANCE / session.settings.frame_rate)
                self._changed.notify()
            else:
                session.dropped += 1
            return replaced

    def pause(self, slot: SessionSlot) -> None:
        """Drop the pending frame and forget the faces of the video."""
        with self._changed:
            self._drop_pending(slot)
            slot.reset_requested = True
            self._reset_if_idle(slot)

    def close_session(self, slot: SessionSlot) -> None:
        """Close a session. It gets no more results, except one that is being delivered."""
        with self._changed:
            slot.closed = True
            self._drop_pending(slot)
            if slot in self._sessions:
                self._sessions.remove(slot)

    def close(self) -> None:
        """Stop the workers after the frames that they process."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def sessions(self) -> int:
        """Number of open sessions."""
        return len(self._sessions)

    def _drop_pending(self, slot: SessionSlot) -> None:
        if slot.pending is not None:
            slot.pending = None
            slot.session.dropped += 1

    def _reset_if_idle(self, slot: SessionSlot) -> None:
        # Not while a worker uses the session.
        if slot.reset_requested and not slot.busy:
            slot.reset_requested = False
            slot.session.restart()

    def _run_worker(self) -> None:
        while (slot := self._next_due()) is not None:
            try:
                self._process_next(slot)
            except Exception:
                # A worker must survive: without workers no session would get results.
                logger.exception("a live frame was lost")
            finally:
                with self._changed:
                    slot.busy = False
                    self._reset_if_idle(slot)
                    self._changed.notify()

    def _next_due(self) -> SessionSlot | None:
        """Wait for the session with the earliest due time. Returns None after `close`."""
        with self._changed:
            while not self._closed:
                ready = [slot for slot in self._sessions if slot.pending is not None and not slot.busy]
                now = clock.monotonic()
                slot = min(ready, key=lambda slot: slot.due_at, default=None)
                if slot is not None and slot.due_at <= now:
                    slot.busy, slot.started_at = True, now
                    return slot
                self._changed.wait(slot.due_at - now if slot is not None else None)
        return None

    def _process_next(self, slot: SessionSlot) -> None:
        with self._changed:
            session, frame, slot.pending = slot.session, slot.pending, None
        if frame is None:
            return
        event = self._process_frame(session, frame)
        if slot.closed:
            return
        slot.on_event(event)
        if isinstance(event, LiveResult):
            suggestion = session.rate_controller.update(clock.monotonic(), (event.width, event.height))
            if suggestion is not None:
                slot.on_event(suggestion)

    def _process_frame(self, session: LiveSession, frame: LiveFrame) -> LiveResult | LiveFailure:
        began, wishes, side = clock.monotonic(), session.settings, session.rate_controller.side
        try:
            predictor: FacePredictor = self._engine.models.get(wishes.model)
            detections = detect_faces(
                self._engine.landmarker,
                frame.data,
                self.limits,
                side=side,
                with_rgb_crop=predictor.requires_rgb_crop,
                use_fallbacks=session.wants_fallbacks(frame.received_at),
            )
            faces = session.classify(detections, predictor, frame.received_at)
        except MoodreelError as error:
            session.dropped += 1
            # It took time too, but its failure is no reason to scale down.
            session.rate_controller.on_answered((clock.monotonic() - frame.received_at) * 1000)
            return LiveFailure(frame, error)
        except Exception:
            logger.exception("a live frame could not be processed")
            session.dropped += 1
            return LiveFailure(frame, None)
        session.frames += 1
        milliseconds = (clock.monotonic() - frame.received_at) * 1000
        session.rate_controller.on_answered(milliseconds)
        return LiveResult(
            frame=frame,
            faces=faces,
            width=detections.width,
            height=detections.height,
            side=side,
            latency_ms=milliseconds,
            queued_ms=(began - frame.received_at) * 1000,
            frames=session.frames,
            dropped=session.dropped,
            model=predictor.info.name,
        )
