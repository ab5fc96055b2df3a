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
from moodreel.models.checkpoint import file_sha256
from moodreel.models.face_registry import ARCHITECTURES
from moodreel.models.huggingface.image import HF_WEIGHTS_FILE, HuggingFaceNet
from moodreel.models.huggingface.pretrained import build_pretrained, save_pretrained
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet, to_input
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.training.data.clip_cache import load_tracks
from moodreel.training.data.dataset import CLIPS, IMAGES, Dataset
from moodreel.training.data.images import ImageSequence
from moodreel.training.data.loading import DataContext, load_face_crops
from moodreel.training.evaluation.predict import single_frame
from moodreel.training.experiment.adapter import ArchitectureAdapter
from moodreel.training.experiment.classification import InputAdapter
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.face_inputs import CropInputs, PortraitInputs, TrackInputs
from moodreel.training.export.model_folder import write_json


class CropAdapter(ArchitectureAdapter):
    """Networks of the store that read crops, one by one (`ExpressionNet`), with a single head."""

    media = (IMAGES,)
    input_description = "the aligned crop of a face, uint8 (48, 48), grey (moodreel.faces.features.describe)"

    def __init__(self, name: str, **given: Any) -> None:
        self.name, self._given = name, given

    def load_inputs(
        self, data: Dataset, means: DataContext, study: TrainConfig, arguments: Mapping[str, Any]
    ) -> tuple[InputAdapter, np.ndarray]:
        faces, _ = means.extract_faces(ImageSequence(data.examples))
        # Where no face is found the crop is the picture itself: good enough to learn from.
        return CropInputs(faces.crops, clean=study.clean), np.ones(len(data.examples), bool)

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        if pretrained:
            raise DataInvalid(f"{self.name} is trained from the start; leave --pretrained out.")
        network = _build_network(self.name, labels, self.arguments(arguments))
        assert isinstance(network, MultiHeadFaceNet)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"shares": [1.0], "tau": 0.0, **self._given, **given}


class TrackAdapter(ArchitectureAdapter):
    """Networks that answer for a person's faces over time; of a picture, for one moment.

    landmarks: whether it reads raw ones.
    """

    media = (IMAGES, CLIPS)
    supports_mixup = TrackInputs.supports_mixup
    input_description = "a person's faces over time, as moodreel.faces.features.describe gives them"

    def __init__(self, name: str, *, landmarks: bool = False) -> None:
        self.name, self._landmarks = name, landmarks

    def load_inputs(
        self, data: Dataset, means: DataContext, study: TrainConfig, arguments: Mapping[str, Any]
    ) -> tuple[InputAdapter, np.ndarray]:
        if data.media == CLIPS:
            tracks = load_tracks(data.examples, means)
            return TrackInputs([track or [] for track in tracks]), np.array([track is not None for track in tracks])
        faces, landmarks = means.extract_faces(ImageSequence(data.examples), landmarks=self._landmarks)
        seen = [single_frame(faces, row) for row in range(len(data.examples))]
        if landmarks is not None:
            seen = [replace(face, landmarks=own) for face, own in zip(seen, landmarks, strict=True)]
        return TrackInputs([[face] for face in seen]), faces.found

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        if pretrained:
            raise DataInvalid(f"{self.name} is trained from the start; leave --pretrained out.")
        return _build_network(self.name, labels, self.arguments(arguments))

    def init_statistics(self, network: nn.Module, material: InputAdapter, learnt: np.ndarray) -> None:
        if isinstance(network, CompactEmotiMeshNet) and isinstance(material, TrackInputs):
            faces = np.stack([to_input(face) for row in learnt for face in material.tracks[row] if face is not None])
            network.mean.copy_(torch.from_numpy(faces.mean(axis=0)))
            network.std.copy_(torch.from_numpy(faces.std(axis=0)).clamp_min(1e-3))


class PortraitAdapter(ArchitectureAdapter):
    """Networks of transformers, which read portraits: kept as folders of Hugging Face's."""

    media = (IMAGES,)
    input_description = "the square around a face, uint8 (224, 224, 3), red first (moodreel.faces.features.cut)"
    normalization = "as preprocessor_config.json says"

    def __init__(self, name: str) -> None:
        self.name = name

    def load_inputs(
        self, data: Dataset, means: DataContext, study: TrainConfig, arguments: Mapping[str, Any]
    ) -> tuple[InputAdapter, np.ndarray]:
        squares, found = load_face_crops(data.examples, means)
        return PortraitInputs(squares, side=RGB_CROP_SIDE), found

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        return build_pretrained(self.name, labels, pretrained=pretrained, **self.arguments(arguments))

    def write(self, out: Path, network: nn.Module, fields: dict[str, Any], weights: str, **stated: str) -> None:
        assert isinstance(network, HuggingFaceNet)
        save_pretrained(out, network, weights)
        # What config.json says need not be said twice.
        own = {name: value for name, value in fields.items() if name not in ("architecture", "arguments")}
        write_json(
            out, {"name": out.name, "version": "1", **own, **stated, "sha256": file_sha256(out / HF_WEIGHTS_FILE)}
        )


def _build_network(name: str, labels: tuple[str, ...], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return ARCHITECTURES[name](classes=len(labels), **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataInvalid(f"{name} cannot be made so: {str(error).rstrip('.')}. Look at its arguments.") from error
