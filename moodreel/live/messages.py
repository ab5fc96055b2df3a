"""What goes to the desk and comes from it. Light to import: whoever serves may name these before models are loaded."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moodreel.errors import MoodreelError

if TYPE_CHECKING:  # it imports what finds faces
    from moodreel.faces.facial_actions import Explanation, FacialAction

MAX_FACES = 4
"""Of one frame: what one look finds at most."""


@dataclass(frozen=True)
class SessionSettings:
    """What a client wants of its session.

    faces: "largest" or "all". max_faces: of "all", 1 to `MAX_FACES`.
    smoothing: seconds; see `Smoother`.
    frame_rate: frames a second to answer at most.
    side: pixels of the longest side at which frames are looked at, at most.
    model: a model of the store; None for the default.
    explain: whether to say which movements weighed most.
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
    """A JPEG as a client sent it; `sequence` and `time` are its own and go back to it. `came`: our own seconds."""

    data: bytes
    received_at: float
    sequence: int | None = None
    time: float | None = None


@dataclass(frozen=True)
class LiveFace:
    """One face; `box` is x, y, width, height in pixels of the upright frame as it was sent."""

    track: int
    box: tuple[int, int, int, int]
    emotion: str
    confidence: float
    probabilities: dict[str, float]
    actions: "tuple[FacialAction, ...]"
    """What moved in it, the strongest first."""
    explanation: "Explanation | None" = None
    """The movements that weighed most, where they were asked for."""


@dataclass(frozen=True)
class LiveResult:
    """What a frame showed.

    milliseconds: from the frame's arrival to the answer. waited: how many of them it waited for its turn.
    frames, dropped: frames of the session that were answered so far, this one included, and that were not.
    side: pixels of the longest side at which the frame was looked at, at most.
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
    """A frame that could not be looked at; `error` is None where the fault is ours."""

    frame: LiveFrame
    error: MoodreelError | None


@dataclass(frozen=True)
class Suggestion:
    """What the client should send.

    reason: "latency", "drops" or "rate" (more frames come than were asked for); None when all is well again.
    """

    reason: str | None
    frame_rate: float
    width: int
    height: int


LiveEvent = LiveResult | LiveFailure | Suggestion
