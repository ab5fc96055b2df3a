"""A clip -> what face and voice showed together: the one place that joins the stages for audio-visual models.

bytes -> `excerpts` (windows of three seconds: faces, spectrograms) -> `models.multimodal` (one batch for all windows)
-> `Impression`. A call waits for its turn as an analysis does, and uses the same face finder.
"""

import logging
import time as clock
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moodreel.errors import ModelMissing, ModelNotFound, NonCommercialModel
from moodreel.media.video_decoder import VideoLimits
from moodreel.models import mock as mocking
from moodreel.models.audiovisual_registry import AudioVisualModelRegistry, AudioVisualPredictor
from moodreel.models.mock import MockPredictor
from moodreel.models.networks.audiovisual import MODALITIES
from moodreel.models.predictor import ModelInfo, resolve_device
from moodreel.pipelines import clip_sampler
from moodreel.pipelines.clip_loader import ClipLoader, LoadedClip
from moodreel.pipelines.video import VideoPipeline, elapsed_ms

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class WindowResult:
    """What one window showed, from `start` to `end` seconds of the clip; probabilities as in `Impression`."""

    start: float
    end: float
    probabilities: tuple[float, ...]
    modalities: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class AudioVisualResult:
    """What a clip showed and sounded like.

    labels: of the model. probabilities: 0 to 1, in the order of the labels, adding up to 1: the mean over the windows.
    modalities: what that comes from, of "video" and "audio". missing: why not from the other, by its name; one of
        `moodreel.pipelines.clip_loader.NONE`, `NO_FACE`, `CORRUPT`, `UNSUPPORTED`, `NOT_READ`.
    glimpses: the windows. seconds: of the clip. frames: pictures that were looked at. faces: the most people in one.
    mock: whether all of it is made up.
    timings: milliseconds by stage; `faces` runs beside `decode`, so they overlap.
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
        """Which label is the likeliest."""
        return int(np.argmax(self.probabilities))


class AudioVisualPipeline:
    """Looks at clips and listens to them, with an analyser's face finder and in its turns; one serves all threads.

    store: of the models. named: the model that an operator chose to answer by default, whatever its licence.
    noncommercial: whether callers may choose models whose weights are not for commercial use.
    mock: whether answers are made up; no model is asked then.
    """

    def __init__(
        self,
        analyser: VideoPipeline,
        store: AudioVisualModelRegistry,
        *,
        named: str | None = None,
        noncommercial: bool = False,
        mock: bool = False,
        limits: VideoLimits | None = None,
    ) -> None:
        self.store = store
        self.mock = mock
        self._analyser = analyser
        self._named = named
        self._noncommercial = noncommercial
        self._limits = limits

    @classmethod
    def load(
        cls,
        store_root: Path,
        analyser: VideoPipeline,
        *,
        checkpoint: Path | None = None,
        model_fallback: bool = False,
        noncommercial: bool = False,
        mock: bool = False,
        use_gpu: str = "auto",
        limits: VideoLimits | None = None,
    ) -> "AudioVisualPipeline":
        """Load the model that answers by default, where there is one; without it every call is `ModelMissing`.

        checkpoint: a checkpoint or model folder that answers instead of the store's own.
        model_fallback: stay with the store's own when `checkpoint` is no good, instead of raising.

        Raises ModelInvalid: a model is not what it should be.
        """
        store = AudioVisualModelRegistry(store_root, device=resolve_device(use_gpu))
        if mock:
            logger.warning(
                "EMO_MOCK=1: /api/predict/multimodal makes its answers up, and marks them%s. Not for production.",
                "; CHECKPOINT_PATH is not looked at" if checkpoint else "",
            )
            return cls(analyser, store, mock=True, limits=limits)
        named = None
        try:
            store.set_default_from_path(checkpoint, setting="CHECKPOINT_PATH", fallback=model_fallback)
            named = store.default if checkpoint else None
        except ModelNotFound as error:
            logger.warning("%s Until CHECKPOINT_PATH names one, /api/predict/multimodal answers model_missing.", error)
        if named and not store.card(named).commercial:
            logger.warning("CHECKPOINT_PATH names %s, whose weights are not for commercial use.", named)
        return cls(analyser, store, named=named, noncommercial=noncommercial, limits=limits)

    def predict(self, data: bytes, *, model: str | None = None, fps: float | None = None) -> AudioVisualResult:
        """Tell what a clip showed and sounded like, or a sound file.

        data: the file. model: one of the store; None for the default. fps: where the container has no timing.

        Raises:
            MoodreelError: what `ExcerptReader.watch` raises, `ModelNotFound`, `ModelMissing`, `NonCommercialModel`,
                `Overloaded`.
        """
        predictor = self._made_up(data, model) if self.mock else self._choose(model)
        with self._analyser.slot():
            reader = ClipLoader(self._analyser.landmarker, limits=self._limits, threads=self._analyser.threads)
            footage = reader.load(data, fps=fps, modalities=predictor.modalities)
            begun = clock.perf_counter()
            found = predictor.predict(footage.batch)
        return _conclude(footage, found, predictor.info, elapsed_ms(begun), mock=self.mock)

    def _choose(self, model: str | None) -> AudioVisualPredictor:
        name = model or self.store.default
        if model is None and name not in self.store.names():
            raise ModelMissing(_MISSING)
        card = self.store.card(name)
        if not card.commercial and name != self._named:
            if model is None:
                raise ModelMissing(_MISSING)
            if not self._noncommercial:
                raise NonCommercialModel(
                    f"The weights of {name!r} are not for commercial use. Leave model out; or whoever runs this "
                    "service may allow them with NONCOMMERCIAL_MODELS=1."
                )
        return self.store.get(name)

    def _made_up(self, data: bytes, model: str | None) -> MockPredictor:
        if model not in (None, mocking.NAME):
            raise ModelNotFound(f"There is no model {model!r} while answers are made up (EMO_MOCK=1); leave it out.")
        return MockPredictor(data)


_MISSING = (
    "No model that sees and hears is set up here. Whoever runs this service may name one with CHECKPOINT_PATH, or set "
    "EMO_MOCK=1 to try clients without one; until then /predict answers from faces."
)


def _conclude(
    footage: LoadedClip,
    found: list[tuple[np.ndarray, tuple[str, ...]]],
    model: ModelInfo,
    milliseconds: float,
    *,
    mock: bool,
) -> AudioVisualResult:
    glimpses = tuple(
        WindowResult(
            start, min(start + clip_sampler.SECONDS, footage.seconds), tuple(map(float, probabilities)), modalities
        )
        for start, (probabilities, modalities) in zip(footage.starts, found, strict=True)
    )
    had = {name for glimpse in glimpses for name in glimpse.modalities}
    return AudioVisualResult(
        labels=model.labels,
        probabilities=tuple(map(float, np.mean([probabilities for probabilities, _ in found], axis=0))),
        modalities=tuple(name for name in MODALITIES if name in had),
        missing=dict(footage.missing),
        windows=glimpses,
        seconds=footage.seconds,
        frames=footage.frames,
        faces=footage.faces,
        model=model,
        mock=mock,
        timings={**footage.timings, "model": milliseconds},
    )
