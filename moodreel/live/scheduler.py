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
from moodreel.models.predictor import Predictor
from moodreel.pipelines.video import VideoPipeline

logger = logging.getLogger(__name__)

EARLY = 0.9
"""Share of the time between two frames after which the next is due: cameras are not exact."""


@dataclass(eq=False)
class SessionSlot:
    """One session at the desk, and where its outcomes go."""

    session: LiveSession
    deliver: Callable[[LiveEvent], None]
    waiting: LiveFrame | None = None
    due: float = 0.0
    began: float = field(default=float("-inf"))
    busy: bool = False
    gone: bool = False
    anew: bool = False
    """Whether to forget who was in the video, as soon as no frame of it is being looked at."""


class FrameScheduler:
    """Looks at the frames of all live sessions of a process, with an analyser's models.

    limits: of one frame. threads: frames that are looked at at once.
    """

    def __init__(self, analyser: VideoPipeline, limits: ImageLimits, *, threads: int = 1) -> None:
        self._analyser = analyser
        self.limits = limits
        self._threads = threads
        self._clients: list[SessionSlot] = []
        self._change = threading.Condition()
        self._working: list[threading.Thread] = []
        self._closed = False

    def open(self, wishes: SessionSettings, deliver: Callable[[LiveEvent], None]) -> SessionSlot:
        """Begin a session; its outcomes go to `deliver`, from a thread of the desk, one at a time.

        Raises ModelNotFound, or ModelInvalid where the model cannot be loaded.
        """
        self._analyser.models.get(wishes.model)
        client = SessionSlot(LiveSession(wishes, self._analyser.movements, clock.monotonic()), deliver)
        with self._change:
            self._clients.append(client)
            while len(self._working) < self._threads and not self._closed:
                thread = threading.Thread(target=self._work, name="live", daemon=True)
                self._working.append(thread)
                thread.start()
        return client

    def configure(self, client: SessionSlot, wishes: SessionSettings) -> None:
        """Change a session's wishes. Raises as `open`."""
        self._analyser.models.get(wishes.model)
        with self._change:
            client.session.configure(wishes, clock.monotonic())

    def offer(
        self, client: SessionSlot, data: bytes, *, sequence: int | None = None, time: float | None = None
    ) -> LiveFrame | None:
        """Put a frame in a session's place; give the one that it displaces, which nobody will look at.

        Raises UnsupportedMedia, ImageTooBig: what the first bytes and the size say.
        """
        frame = LiveFrame(data, clock.monotonic(), sequence, time)
        with self._change:
            session = client.session
            session.pace.came()
            try:
                check_frame(data, self.limits)
            except MoodreelError:
                session.dropped += 1
                raise
            displaced, client.waiting = client.waiting, frame
            if displaced is None:
                client.due = max(frame.came, client.began + EARLY / session.settings.frame_rate)
                self._change.notify()
            else:
                session.dropped += 1
            return displaced

    def pause(self, client: SessionSlot) -> None:
        """Forget the frame that waits, and who was in the video."""
        with self._change:
            self._forget_frame(client)
            client.anew = True
            self._begin_anew(client)

    def leave(self, client: SessionSlot) -> None:
        """End a session; nothing is delivered to it any more, but what is on its way."""
        with self._change:
            client.gone = True
            self._forget_frame(client)
            if client in self._clients:
                self._clients.remove(client)

    def close(self) -> None:
        """Stop the threads, each after the frame that it is looking at."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    @property
    def sessions(self) -> int:
        return len(self._clients)

    def _forget_frame(self, client: SessionSlot) -> None:
        if client.waiting is not None:
            client.waiting = None
            client.session.dropped += 1

    def _begin_anew(self, client: SessionSlot) -> None:
        # Not under a thread that looks at a frame: it would miss what it has just noted.
        if client.anew and not client.busy:
            client.anew = False
            client.session.restart()

    def _work(self) -> None:
        while (client := self._next()) is not None:
            try:
                self._serve(client)
            except Exception:
                # A thread that died here would leave every session without an answer.
                logger.exception("a live frame was lost")
            finally:
                with self._change:
                    client.busy = False
                    self._begin_anew(client)
                    self._change.notify()

    def _next(self) -> SessionSlot | None:
        """Wait for the session that has been due longest; None once the desk is closed."""
        with self._change:
            while not self._closed:
                ready = [client for client in self._clients if client.waiting is not None and not client.busy]
                now = clock.monotonic()
                client = min(ready, key=lambda client: client.due, default=None)
                if client is not None and client.due <= now:
                    client.busy, client.began = True, now
                    return client
                self._change.wait(client.due - now if client is not None else None)
        return None

    def _serve(self, client: SessionSlot) -> None:
        with self._change:
            session, frame, client.waiting = client.session, client.waiting, None
        if frame is None:
            return
        outcome = self._look(session, frame)
        if client.gone:
            return
        client.deliver(outcome)
        if isinstance(outcome, LiveResult):
            suggestion = session.pace.check(clock.monotonic(), (outcome.width, outcome.height))
            if suggestion is not None:
                client.deliver(suggestion)

    def _look(self, session: LiveSession, frame: LiveFrame) -> LiveResult | LiveFailure:
        began, wishes, side = clock.monotonic(), session.settings, session.pace.side
        try:
            predictor: Predictor = self._analyser.models.get(wishes.model)
            detections = detect_faces(
                self._analyser.landmarker,
                frame.data,
                self.limits,
                side=side,
                portrait=predictor.requires_rgb_crop,
                again=session.looks_again(frame.came),
            )
            faces = session.classify(detections, predictor, frame.came)
        except MoodreelError as error:
            session.dropped += 1
            # It took its time, and a slower or smaller one would be no better.
            session.pace.answered((clock.monotonic() - frame.came) * 1000)
            return LiveFailure(frame, error)
        except Exception:
            logger.exception("a live frame could not be looked at")
            session.dropped += 1
            return LiveFailure(frame, None)
        session.frames += 1
        milliseconds = (clock.monotonic() - frame.came) * 1000
        session.pace.answered(milliseconds)
        return LiveResult(
            frame=frame,
            faces=faces,
            width=detections.width,
            height=detections.height,
            side=side,
            milliseconds=milliseconds,
            waited=(began - frame.came) * 1000,
            frames=session.frames,
            dropped=session.dropped,
            model=predictor.info.name,
        )
