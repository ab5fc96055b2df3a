"""Keep the state of one client's video: its faces, their recent observations, and the rate of its frames."""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from moodreel.faces.detector import FaceDetector
from moodreel.faces.facial_actions import FacialActionExplainer
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.person_check import MAX_CHECKS, is_person
from moodreel.faces.quality import is_clear
from moodreel.faces.tracker import Box, Tracker
from moodreel.live.frame import FrameDetections, FrameFace
from moodreel.live.load_control import LoadController
from moodreel.live.messages import LiveFace, SessionSettings
from moodreel.live.smoothing import EmaSmoother
from moodreel.models.predictor import FacePredictor, label_probabilities

SWITCH_RATIO = 1.2
"""How many times larger another face must be to become the largest, so that two of one size do not alternate."""
WINDOW_SECONDS, STEP_SECONDS = 2.9, 0.2
"""Length and step of the window of observations that models classify. For two people at a webcam who mostly talk,
single frames were classified other than Neutral in 9 and 14 of 100, with this window in 2 and 3; a smile or a laugh was
recognized at once or 0.4 s later."""
FALLBACK_INTERVAL_SECONDS = 0.5
"""Minimum time between two frames without a face that are searched with fallbacks."""

CHECK_INTERVAL_SECONDS = 0.5
"""Minimum time between two checks that one face is a person's. Each costs a third of a detection."""


class SlidingWindow:
    """Sliding window of embeddings of one face, resampled to `STEP_SECONDS`, the rate the models were trained at."""

    def __init__(self) -> None:
        self._observations: deque[tuple[float, torch.Tensor]] = deque()
        self._next_at = float("-inf")

    def add(self, now: float, observation: torch.Tensor) -> list[torch.Tensor | None]:
        """Add an observation. Returns the window, None where the face was not detected; the last one is the newest."""
        while self._observations and now - self._observations[0][0] > WINDOW_SECONDS:
            self._observations.popleft()
        window: list[torch.Tensor | None] = []
        times = [*(time for time, _ in self._observations), now]
        for (_, old), (time, following) in zip(self._observations, itertools.pairwise(times), strict=True):
            # The new observation replaces one that is hardly older.
            if now - time >= STEP_SECONDS / 2:
                window += [old, *[None] * (round((following - time) / STEP_SECONDS) - 1)]
        if now >= self._next_at:
            self._observations.append((now, observation))
            # Steps lie on a grid, so that deviations even out; a frame may be a tenth of a step early.
            self._next_at = (
                self._next_at if now - self._next_at < STEP_SECONDS else now - 0.1 * STEP_SECONDS
            ) + STEP_SECONDS
        return [*window, observation]


class PersonCheck:
    """The checks of one face: when it appears, a few more times, and after that only while it does not pass."""

    def __init__(self) -> None:
        self._results: deque[bool] = deque(maxlen=MAX_CHECKS)
        self._next_at = float("-inf")

    def update(self, detector: FaceDetector, face: FrameFace, now: float) -> bool:
        """Check the face in one more frame, if a check is due. Returns whether at least half of the checks passed.

        Args:
            detector: Finds the face again.
            face: The face in this frame.
            now: Monotonic time in seconds when the frame was received.
        """
        if now >= self._next_at and not (self._is_person and len(self._results) == MAX_CHECKS):
            self._next_at = now + CHECK_INTERVAL_SECONDS
            clear = is_clear([face.observation], [max(face.box[2:])])
            self._results.append(is_person(detector, [face.portrait], clear=clear))
        return self._is_person

    @property
    def _is_person(self) -> bool:
        return 2 * sum(self._results) >= len(self._results)


@dataclass
class _TrackState:
    """The state of one face."""

    person_check: PersonCheck = field(default_factory=PersonCheck)
    window: SlidingWindow = field(default_factory=SlidingWindow)
    probabilities: EmaSmoother = field(default_factory=EmaSmoother)
    blendshapes: EmaSmoother = field(default_factory=EmaSmoother)


class LiveSession:
    """One client's video. `FrameScheduler` lets only one thread at a time process its frames.

    Args:
        settings: The client's settings.
        explainer: Names facial actions.
        now: Monotonic time in seconds.

    Attributes:
        frames: Frames processed so far.
        dropped: Frames dropped so far.
        load_controller: Chooses the resolution.
    """

    def __init__(self, settings: SessionSettings, explainer: FacialActionExplainer, now: float) -> None:
        self._explainer = explainer
        self.frames = self.dropped = 0
        self.configure(settings, now)
        self.restart()

    def configure(self, settings: SessionSettings, now: float) -> None:
        """Change the settings from the next frame on. The tracks of faces go on."""
        self.settings = settings
        self.load_controller = LoadController(settings.side, settings.frame_rate, now)

    def restart(self) -> None:
        """Forget the faces of the video."""
        self._tracker = Tracker()
        self._tracks: dict[int, _TrackState] = {}
        self._main: int | None = None
        self._fallbacks_at = 0.0
        self.model: FacePredictor | None = None

    def wants_fallbacks(self, now: float) -> bool:
        """Check whether to search a frame without a face with fallbacks now."""
        return now >= self._fallbacks_at

    def classify(
        self, detections: FrameDetections, landmarker: FaceLandmarker, predictor: FacePredictor, time: float
    ) -> tuple[LiveFace, ...]:
        """Classify the faces of people in a frame, largest first.

        Args:
            detections: The faces of the frame.
            landmarker: Its detector checks that the faces are people's.
            predictor: The model.
            time: Monotonic time in seconds when the frame was received.
        """
        if detections.faces or self.wants_fallbacks(time):
            self._fallbacks_at = time + FALLBACK_INTERVAL_SECONDS
        # Relative to the frame: a client that heeds a suggestion sends smaller ones from one to the next.
        side = max(detections.width, detections.height)
        boxes = [(x / side, y / side, w / side, h / side) for x, y, w, h in (face.box for face in detections.faces)]
        tracks = self._tracker.update(time, boxes, [face.appearance for face in detections.faces])
        if predictor is not self.model:
            # Never smooth over the probabilities of different models.
            self.model, self._tracks = predictor, {}
        active_ids = self._tracker.active_ids
        self._tracks = {track: state for track, state in self._tracks.items() if track in active_ids}
        people = [
            (track, face)
            for track, face in zip(tracks, detections.faces, strict=True)
            if self._tracks.setdefault(track, _TrackState()).person_check.update(landmarker.detector, face, time)
        ]
        selected = self._select_faces(people)
        observations = predictor.embed_faces([face.observation.features for _, face in selected])
        windows = [
            self._tracks[track].window.add(time, observation)
            for (track, _), observation in zip(selected, observations, strict=True)
        ]
        return tuple(
            self._live_face(track, face, probabilities, predictor.info.labels, time)
            for (track, face), probabilities in zip(selected, predictor.classify_windows(windows), strict=True)
        )

    def _select_faces(self, faces: list[tuple[int, FrameFace]]) -> list[tuple[int, FrameFace]]:
        """Select the faces to classify, largest first."""
        if self.settings.faces == "all" or not faces:
            return faces[: self.settings.max_faces]
        largest = faces[0]
        main = next((face for face in faces if face[0] == self._main), None)
        if main is None or _area(largest[1].box) > SWITCH_RATIO * _area(main[1].box):
            main = largest
        self._main = main[0]
        return [main]

    def _live_face(self, track: int, face: FrameFace, raw: np.ndarray, labels: Sequence[str], time: float) -> LiveFace:
        state = self._tracks[track]
        smoothed = state.probabilities.update(time, raw, self.settings.smoothing)
        blendshapes = state.blendshapes.update(time, face.observation.features.blendshapes, self.settings.smoothing)
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
