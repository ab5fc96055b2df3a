"""How networks that read faces are made and fed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.errors import DataInvalid
from moodreel.faces.features import RGB_CROP_SIDE
from moodreel.models.checkpoint import sha256
from moodreel.models.face_registry import ARCHITECTURES
from moodreel.models.huggingface.image import WEIGHTS, HuggingFaceNet
from moodreel.models.huggingface.pretrained import make_network, write_network
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet, read
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.training.data.clip_cache import load_tracks
from moodreel.training.data.face_crops import load_face_crops
from moodreel.training.data.loading import DataContext, ExampleImages
from moodreel.training.data.registry import CLIPS, IMAGES, Dataset
from moodreel.training.evaluation.predict import single_frame
from moodreel.training.experiment.adapter import Maker
from moodreel.training.experiment.classification import Material
from moodreel.training.experiment.config import Study
from moodreel.training.experiment.face_inputs import Crops, Portraits, Tracks
from moodreel.training.export.model_folder import write_json


class FaceMaker(Maker):
    """Networks of the store that read crops, one by one (`ExpressionNet`), with a single head."""

    media = (IMAGES,)
    reads = "the aligned crop of a face, uint8 (48, 48), grey (moodreel.faces.features.describe)"

    def __init__(self, name: str, **given: Any) -> None:
        self.name, self._given = name, given

    def prepare(
        self, data: Dataset, means: DataContext, study: Study, arguments: Mapping[str, Any]
    ) -> tuple[Material, np.ndarray]:
        faces, _ = means.extract_faces(ExampleImages(data.examples))
        # Where no face is found the crop is the picture itself: good enough to learn from.
        return Crops(faces.crops, clean=study.clean), np.ones(len(data.examples), bool)

    def make(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        if pretrained:
            raise DataInvalid(f"{self.name} is trained from the start; leave --pretrained out.")
        network = _made(self.name, labels, self.arguments(arguments))
        assert isinstance(network, MultiHeadFaceNet)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"shares": [1.0], "tau": 0.0, **self._given, **given}


class TrackMaker(Maker):
    """Networks that answer for a person's faces over time; of a picture, for one moment.

    landmarks: whether it reads raw ones.
    """

    media = (IMAGES, CLIPS)
    blends = Tracks.blends
    reads = "a person's faces over time, as moodreel.faces.features.describe gives them"

    def __init__(self, name: str, *, landmarks: bool = False) -> None:
        self.name, self._landmarks = name, landmarks

    def prepare(
        self, data: Dataset, means: DataContext, study: Study, arguments: Mapping[str, Any]
    ) -> tuple[Material, np.ndarray]:
        if data.media == CLIPS:
            tracks = load_tracks(data.examples, means)
            return Tracks([track or [] for track in tracks]), np.array([track is not None for track in tracks])
        faces, landmarks = means.extract_faces(ExampleImages(data.examples), landmarks=self._landmarks)
        seen = [single_frame(faces, row) for row in range(len(data.examples))]
        if landmarks is not None:
            seen = [replace(face, landmarks=own) for face, own in zip(seen, landmarks, strict=True)]
        return Tracks([[face] for face in seen]), faces.found

    def make(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        if pretrained:
            raise DataInvalid(f"{self.name} is trained from the start; leave --pretrained out.")
        return _made(self.name, labels, self.arguments(arguments))

    def begin(self, network: nn.Module, material: Material, learnt: np.ndarray) -> None:
        if isinstance(network, CompactEmotiMeshNet) and isinstance(material, Tracks):
            faces = np.stack([read(face) for row in learnt for face in material.tracks[row] if face is not None])
            network.mean.copy_(torch.from_numpy(faces.mean(axis=0)))
            network.std.copy_(torch.from_numpy(faces.std(axis=0)).clamp_min(1e-3))


class PortraitMaker(Maker):
    """Networks of transformers, which read portraits: kept as folders of Hugging Face's."""

    media = (IMAGES,)
    reads = "the square around a face, uint8 (224, 224, 3), red first (moodreel.faces.features.cut)"
    normalisation = "as preprocessor_config.json says"

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(
        self, data: Dataset, means: DataContext, study: Study, arguments: Mapping[str, Any]
    ) -> tuple[Material, np.ndarray]:
        squares, found = load_face_crops(data.examples, means)
        return Portraits(squares, side=RGB_CROP_SIDE), found

    def make(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        return make_network(self.name, labels, pretrained=pretrained, **self.arguments(arguments))

    def write(self, out: Path, network: nn.Module, fields: dict[str, Any], weights: str, **stated: str) -> None:
        assert isinstance(network, HuggingFaceNet)
        write_network(out, network, weights)
        # What config.json says need not be said twice.
        own = {name: value for name, value in fields.items() if name not in ("architecture", "arguments")}
        write_json(out, {"name": out.name, "version": "1", **own, **stated, "sha256": sha256(out / WEIGHTS)})


def _made(name: str, labels: tuple[str, ...], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return ARCHITECTURES[name](classes=len(labels), **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataInvalid(f"{name} cannot be made so: {str(error).rstrip('.')}. Look at its arguments.") from error
