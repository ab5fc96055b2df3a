"""Messages to and from the frame scheduler. Importing them loads no models."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moodreel.errors import MoodreelError

if TYPE_CHECKING:  # it imports MediaPipe
    from moodreel.faces.facial_actions import Explanation, FacialAction

MAX_FACES = 4
"""Most faces that one detection finds in a frame."""


@dataclass(frozen=True)
class SessionSettings:
    """The settings of a session.

    Attributes:
        faces: "largest" or "all".
        max_faces: Of "all", 1 to `MAX_FACES`.
        smoothing: Time constant in seconds, see `EmaSmoother`.
        frame_rate: Maximum of results a second.
        side: Pixels of the longest side to which frames are scaled down, at most.
        model: Name of a model; None is the default.
        explain: Whether to explain results by facial actions.
    """

    faces: str = "all"
    max_faces: int = MAX_FACES
    smoothing: float = 0.3
    frame_rate: float = 15.0
    side: int = 640
    model: str | None = None
    explain: bool = False


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame as a client sent it.

    Attributes:
        data: A JPEG.
        received_at: Monotonic time in seconds.
        sequence: The client's number, returned with the result.
        time: The client's time, returned with the result.
    """

    data: bytes
    received_at: float
    sequence: int | None = None
    time: float | None = None


@dataclass(frozen=True)
class LiveFace:
    """The result for one face.

    Attributes:
        track: id of the face, the same in all frames.
        box: x, y, width and height in pixels of the upright frame as sent.
        emotion: Most probable label.
        confidence: Its probability, 0 to 1.
        probabilities: By label, smoothed.
        actions: Active facial actions, strongest first.
        explanation: The actions that contributed most, if asked for.
    """

    track: int
    box: tuple[int, int, int, int]
    emotion: str
    confidence: float
    probabilities: dict[str, float]
    actions: "tuple[FacialAction, ...]"
    explanation: "Explanation | None" = None


@dataclass(frozen=True)
class LiveResult:
    """The result for one frame.

    Attributes:
        frame: The frame.
        faces: Largest first.
        width: Pixels of the upright frame as sent.
        height: Pixels of the upright frame as sent.
        side: Pixels of the longest side to which the frame was scaled down, at most.
        latency_ms: Milliseconds from the frame's arrival to the result.
        queued_ms: Milliseconds of these that it waited for a worker.
        frames: Frames of the session that were processed so far, this one included.
        dropped: Frames of the session that were not.
        model: Name of the model.
    """

    frame: LiveFrame
    faces: tuple[LiveFace, ...]
    width: int
    height: int
    side: int
    latency_ms: float
    queued_ms: float
    frames: int
    dropped: int
    model: str


@dataclass(frozen=True)
class LiveFailure:
    """A frame that could not be processed. `error` is None for an internal error."""

    frame: LiveFrame
    error: MoodreelError | None


@dataclass(frozen=True)
class Suggestion:
    """What the client should send.

    Attributes:
        reason: "latency", "drops" or "rate" (more frames arrive than were asked for); None if all is well again.
        frame_rate: Frames a second.
        width: Pixels.
        height: Pixels.
    """

    reason: str | None
    frame_rate: float
    width: int
    height: int


LiveEvent = LiveResult | LiveFailure | Suggestion
