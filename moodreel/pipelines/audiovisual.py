"""Classify the emotion that the face and the voice in a clip show together.

`clip_loader` cuts the clip into windows of three seconds (face crops and spectrograms), an audio-visual model
classifies all windows in one batch, and the mean over the windows is the answer.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.errors import ModelMissing, ModelNotFound, NonCommercialModel
from moodreel.media.video_decoder import VideoLimits
from moodreel.models.audiovisual_registry import AudioVisualPredictor, audiovisual_model_registry
from moodreel.models.mock import MOCK_NAME, MockPredictor
from moodreel.models.predictor import ModelInfo, resolve_device
from moodreel.models.registry import ModelRegistry
from moodreel.pipelines import clip_sampler
from moodreel.pipelines.clip_loader import ClipLoader, LoadedClip
from moodreel.pipelines.engine import Engine
from moodreel.timing import stage

logger = logging.getLogger(__name__)

NO_MODEL = (
    "This service has no face-and-voice model. Its operator can name one with CHECKPOINT_PATH, or set EMO_MOCK=1 to "
    "test clients without one. Until then, use /predict, which reads faces."
)

MOCK_WARNING = "EMO_MOCK=1: /api/predict/multimodal makes its answers up, and marks them%s. Not for production."


@dataclass(frozen=True, eq=False)
class WindowResult:
    """The emotion in one window of a clip.

    Attributes:
        start: Seconds since the start of the clip.
        end: Seconds since the start of the clip.
        probabilities: As in `AudioVisualResult`.
        modalities: As in `AudioVisualResult`.
    """

    start: float
    end: float
    probabilities: tuple[float, ...]
    modalities: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class AudioVisualResult:
    """The emotion in a clip.

    Attributes:
        labels: Labels of the model.
        probabilities: Mean probability over the windows, in the order of `labels`, adding up to 1.
        modalities: What was used, of "video" and "audio".
        missing: Why a modality was not used, by its name: one of `NONE`, `NO_FACE`, `CORRUPT`, `UNSUPPORTED`,
            `NOT_REQUESTED` of `moodreel.pipelines.clip_loader`.
        windows: The result of each window.
        seconds: Duration of the clip.
        frames: Number of video frames that were read.
        faces: The largest number of people in one of them.
        model: The model that answered.
        mock: Whether the answer is made up, for testing clients.
        timings: Milliseconds by stage. `faces` runs in parallel with `decode`, so the two overlap.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    modalities: tuple[str, ...]
    missing: Mapping[str, str]
    windows: tuple[WindowResult, ...]
    seconds: float
    frames: int
    faces: int
    model: ModelInfo
    mock: bool
    timings: Mapping[str, float]

    @property
    def best(self) -> int:
        """The index of the most likely label."""
        return int(np.argmax(self.probabilities))


class AudioVisualPipeline:
    """Classify clips by face and voice. Thread-safe.

    Attributes:
        models: The audio-visual models.
        mock: Whether answers are made up.
    """

    def __init__(
        self,
        engine: Engine,
        models: ModelRegistry[AudioVisualPredictor],
        *,
        operator_model: str | None = None,
        noncommercial: bool = False,
        mock: bool = False,
        limits: VideoLimits | None = None,
    ) -> None:
        """Create a pipeline.

        Args:
            engine: The face landmarker, threads and slots of this process.
            models: The audio-visual models.
            operator_model: Name of the model that the operator set up. It answers whatever its license.
            noncommercial: Whether callers may choose models whose weights are not for commercial use.
            mock: Whether answers are made up. No model is used then.
            limits: What one clip may cost.
        """
        self.models = models
        self.mock = mock
        self._engine = engine
        self._loader = ClipLoader(engine, limits=limits)
        self._operator_model = operator_model
        self._noncommercial = noncommercial

    @classmethod
    def load(
        cls,
        store_root: Path,
        engine: Engine,
        *,
        checkpoint: Path | None = None,
        model_fallback: bool = False,
        noncommercial: bool = False,
        mock: bool = False,
        use_gpu: str = "auto",
        limits: VideoLimits | None = None,
    ) -> "AudioVisualPipeline":
        """Load the checkpoint if there is one, or else find the store's default; `predict` loads it on first use.

        Without either, `predict` raises `ModelMissing`.

        Args:
            store_root: Folder of the model store.
            engine: See `__init__`.
            checkpoint: Checkpoint or model folder that becomes the default.
            model_fallback: Use the store's default when `checkpoint` is invalid, instead of raising.
            noncommercial: See `__init__`.
            mock: See `__init__`.
            use_gpu: "auto", "0" or "1".
            limits: See `__init__`.

        Raises:
            ModelInvalid: A model cannot be loaded, or the files of the default one are not those of the release.
        """
        models = audiovisual_model_registry(store_root, device=resolve_device(use_gpu))
        if mock:
            logger.warning(MOCK_WARNING, "; CHECKPOINT_PATH is not used" if checkpoint else "")
            return cls(engine, models, mock=True, limits=limits)
        operator_model = _set_default(models, checkpoint, fallback=model_fallback)
        return cls(engine, models, operator_model=operator_model, noncommercial=noncommercial, limits=limits)

    def predict(self, data: bytes, *, model: str | None = None, fps: float | None = None) -> AudioVisualResult:
        """Classify the emotion in a clip or a sound file.

        Args:
            data: The file.
            model: Name of a model in the store; None for the default.
            fps: Frames a second of a video whose container has no timing.

        Raises:
            MoodreelError: Whatever `ClipLoader.load` raises, `ModelNotFound`, `ModelMissing`, `NonCommercialModel`,
                `Overloaded`.
        """
        predictor = self._mock(data, model) if self.mock else self._select_model(model)
        with self._engine.slot():
            clip = self._loader.load(data, fps=fps, modalities=predictor.modalities)
            timings = dict(clip.timings)
            with stage("model", timings):
                predictions = predictor.predict(clip.batch)
        return _aggregate(clip, predictions, predictor.info, timings=timings, mock=self.mock)

    def _select_model(self, model: str | None) -> AudioVisualPredictor:
        name = model or self.models.default
        if model is None and name not in self.models.names():
            raise ModelMissing(NO_MODEL)
        if not self.models.card(name).commercial and name != self._operator_model:
            if model is None:
                raise ModelMissing(NO_MODEL)
            if not self._noncommercial:
                raise NonCommercialModel(
                    f"The weights of {name!r} are not for commercial use. Leave model out, or ask the operator of "
                    "this service to set NONCOMMERCIAL_MODELS=1."
                )
        return self.models.get(name)

    def _mock(self, data: bytes, model: str | None) -> MockPredictor:
        if model not in (None, MOCK_NAME):
            raise ModelNotFound(f"There is no model {model!r} while answers are made up (EMO_MOCK=1); leave it out.")
        return MockPredictor(data)


def _set_default(models: ModelRegistry[AudioVisualPredictor], checkpoint: Path | None, *, fallback: bool) -> str | None:
    """Choose and verify the default model. Returns its name if a checkpoint of the operator's is set."""
    try:
        models.set_default_from_path(checkpoint, setting="CHECKPOINT_PATH", fallback=fallback)
        models.verify_default()
    except ModelNotFound as error:
        logger.warning("%s Until CHECKPOINT_PATH names one, /api/predict/multimodal answers model_missing.", error)
        return None
    if checkpoint and not models.card(models.default).commercial:
        logger.warning("CHECKPOINT_PATH names %s, whose weights are not for commercial use.", models.default)
    return models.default if checkpoint else None


def _aggregate(
    clip: LoadedClip,
    predictions: list[tuple[np.ndarray, tuple[str, ...]]],
    model: ModelInfo,
    *,
    timings: Mapping[str, float],
    mock: bool,
) -> AudioVisualResult:
    windows = tuple(
        WindowResult(
            start=start,
            end=min(start + clip_sampler.SECONDS, clip.seconds),
            probabilities=tuple(map(float, probabilities)),
            modalities=modalities,
        )
        for start, (probabilities, modalities) in zip(clip.starts, predictions, strict=True)
    )
    return AudioVisualResult(
        labels=model.labels,
        probabilities=tuple(map(float, np.mean([probabilities for probabilities, _ in predictions], axis=0))),
        modalities=clip.modalities,
        missing=dict(clip.missing),
        windows=windows,
        seconds=clip.seconds,
        frames=clip.frames,
        faces=clip.faces,
        model=model,
        mock=mock,
        timings=timings,
    )
