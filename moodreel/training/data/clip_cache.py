"""Clips as networks read them, extracted once and cached: face tracks, or audio-visual windows."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
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

Arrays = dict[str, np.ndarray]

_TRACK_FIELDS = ("landmarks", "normalized_landmarks", "blendshapes", "pose", "crop")
"""Of `FaceFeatures`, in the order of its constructor."""
_WINDOW_FIELDS = tuple(field.name for field in fields(AudioVisualBatch))


def load_tracks(examples: Sequence[Example], context: DataContext) -> list[list[FaceFeatures | None] | None]:
    """Extract the main face of each clip, about five times a second, as serving does.

    Returns:
        A track per clip, with None where the face is not seen; None for a clip without any face.

    Raises:
        DataInvalid: a file cannot be read.
    """
    with _engine(context) as engine:
        pipeline = VideoPipeline(engine)

        def read(data: bytes) -> Arrays:
            track = pipeline.main_track(data)
            faces = [face for face in track if face is not None]
            arrays = {name: np.stack([getattr(face, name) for face in faces]) for name in _TRACK_FIELDS}
            return arrays | {"seen": np.array([face is not None for face in track])}

        cached = _read_all(examples, read, "track", _TRACK_FIELDS, context.cache)
    return [None if arrays is None else _to_track(arrays) for arrays in cached]


def load_windows(examples: Sequence[Example], context: DataContext) -> list[AudioVisualBatch | None]:
    """Load all windows of each clip; None where there is neither a face nor sound. Raises as `load_tracks`."""
    with _engine(context) as engine:
        loader = ClipLoader(engine)

        def read(data: bytes) -> Arrays:
            batch = loader.load_batch(data)
            return {name: getattr(batch, name).cpu().numpy() for name in _WINDOW_FIELDS}

        cached = _read_all(examples, read, "windows", _WINDOW_FIELDS, context.cache)
    return [
        None
        if arrays is None
        else AudioVisualBatch(**{name: torch.from_numpy(arrays[name]) for name in _WINDOW_FIELDS})
        for arrays in cached
    ]


@contextmanager
def _engine(context: DataContext) -> Iterator[Engine]:
    explainer = FacialActionExplainer.load(context.models / "movements")
    engine = Engine(FaceLandmarker(context.landmarker), face_model_registry(context.models), explainer)
    try:
        yield engine
    finally:
        engine.close()


def _to_track(arrays: Arrays) -> list[FaceFeatures | None]:
    faces = iter(zip(*(arrays[name] for name in _TRACK_FIELDS), strict=True))
    return [FaceFeatures(*next(faces)) if seen else None for seen in arrays["seen"]]


def _read_all(
    examples: Sequence[Example], read: Callable[[bytes], Arrays], kind: str, names: Sequence[str], cache: Path
) -> list[Arrays | None]:
    """Read each clip, from the cache where it is there; None for one with nobody in it."""
    return [
        _read_one(example.file, read, kind, names, cache) for example in tqdm(examples, desc="clips", mininterval=5)
    ]


def _read_one(
    clip: Path, read: Callable[[bytes], Arrays], kind: str, names: Sequence[str], cache: Path
) -> Arrays | None:
    try:
        data = clip.read_bytes()
        digest = hashlib.sha256(" ".join(names).encode())
        digest.update(data)
        file = cache / f"{kind}-{digest.hexdigest()[:16]}.npz"
        if file.exists():
            with np.load(file) as arrays:
                return dict(arrays)
        extracted = read(data)
    except (NoFace, NoFaceNoAudio):
        return None
    except (MoodreelError, OSError) as error:
        raise DataInvalid(f"{clip} cannot be trained on: {error} Repair it or remove it.") from error
    cache.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    np.savez_compressed(partial, allow_pickle=False, **extracted)
    partial.replace(file)
    return extracted
