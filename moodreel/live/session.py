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
from moodreel.models.predictor import FacePredictor, label_probabilities

SWITCH_RATIO = 1.2
"""Times as large another face must be to become the largest: two of one size would take turns."""
WINDOW_SECONDS, STEP_SECONDS = 2.9, 0.2
"""How much of the past counts for what a face shows now, and in what steps. Of two people at a webcam who mostly talk,
frames read by themselves showed something else than Neutral in 9 and 14 of 100, in this light in 2 and 3; a smile or a
laugh showed at once or 0.4 s later."""
FALLBACK_INTERVAL_SECONDS = 0.5
"""How often a frame in which no face shows is looked at more closely; in between each gets one look."""


@dataclass
class _TrackState:
    """What is known of one face: its last seconds, what it showed, and what moved in it."""

    window: "SlidingWindow" = field(default_factory=lambda: SlidingWindow())
    probabilities: EmaSmoother = field(default_factory=EmaSmoother)
    blendshapes: EmaSmoother = field(default_factory=EmaSmoother)


class SlidingWindow:
    """The last seconds of one face, whatever the frame rate at moments as far apart as networks learnt them."""

    def __init__(self) -> None:
        self._observations: deque[tuple[float, Any]] = deque()
        self._next_at = float("-inf")

    def add(self, now: float, observation: Any) -> list[Any | None]:
        """Add what is seen now, and give all moments, None where the face was not seen; the last is now."""
        while self._observations and now - self._observations[0][0] > WINDOW_SECONDS:
            self._observations.popleft()
        window: list[Any | None] = []
        times = [*(time for time, _ in self._observations), now]
        for (_, kept), (time, following) in zip(self._observations, itertools.pairwise(times), strict=True):
            # One that is hardly older than now stands for now.
            if now - time >= STEP_SECONDS / 2:
                window += [kept, *[None] * (round((following - time) / STEP_SECONDS) - 1)]
        if now >= self._next_at:
            self._observations.append((now, observation))
            # On a grid, so that frames that fall beside it even out; a tenth of a step early is early enough.
            self._next_at = (
                self._next_at if now - self._next_at < STEP_SECONDS else now - 0.1 * STEP_SECONDS
            ) + STEP_SECONDS
        return [*window, observation]


class LiveSession:
    """One client's video. `Desk` sees to it that only one thread at a time looks at its frames.

    now: seconds, of the clock that `LiveFrame.came` is of.
    """

    def __init__(self, settings: SessionSettings, explainer: FacialActionExplainer, now: float) -> None:
        self._explainer = explainer
        self.frames = self.dropped = 0
        self.configure(settings, now)
        self.restart()

    def configure(self, settings: SessionSettings, now: float) -> None:
        """Take other wishes, from the next frame on. Who is in the video stays known."""
        self.settings = settings
        self.rate_controller = RateController(settings.side, settings.frame_rate, now)

    def restart(self) -> None:
        """Forget who was in the video."""
        self._tracker = Tracker()
        self._tracks: dict[int, _TrackState] = {}
        self._main: int | None = None
        self._fallbacks_at = 0.0
        self.model: FacePredictor | None = None

    def wants_fallbacks(self, now: float) -> bool:
        """Tell whether a frame in which no face shows is worth a closer look now."""
        return now >= self._fallbacks_at

    def classify(self, detections: FrameDetections, predictor: FacePredictor, time: float) -> tuple[LiveFace, ...]:
        """Say what the faces of a frame show, the largest first.

        came: seconds, when the frame came: never before the one before.
        """
        if detections.faces or self.wants_fallbacks(time):
            self._fallbacks_at = time + FALLBACK_INTERVAL_SECONDS
        tracks = self._tracker.update(
            time, [face.box for face in detections.faces], [face.appearance for face in detections.faces]
        )
        if predictor is not self.model:
            # Another model's probabilities are not to be mixed with these.
            self.model, self._tracks = predictor, {}
        living = self._tracker.active_ids
        self._tracks = {track: known for track, known in self._tracks.items() if track in living}
        chosen = self._select_faces(list(zip(tracks, detections.faces, strict=True)))
        observed = predictor.embed_faces([face.features for _, face in chosen])
        windows = [
            self._tracks.setdefault(track, _TrackState()).window.add(time, observation)
            for (track, _), observation in zip(chosen, observed, strict=True)
        ]
        return tuple(
            self._live_face(track, face, probabilities, predictor.info.labels, time)
            for (track, face), probabilities in zip(chosen, predictor.classify_windows(windows), strict=True)
        )

    def _select_faces(self, faces: list[tuple[int, FrameFace]]) -> list[tuple[int, FrameFace]]:
        """Choose the faces to answer for, of those of a frame, the largest first."""
        if self.settings.faces == "all" or not faces:
            return faces[: self.settings.max_faces]
        largest = faces[0]
        main = next((face for face in faces if face[0] == self._main), None)
        if main is None or _area(largest[1].box) > SWITCH_RATIO * _area(main[1].box):
            main = largest
        self._main = main[0]
        return [main]

    def _live_face(self, track: int, face: FrameFace, now: np.ndarray, labels: Sequence[str], came: float) -> LiveFace:
        known = self._tracks[track]
        smoothed = known.probabilities.update(came, now, self.settings.smoothing)
        blendshapes = known.blendshapes.update(came, face.features.blendshapes, self.settings.smoothing)
        best = int(smoothed.argmax())
        emotion, probabilities = labels[best], label_probabilities(labels, smoothed)
        x, y, w, h = (round(side) for side in face.box)
        return LiveFace(
            track=track,
            box=(x, y, w, h),
            emotion=emotion,
            confidence=float(smoothed[best]),
            probabilities=probabilities,
            actions=self._explainer.active_actions(blendshapes),
            explanation=self._explainer.explain(blendshapes, probabilities, emotion) if self.settings.explain else None,
        )


def _area(box: Box) -> float:
    return box[2] * box[3]
