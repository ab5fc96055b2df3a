"""Build networks that read faces and prepare their inputs."""

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
from moodreel.training.experiment.adapter import ArchitectureAdapter, ClassificationOptions
from moodreel.training.experiment.classification import InputAdapter
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.face_inputs import CropInputs, PortraitInputs, TrackInputs
from moodreel.training.export.model_folder import write_json


class CropAdapter(ArchitectureAdapter):
    """Networks that read single aligned crops (`MultiHeadFaceNet`), with one head."""

    media = (IMAGES,)
    input_description = "the aligned crop of a face, uint8 (48, 48), gray (moodreel.faces.features.extract_features)"

    def __init__(self, name: str, **given: Any) -> None:
        self.name, self._given = name, given

    def load_inputs(
        self, data: Dataset, context: DataContext, config: TrainConfig, options: ClassificationOptions
    ) -> tuple[InputAdapter, np.ndarray]:
        """Load the examples of a data set."""
        faces, _ = context.extract_faces(ImageSequence(data.examples))
        # Where no face is found the crop is the whole image: good enough to train on.
        return CropInputs(faces.crops, clean_prob=config.clean_prob), np.ones(len(data.examples), bool)

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Build a network with its initial weights."""
        if pretrained:
            raise DataInvalid(f"{self.name} is trained from scratch; omit --pretrained.")
        network = _build_network(self.name, labels, self.arguments(arguments))
        assert isinstance(network, MultiHeadFaceNet)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments of the network except its number of classes."""
        return {"shares": [1.0], "tau": 0.0, **self._given, **given}


class TrackAdapter(ArchitectureAdapter):
    """Networks that classify a person's faces over time; an image is a track of one frame."""

    media = (IMAGES, CLIPS)
    input_description = "a person's faces over time, as moodreel.faces.features.extract_features returns them"

    def __init__(self, name: str, *, backbone: tuple[str, ...] = (), landmarks: bool = False) -> None:
        self.name, self.backbone, self._landmarks = name, backbone, landmarks

    def load_inputs(
        self, data: Dataset, context: DataContext, config: TrainConfig, options: ClassificationOptions
    ) -> tuple[InputAdapter, np.ndarray]:
        """Load the examples of a data set."""
        if data.media == CLIPS:
            tracks = load_tracks(data.examples, context)
            return TrackInputs([track or [] for track in tracks]), np.array([track is not None for track in tracks])
        faces, landmarks = context.extract_faces(ImageSequence(data.examples), landmarks=self._landmarks)
        track_faces = [single_frame(faces, row) for row in range(len(data.examples))]
        if landmarks is not None:
            track_faces = [replace(face, landmarks=own) for face, own in zip(track_faces, landmarks, strict=True)]
        return TrackInputs([[face] for face in track_faces]), faces.found

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Build a network with its initial weights."""
        if pretrained:
            raise DataInvalid(f"{self.name} is trained from scratch; omit --pretrained.")
        return _build_network(self.name, labels, self.arguments(arguments))

    def init_statistics(self, network: nn.Module, inputs: InputAdapter, rows: np.ndarray) -> None:
        """Set the network's input normalization from the training rows."""
        if isinstance(network, CompactEmotiMeshNet) and isinstance(inputs, TrackInputs):
            faces = np.stack([to_input(face) for row in rows for face in inputs.tracks[row] if face is not None])
            network.mean.copy_(torch.from_numpy(faces.mean(axis=0)))
            network.std.copy_(torch.from_numpy(faces.std(axis=0)).clamp_min(1e-3))


class PortraitAdapter(ArchitectureAdapter):
    """Networks of the transformers library, which read RGB face crops; written as Hugging Face folders."""

    media = (IMAGES,)
    input_description = "the square around a face, uint8 (224, 224, 3), RGB (moodreel.faces.features.crop_square)"
    normalization = "as preprocessor_config.json says"

    def __init__(self, name: str, *, backbone: tuple[str, ...]) -> None:
        self.name, self.backbone = name, backbone

    def load_inputs(
        self, data: Dataset, context: DataContext, config: TrainConfig, options: ClassificationOptions
    ) -> tuple[InputAdapter, np.ndarray]:
        """Load the examples of a data set."""
        squares, found = load_face_crops(data.examples, context)
        return PortraitInputs(squares, side=RGB_CROP_SIDE), found

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Build a network with its initial weights."""
        return build_pretrained(self.name, labels, pretrained=pretrained, **self.arguments(arguments))

    def write(self, out: Path, network: nn.Module, fields: dict[str, Any], weights: str, **statement: str) -> None:
        """Write the weights and model.json."""
        assert isinstance(network, HuggingFaceNet)
        save_pretrained(out, network, weights)
        # config.json has these.
        own = {name: value for name, value in fields.items() if name not in ("architecture", "arguments")}
        write_json(
            out, {"name": out.name, "version": "1", **own, **statement, "sha256": file_sha256(out / HF_WEIGHTS_FILE)}
        )


def _build_network(name: str, labels: tuple[str, ...], arguments: Mapping[str, Any]) -> nn.Module:
    try:
        return ARCHITECTURES[name](classes=len(labels), **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataInvalid(f"{name} cannot be built: {str(error).rstrip('.')}. Check its --model-arg.") from error
