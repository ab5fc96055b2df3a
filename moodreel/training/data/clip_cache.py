"""Extract the inputs of networks from clips, once, and cache them: face tracks, or audio-visual windows."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from moodreel.errors import NoFace, NoFaceNoAudio
from moodreel.faces.features import FaceFeatures
from moodreel.models.networks.audiovisual import AudioVisualBatch
from moodreel.pipelines.clip_loader import ClipLoader
from moodreel.pipelines.people_extractor import ANALYSIS_FPS
from moodreel.pipelines.video import VideoPipeline
from moodreel.training.data.examples import Example, process_files
from moodreel.training.data.face_cache import save_arrays
from moodreel.training.data.loading import DataContext

Arrays = dict[str, np.ndarray]

_TRACK_FIELDS = tuple(field.name for field in fields(FaceFeatures))
_WINDOW_FIELDS = tuple(field.name for field in fields(AudioVisualBatch))


def load_tracks(examples: Sequence[Example], context: DataContext) -> list[list[FaceFeatures | None] | None]:
    """Extract the main face of each clip, about five times a second, as in serving.

    Returns:
        A track per clip, with None where the face is not seen; None for a clip without any face.

    Raises:
        DataInvalid: A file cannot be read.
    """
    with context.engine() as engine:
        pipeline = VideoPipeline(engine)

        def extract(data: bytes) -> Arrays:
            track = pipeline.main_track(data)
            faces = [face for face in track if face is not None]
            arrays = {name: np.stack([getattr(face, name) for face in faces]) for name in _TRACK_FIELDS}
            return arrays | {"seen": np.array([face is not None for face in track])}

        cached = _load(examples, extract, f"track-{ANALYSIS_FPS:g}", _TRACK_FIELDS, context.cache)
    return [None if arrays is None else _to_track(arrays) for arrays in cached]


def load_windows(examples: Sequence[Example], context: DataContext) -> list[AudioVisualBatch | None]:
    """Load all windows of each clip; None for a clip with neither a face nor audio. Raises as `load_tracks`."""
    with context.engine() as engine:
        loader = ClipLoader(engine)

        def extract(data: bytes) -> Arrays:
            batch = loader.load(data).batch
            return {name: getattr(batch, name).cpu().numpy() for name in _WINDOW_FIELDS}

        cached = _load(examples, extract, "windows", _WINDOW_FIELDS, context.cache)
    return [
        None
        if arrays is None
        else AudioVisualBatch(**{name: torch.from_numpy(arrays[name]) for name in _WINDOW_FIELDS})
        for arrays in cached
    ]


def _to_track(arrays: Arrays) -> list[FaceFeatures | None]:
    faces = iter(zip(*(arrays[name] for name in _TRACK_FIELDS), strict=True))
    return [FaceFeatures(*next(faces)) if seen else None for seen in arrays["seen"]]


def _load(
    examples: Sequence[Example], extract: Callable[[bytes], Arrays], kind: str, names: Sequence[str], cache: Path
) -> list[Arrays | None]:
    """Read the arrays of each clip from the cache, or extract them; None where `extract` finds nothing."""

    def load(data: bytes) -> Arrays:
        digest = hashlib.sha256(" ".join(names).encode())
        digest.update(data)
        file = cache / f"{kind}-{digest.hexdigest()[:16]}.npz"
        if file.exists():
            with np.load(file) as arrays:
                return dict(arrays)
        extracted = extract(data)
        save_arrays(file, extracted, np.savez_compressed)
        return extracted

    return list(process_files(examples, load, "clips", skip=(NoFace, NoFaceNoAudio)))
