"""Share the models, the worker threads and the CPU of one process between the pipelines.

`VideoPipeline`, `ImagePipeline`, `AudioVisualPipeline`, `ClipLoader` and `FrameScheduler` (live video) all use one
`Engine`, so that a process holds each model once and runs no more analyses at a time than it has cores for.
`TextPipeline` does not: a text takes milliseconds and must not wait behind a video.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import BoundedSemaphore
from typing import TypeVar

from moodreel.errors import Overloaded
from moodreel.faces.facial_actions import FacialActionExplainer
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.media.video import Frame
from moodreel.models.face_registry import face_model_registry
from moodreel.models.model_card import DIARY
from moodreel.models.predictor import FacePredictor, resolve_device
from moodreel.models.registry import ModelRegistry
from moodreel.observers import observers
from moodreel.timing import Stage, split_stage

T = TypeVar("T")

DETECTION_SIDE = 640
"""Longest side in pixels of the video frames in which faces are detected. In larger ones detection takes as long, but
converting them to RGB takes longer."""
NO_FACE_IN_VIDEO = "No face was found in the clip. Hold the camera at arm's length, facing you, in good light."
FRAMES_AHEAD = 8
"""Decoded frames that may wait for a worker thread before decoding pauses. Bounds the memory of one analysis."""


class Engine:
    """Own the face landmarker, the face models, the worker threads and the analysis slots. Thread-safe.

    Create it after a fork, never before: threads and models do not work in the new process.

    Attributes:
        landmarker: Finds faces and their landmarks.
        models: The emotion models that read faces.
        facial_actions: Explains an answer by the movements of the face.
        executor: Worker threads, two for each slot.
    """

    def __init__(
        self,
        landmarker: FaceLandmarker,
        models: ModelRegistry[FacePredictor],
        facial_actions: FacialActionExplainer,
        *,
        slots: int = 1,
        wait_seconds: float = 20.0,
    ) -> None:
        """Create an engine from models that are loaded already.

        Args:
            landmarker: Finds faces and their landmarks.
            models: The emotion models that read faces.
            facial_actions: Explains an answer by the movements of the face.
            slots: Analyses that run at a time. More than the process has cores only makes each of them slower.
            wait_seconds: How long a caller waits for a slot before `Overloaded`.
        """
        self.landmarker = landmarker
        self.models = models
        self.facial_actions = facial_actions
        self.executor = ThreadPoolExecutor(2 * slots, thread_name_prefix="faces")
        self._slots = BoundedSemaphore(slots)
        self._wait_seconds = wait_seconds

    @classmethod
    def load(
        cls,
        store_root: Path,
        *,
        model_path: Path | None = None,
        model_fallback: bool = False,
        use_gpu: str = "auto",
        prior: str = DIARY,
        slots: int = 1,
        wait_seconds: float = 20.0,
    ) -> "Engine":
        """Load the face landmarker, the default emotion model and the facial actions of a model store.

        Args:
            store_root: Folder of the model store.
            model_path: Checkpoint or model folder outside the store that becomes the default.
            model_fallback: Use the store's default when `model_path` is invalid, instead of raising.
            use_gpu: "auto", "0" or "1".
            prior: One of `moodreel.models.model_card.PRIORS`.
            slots: See `__init__`.
            wait_seconds: See `__init__`.

        Raises:
            ModelInvalid: A model, the face landmarker or the facial actions cannot be loaded.
            ModelNotFound: The store has no default model.
        """
        models = face_model_registry(store_root, device=resolve_device(use_gpu), prior=prior)
        models.set_default_from_path(model_path, setting="MODEL_PATH", fallback=model_fallback)
        models.get()
        facial_actions = FacialActionExplainer.load(store_root / "movements")
        landmarker = FaceLandmarker(store_root / "face_landmarker" / "face_landmarker.task", use_fallbacks=True)
        return cls(landmarker, models, facial_actions, slots=slots, wait_seconds=wait_seconds)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one analysis slot during a `with` block.

        Raises:
            Overloaded: No slot became free within `wait_seconds`.
        """
        with observers.slot_wait():
            acquired = self._slots.acquire(timeout=self._wait_seconds)
        if not acquired:
            raise Overloaded("Too much is being analyzed right now. Try again in a few seconds.")
        try:
            yield
        finally:
            self._slots.release()

    def process_frames(
        self,
        frames: Generator[Frame, None, None],
        process: Callable[[int, Frame], T],
        consume: Callable[[T], None],
        *,
        progress: Callable[[float], None] | None = None,
    ) -> dict[str, float]:
        """Decode frames in the calling thread while worker threads process those decoded before.

        Args:
            frames: Decodes the next frame whenever it is advanced. It is closed before this returns or raises.
            process: Called in a worker thread, once for each frame, with its index.
            consume: Called in the calling thread with each result, in the order of the frames.
            progress: Called in the calling thread with the time of each frame, in seconds.

        Returns:
            Milliseconds by stage: `decode`, and `faces` for `process`. The two stages overlap.

        Raises:
            Exception: Whatever `frames`, `process`, `consume` or `progress` raises. Frames that wait are dropped then.
        """
        timings = {"decode": 0.0, "faces": 0.0}
        pending: deque[Future[T]] = deque()
        with split_stage("decode", timings) as decode, split_stage("faces", timings) as faces:
            try:
                for index, frame in enumerate(_measure_each(frames, decode)):
                    if progress is not None:
                        progress(frame.time)
                    pending.append(self.executor.submit(_run_part, faces, process, index, frame))
                    if len(pending) > FRAMES_AHEAD:
                        consume(pending.popleft().result())
                while pending:
                    consume(pending.popleft().result())
            finally:
                frames.close()
                for future in pending:
                    future.cancel()
        return timings

    def close(self) -> None:
        """Stop the worker threads and free the face landmarker."""
        self.executor.shutdown()
        self.landmarker.close()


def _measure_each(frames: Iterator[Frame], decode: Stage) -> Iterator[Frame]:
    """Yield the frames; each is a part of the stage."""
    while True:
        with decode.part():
            frame = next(frames, None)
        if frame is None:
            return
        yield frame


def _run_part(stage: Stage, process: Callable[[int, Frame], T], index: int, frame: Frame) -> T:
    with stage.part():
        return process(index, frame)
