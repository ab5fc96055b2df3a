"""Where live frames come in, and who looks at which of them next.

Each session has one place for a frame. A few threads take the frames, the one that has been due longest first, and a
session that was served is due again only when its frame rate allows: so all have their turn, and one that sends ten
thousand frames a second gets no more than another.
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
"""Share of the time between two frames after which the next is due: cameras are not exact."""


@dataclass(eq=False)
class SessionSlot:
    """One session at the desk, and where its outcomes go."""

    session: LiveSession
    on_event: Callable[[LiveEvent], None]
    pending: LiveFrame | None = None
    due_at: float = 0.0
    started_at: float = field(default=float("-inf"))
    busy: bool = False
    closed: bool = False
    reset_requested: bool = False
    """Whether to forget who was in the video, as soon as no frame of it is being looked at."""


class FrameScheduler:
    """Looks at the frames of all live sessions of a process, with the models of an engine.

    limits: of one frame. threads: frames that are looked at at once.
    """

    def __init__(self, engine: Engine, limits: ImageLimits, *, threads: int = 1) -> None:
        self._engine = engine
        self.limits = limits
        self._threads = threads
        self._clients: list[SessionSlot] = []
        self._changed = threading.Condition()
        self._workers: list[threading.Thread] = []
        self._closed = False

    def open_session(self, settings: SessionSettings, on_event: Callable[[LiveEvent], None]) -> SessionSlot:
        """Begin a session; its outcomes go to `deliver`, from a thread of the desk, one at a time.

        Raises ModelNotFound, or ModelInvalid where the model cannot be loaded.
        """
        self._engine.models.get(settings.model)
        client = SessionSlot(LiveSession(settings, self._engine.facial_actions, clock.monotonic()), on_event)
        with self._changed:
            self._clients.append(client)
            while len(self._workers) < self._threads and not self._closed:
                thread = threading.Thread(target=self._run_worker, name="live", daemon=True)
                self._workers.append(thread)
                thread.start()
        return client

    def configure(self, client: SessionSlot, settings: SessionSettings) -> None:
        """Change a session's wishes. Raises as `open`."""
        self._engine.models.get(settings.model)
        with self._changed:
            client.session.configure(settings, clock.monotonic())

    def submit(
        self, client: SessionSlot, data: bytes, *, sequence: int | None = None, time: float | None = None
    ) -> LiveFrame | None:
        """Put a frame in a session's place; give the one that it displaces, which nobody will look at.

        Raises UnsupportedMedia, ImageTooBig: what the first bytes and the size say.
        """
        frame = LiveFrame(data, clock.monotonic(), sequence, time)
        with self._changed:
            session = client.session
            session.rate_controller.on_received()
            try:
                check_frame(data, self.limits)
            except MoodreelError:
                session.dropped += 1
                raise
            displaced, client.pending = client.pending, frame
            if displaced is None:
                client.due_at = max(frame.received_at, client.started_at + DUE_TOLERANCE / session.settings.frame_rate)
                self._changed.notify()
            else:
                session.dropped += 1
            return displaced

    def pause(self, client: SessionSlot) -> None:
        """Forget the frame that waits, and who was in the video."""
        with self._changed:
            self._drop_pending(client)
            client.reset_requested = True
            self._reset_if_idle(client)

    def close_session(self, client: SessionSlot) -> None:
        """End a session; nothing is delivered to it any more, but what is on its way."""
        with self._changed:
            client.closed = True
            self._drop_pending(client)
            if client in self._clients:
                self._clients.remove(client)

    def close(self) -> None:
        """Stop the threads, each after the frame that it is looking at."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def sessions(self) -> int:
        return len(self._clients)

    def _drop_pending(self, client: SessionSlot) -> None:
        if client.pending is not None:
            client.pending = None
            client.session.dropped += 1

    def _reset_if_idle(self, client: SessionSlot) -> None:
        # Not under a thread that looks at a frame: it would miss what it has just noted.
        if client.reset_requested and not client.busy:
            client.reset_requested = False
            client.session.restart()

    def _run_worker(self) -> None:
        while (client := self._next_due()) is not None:
            try:
                self._process_next(client)
            except Exception:
                # A thread that died here would leave every session without an answer.
                logger.exception("a live frame was lost")
            finally:
                with self._changed:
                    client.busy = False
                    self._reset_if_idle(client)
                    self._changed.notify()

    def _next_due(self) -> SessionSlot | None:
        """Wait for the session that has been due longest; None once the desk is closed."""
        with self._changed:
            while not self._closed:
                ready = [client for client in self._clients if client.pending is not None and not client.busy]
                now = clock.monotonic()
                client = min(ready, key=lambda client: client.due_at, default=None)
                if client is not None and client.due_at <= now:
                    client.busy, client.started_at = True, now
                    return client
                self._changed.wait(client.due_at - now if client is not None else None)
        return None

    def _process_next(self, client: SessionSlot) -> None:
        with self._changed:
            session, frame, client.pending = client.session, client.pending, None
        if frame is None:
            return
        outcome = self._process_frame(session, frame)
        if client.closed:
            return
        client.on_event(outcome)
        if isinstance(outcome, LiveResult):
            suggestion = session.rate_controller.update(clock.monotonic(), (outcome.width, outcome.height))
            if suggestion is not None:
                client.on_event(suggestion)

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
            # It took its time, and a slower or smaller one would be no better.
            session.rate_controller.on_answered((clock.monotonic() - frame.received_at) * 1000)
            return LiveFailure(frame, error)
        except Exception:
            logger.exception("a live frame could not be looked at")
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
