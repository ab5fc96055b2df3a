"""Clips as networks read them, worked out once and kept in a cache: the person's face over time, or windows."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from moodreel.errors import DataInvalid, MoodreelError, NoFace, NoFaceNoAudio
from moodreel.faces.facial_actions import FacialActionExplainer
from moodreel.faces.features import FaceFeatures
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.models.face_registry import face_model_registry
from moodreel.models.networks.audiovisual import AudioVisualBatch
from moodreel.pipelines.clip_loader import ClipLoader
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.video import VideoPipeline
from moodreel.training.data.examples import Example
from moodreel.training.data.loading import DataContext

_FIELDS = ("landmarks", "shape", "blendshapes", "pose", "crop")


def load_tracks(examples: Sequence[Example], means: DataContext) -> list[list[FaceFeatures | None] | None]:
    """The person's face in each clip, about five times a second, as an analysis reads it; None where nobody is seen.

    Raises DataInvalid for a file that cannot be read.
    """
    finder = FaceLandmarker(means.landmarker)
    engine = Engine(finder, face_model_registry(means.models), FacialActionExplainer.load(means.models / "movements"))
    pipeline = VideoPipeline(engine)

    def read(data: bytes) -> dict[str, np.ndarray]:
        track = pipeline.main_track(data)
        seen = [face for face in track if face is not None]
        arrays = {name: np.stack([getattr(face, name) for face in seen]) for name in _FIELDS}
        return arrays | {"seen": np.array([face is not None for face in track])}

    try:
        kept = [_kept(example, read, "track", means.cache) for example in tqdm(examples, desc="clips", mininterval=5)]
    finally:
        engine.close()
    return [None if arrays is None else _track(arrays) for arrays in kept]


def load_windows(examples: Sequence[Example], means: DataContext) -> list[AudioVisualBatch | None]:
    """All windows of each clip; None where there is neither a face nor sound. Raises as `tracks_of`."""
    finder = FaceLandmarker(means.landmarker)
    engine = Engine(finder, face_model_registry(means.models), FacialActionExplainer.load(means.models / "movements"))
    reader = ClipLoader(engine)

    def read(data: bytes) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in vars(reader.load_batch(data)).items()}

    try:
        kept = [_kept(example, read, "windows", means.cache) for example in tqdm(examples, desc="clips", mininterval=5)]
    finally:
        engine.close()
    return [None if arrays is None else _excerpts(arrays) for arrays in kept]


def _excerpts(arrays: Mapping[str, np.ndarray]) -> AudioVisualBatch:
    return AudioVisualBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def _track(arrays: Mapping[str, np.ndarray]) -> list[FaceFeatures | None]:
    rows = iter(zip(*(arrays[name] for name in _FIELDS), strict=True))
    return [FaceFeatures(*next(rows)) if seen else None for seen in arrays["seen"]]


def _kept(
    example: Example, read: Callable[[bytes], dict[str, np.ndarray]], kind: str, cache: Path
) -> dict[str, np.ndarray] | None:
    """What is read of a clip, from the cache where it is there; None where there is nobody in it."""
    try:
        data = example.file.read_bytes()
        file = cache / f"{kind}-{hashlib.sha256(data).hexdigest()[:16]}.npz"
        if file.exists():
            with np.load(file) as arrays:
                return dict(arrays)
        found = read(data)
    except (NoFace, NoFaceNoAudio):
        return None
    except (MoodreelError, OSError) as error:
        raise DataInvalid(f"{example.file} cannot be learnt from: {error} Mend it or take it out.") from error
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    np.savez_compressed(partial, allow_pickle=False, **found)
    partial.replace(file)
    return found
