"""What is known of one client's video: who is in it, what they showed a moment ago, how fast frames come.

A session has room for one frame that waits. A frame that comes before it was looked at takes its place: what a client
gets is always about the newest, and one that is faster than the server builds no queue.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moodreel.faces.facial_actions import FacialActionExplainer
from moodreel.faces.tracker import Box, Tracker
from moodreel.live.frame import FrameDetections, FrameFace
from moodreel.live.messages import LiveFace, SessionSettings
from moodreel.live.rate_control import RateController
from moodreel.live.smoothing import EmaSmoother
from moodreel.models.predictor import Predictor
from moodreel.pipelines.video import by_label

STAYS = 1.2
"""Times as large another face must be to become the largest: two of one size would take turns."""
WINDOW_SECONDS, STEP_SECONDS = 2.9, 0.2
"""How much of the past counts for what a face shows now, and in what steps. Of two people at a webcam who mostly talk,
frames read by themselves showed something else than Neutral in 9 and 14 of 100, in this light in 2 and 3; a smile or a
laugh showed at once or 0.4 s later."""
LOOK_AGAIN_SECONDS = 0.5
"""How often a frame in which no face shows is looked at more closely; in between each gets one look."""


@dataclass
class _Known:
    """What is known of one face: its last seconds, what it showed, and what moved in it."""

    window: "SlidingWindow" = field(default_factory=lambda: SlidingWindow())
    probabilities: EmaSmoother = field(default_factory=EmaSmoother)
    blendshapes: EmaSmoother = field(default_factory=EmaSmoother)


class SlidingWindow:
    """The last seconds of one face, whatever the frame rate at moments as far apart as networks learnt them."""

    def __init__(self) -> None:
        self._moments: deque[tuple[float, Any]] = deque()
        self._due = float("-inf")

    def with_now(self, now: float, observation: Any) -> list[Any | None]:
        """Add what is seen now, and give all moments, None where the face was not seen; the last is now."""
        while self._moments and now - self._moments[0][0] > WINDOW_SECONDS:
            self._moments.popleft()
        window: list[Any | None] = []
        times = [*(time for time, _ in self._moments), now]
        for (_, kept), (time, following) in zip(self._moments, itertools.pairwise(times), strict=True):
            # One that is hardly older than now stands for now.
            if now - time >= STEP_SECONDS / 2:
                window += [kept, *[None] * (round((following - time) / STEP_SECONDS) - 1)]
        if now >= self._due:
            self._moments.append((now, observation))
            # On a grid, so that frames that fall beside it even out; a tenth of a step early is early enough.
            self._due = (self._due if now - self._due < STEP_SECONDS else now - 0.1 * STEP_SECONDS) + STEP_SECONDS
        return [*window, observation]


class LiveSession:
    """One client's video. `Desk` sees to it that only one thread at a time looks at its frames.

    now: seconds, of the clock that `LiveFrame.came` is of.
    """

    def __init__(self, wishes: SessionSettings, movements: FacialActionExplainer, now: float) -> None:
        self._movements = movements
        self.frames = self.dropped = 0
        self.configure(wishes, now)
        self.restart()

    def configure(self, wishes: SessionSettings, now: float) -> None:
        """Take other wishes, from the next frame on. Who is in the video stays known."""
        self.settings = wishes
        self.pace = RateController(wishes.side, wishes.frame_rate, now)

    def restart(self) -> None:
        """Forget who was in the video."""
        self._tracker = Tracker()
        self._known: dict[int, _Known] = {}
        self._main: int | None = None
        self._look_again_at = 0.0
        self.model: Predictor | None = None

    def looks_again(self, now: float) -> bool:
        """Tell whether a frame in which no face shows is worth a closer look now."""
        return now >= self._look_again_at

    def classify(self, look: FrameDetections, predictor: Predictor, came: float) -> tuple[LiveFace, ...]:
        """Say what the faces of a frame show, the largest first.

        came: seconds, when the frame came: never before the one before.
        """
        if look.faces or self.looks_again(came):
            self._look_again_at = came + LOOK_AGAIN_SECONDS
        tracks = self._tracker.update(came, [face.box for face in look.faces], [face.cue for face in look.faces])
        if predictor is not self.model:
            # Another model's probabilities are not to be mixed with these.
            self.model, self._known = predictor, {}
        living = self._tracker.active_ids
        self._known = {track: known for track, known in self._known.items() if track in living}
        chosen = self._choose(list(zip(tracks, look.faces, strict=True)))
        observed = predictor.embed_faces([face.features for _, face in chosen])
        windows = [
            self._known.setdefault(track, _Known()).window.with_now(came, observation)
            for (track, _), observation in zip(chosen, observed, strict=True)
        ]
        return tuple(
            self._face(track, face, probabilities, predictor.info.labels, came)
            for (track, face), probabilities in zip(chosen, predictor.classify_windows(windows), strict=True)
        )

    def _choose(self, faces: list[tuple[int, FrameFace]]) -> list[tuple[int, FrameFace]]:
        """Choose the faces to answer for, of those of a frame, the largest first."""
        if self.settings.faces == "all" or not faces:
            return faces[: self.settings.max_faces]
        largest = faces[0]
        main = next((face for face in faces if face[0] == self._main), None)
        if main is None or _area(largest[1].box) > STAYS * _area(main[1].box):
            main = largest
        self._main = main[0]
        return [main]

    def _face(self, track: int, face: FrameFace, now: np.ndarray, labels: Sequence[str], came: float) -> LiveFace:
        known = self._known[track]
        smoothed = known.probabilities.update(came, now, self.settings.smoothing)
        blendshapes = known.blendshapes.update(came, face.features.blendshapes, self.settings.smoothing)
        best = int(smoothed.argmax())
        emotion, probabilities = labels[best], by_label(labels, smoothed)
        x, y, w, h = (round(side) for side in face.box)
        return LiveFace(
            track=track,
            box=(x, y, w, h),
            emotion=emotion,
            confidence=float(smoothed[best]),
            probabilities=probabilities,
            movements=self._movements.active_actions(blendshapes),
            explanation=self._movements.explain(blendshapes, probabilities, emotion) if self.settings.explain else None,
        )


def _area(box: Box) -> float:
    return box[2] * box[3]
