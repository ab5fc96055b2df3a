"""Build audio-visual networks and prepare their inputs: faces, voices, clips or synthetic pairs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.emotions import EIGHT_TO_SEVEN
from moodreel.errors import DataInvalid
from moodreel.media.mel_spectrogram import log_mel
from moodreel.models.audiovisual_registry import load_audiovisual_model
from moodreel.models.model_card import AUDIO_VISUAL
from moodreel.models.networks.audiovisual import MODALITIES, AudioVisualNet
from moodreel.models.networks.resnet18 import INPUT_SIDE, load_torchvision_weights
from moodreel.models.registry import CARD_FILE
from moodreel.training.augmentation.image import augment_face_square
from moodreel.training.augmentation.spectrogram import MelAugmentation
from moodreel.training.data.audio import load_audio
from moodreel.training.data.clip_cache import load_windows
from moodreel.training.data.dataset import AUDIO, CLIPS, IMAGES, Dataset
from moodreel.training.data.examples import Example
from moodreel.training.data.loading import DataContext, load_face_crops
from moodreel.training.engine.checkpoint import read_checkpoint
from moodreel.training.experiment.adapter import ArchitectureAdapter, ClassificationOptions
from moodreel.training.experiment.audiovisual_inputs import AudioInputs, ClipInputs, FaceInputs, SyntheticPairs
from moodreel.training.experiment.classification import InputAdapter
from moodreel.training.experiment.config import TrainConfig

logger = logging.getLogger(__name__)

INPUT_DESCRIPTIONS = {
    "video": "8 squares around the face (moodreel.faces.features.crop_square)",
    "audio": "a log-mel spectrogram (moodreel.media.mel_spectrogram)",
}
"""What model.json says of each modality's input."""
MAX_FACES_PER_LABEL = 600
"""Recordings are paired with at most this many faces of each label."""
AUGMENTATIONS_PER_FACE = 2
"""How many augmented versions of each face to train on the trunk encodes."""


class AudioVisualAdapter(ArchitectureAdapter):
    """Networks for face and voice, trained on images, recordings, clips or synthetic pairs."""

    name = AUDIO_VISUAL
    media = (IMAGES, AUDIO, CLIPS)
    backbone = ("trunk.",)
    input_description = "windows of three seconds"

    def load_inputs(
        self, data: Dataset, context: DataContext, config: TrainConfig, options: ClassificationOptions
    ) -> tuple[InputAdapter, np.ndarray]:
        """Load the examples of a data set."""
        if data.media == IMAGES:
            return _image_inputs(data, context)
        if data.media == CLIPS:
            return _clip_inputs(data, context, options)
        sounds = _audio_inputs(data.examples)
        usable = np.ones(len(sounds), bool)
        if data.faces is None:
            return sounds, usable
        return TrunkFeaturePairs(sounds, data, config.seed, options, context), usable

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Build a network with its initial weights."""
        try:
            network = AudioVisualNet(classes=len(labels), **arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error).rstrip(".")
            raise DataInvalid(f"audio-visual cannot be built: {reason}. Check its --model-arg.") from error
        if pretrained and (pretrained / CARD_FILE).is_file():
            own = load_audiovisual_model(pretrained, fuse=False).network
            network.trunk.load_state_dict(own.trunk.state_dict())
            network.audio.load_state_dict(own.audio.state_dict())
        elif pretrained:
            load_torchvision_weights(network.trunk, pretrained)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def warm_start_audio(
        self, network: nn.Module, checkpoint: Path, data: Dataset, config: TrainConfig, counts: Mapping[str, int]
    ) -> None:
        """Load the audio branch from another run's checkpoint."""
        state = read_checkpoint(checkpoint)
        stated, weights = state["about"], (state["mean"] or state)["network"]
        recipe = stated["recipe"]
        same = (recipe["seed"], recipe["split_by"]) == (config.seed, config.split_by)
        if not same or stated["examples"] != counts or stated["data"] not in data.name:
            # Its network may have been trained on people who are held out here.
            raise DataInvalid(f"{checkpoint} was trained on other recordings; train it with the same data and folds.")
        own = {name.removeprefix("audio."): tensor for name, tensor in weights.items() if name.startswith("audio.")}
        assert isinstance(network, AudioVisualNet)
        network.audio.load_state_dict(own)

    def card_fields(self, data: Dataset) -> dict[str, Any]:
        """Return more fields of model.json."""
        has = {IMAGES: ("video",), AUDIO: ("audio",), CLIPS: MODALITIES}[data.media]
        modalities = MODALITIES if data.faces else has
        parts = " and ".join(INPUT_DESCRIPTIONS[name] for name in modalities)
        return {
            "kind": AUDIO_VISUAL,
            "modalities": list(modalities),
            "input": f"windows of three seconds: {parts}",
        }

    def unused_parameters(self, data: Dataset) -> tuple[str, ...]:
        """Return prefixes of the parameters that a data set cannot train."""
        if data.media == IMAGES:
            return ("audio.",)
        # Pairs hold the trunk's features of their faces.
        return ("trunk.",) if data.media == AUDIO else ()

    def init_statistics(self, network: nn.Module, inputs: InputAdapter, rows: np.ndarray) -> None:
        """Set the network's input normalization from the training rows."""
        assert isinstance(network, AudioVisualNet)
        mels: list[np.ndarray] = []
        sounds = inputs.sounds if isinstance(inputs, SyntheticPairs) else inputs
        if isinstance(sounds, AudioInputs):
            mels = [sounds.mels[row] for row in rows]
        elif isinstance(inputs, ClipInputs):
            mels = [clip.mels[clip.audio_mask].numpy() for clip in inputs.select(rows)]
        values = np.concatenate([mel.ravel() for mel in mels]) if mels else np.zeros(0)
        if len(values):
            network.audio.mean.fill_(float(values.mean()))
            network.audio.std.fill_(max(float(values.std()), 1e-3))
        if isinstance(inputs, TrunkFeaturePairs):
            inputs.compute_features(network)


class TrunkFeaturePairs(SyntheticPairs):
    """Pairs whose faces are encoded once by the network's trunk, which is then frozen."""

    def __init__(
        self, sounds: AudioInputs, data: Dataset, seed: int, options: ClassificationOptions, context: DataContext
    ) -> None:
        super().__init__(sounds, data.truth, drop_video=options.drop_video, drop_audio=options.drop_audio)
        assert data.faces is not None and data.faces.published_split is not None
        self._seed = seed
        truth = data.faces.truth
        wanted = [data.faces.labels.index(EIGHT_TO_SEVEN.get(label, label)) for label in data.labels]
        rng = np.random.default_rng(seed)
        splits = (data.faces.published_split.train, data.faces.published_split.held_out)
        self._rows = [
            [
                rng.permutation(rows[truth[rows] == label])[:MAX_FACES_PER_LABEL]
                for label in range(len(data.faces.labels))
            ]
            for rows in splits
        ]
        if missing := [
            data.labels[i] for i, label in enumerate(wanted) if any(len(rows[label]) == 0 for rows in self._rows)
        ]:
            raise DataInvalid(f"{data.faces.name} lacks faces for {', '.join(missing)} on one side of its split.")
        self._wanted = wanted
        self._trunk: list[torch.Tensor] = []
        self._crops, _ = load_face_crops(data.faces.examples, context)

    def compute_features(self, network: AudioVisualNet) -> None:
        """Encode all faces with the trunk; those to train on also augmented.

        Networks with the same trunk, as those of all folds, share the features.
        """
        trunk = [tensor.cpu() for tensor in network.trunk.state_dict().values()]
        if self._trunk and all(map(torch.equal, trunk, self._trunk)):
            return
        self._trunk = [tensor.clone() for tensor in trunk]
        network.eval()
        self.features, self.pools = self._encode(network, self._rows[0], AUGMENTATIONS_PER_FACE)
        self.val_features, self.val_pools = self._encode(network, self._rows[1], 0)

    def _encode(
        self, network: AudioVisualNet, rows: Sequence[np.ndarray], augmentations: int
    ) -> tuple[torch.Tensor, list[np.ndarray]]:
        rng = np.random.default_rng(self._seed)
        features: list[torch.Tensor] = []
        rows_of: list[np.ndarray] = []
        count = 0
        for own in rows:
            before = count
            for repeat in range(augmentations + 1):
                for part in np.array_split(own, max(1, -(-len(own) // 64))):
                    crops = np.stack(
                        [augment_face_square(self._crops[row], INPUT_SIDE, rng if repeat else None) for row in part]
                    )
                    with torch.inference_mode():
                        features.append(network.encode_faces(torch.from_numpy(crops)).float().cpu())
                    count += len(part)
            rows_of.append(np.arange(before, count))
        return torch.cat(features).clone(), [rows_of[index] for index in self._wanted]


def _image_inputs(data: Dataset, context: DataContext) -> tuple[InputAdapter, np.ndarray]:
    squares, found = load_face_crops(data.examples, context)
    return FaceInputs(squares), found


def _audio_inputs(examples: Sequence[Example]) -> AudioInputs:
    sounds = [(log_mel(sound.samples), sound.duration) for sound in load_audio(examples)]
    return AudioInputs([mel for mel, _ in sounds], [duration for _, duration in sounds], MelAugmentation())


def _clip_inputs(
    data: Dataset, context: DataContext, options: ClassificationOptions
) -> tuple[InputAdapter, np.ndarray]:
    clips = load_windows(data.examples, context)
    usable = np.array([clip is not None for clip in clips])
    if not usable.any():
        raise DataInvalid(f"None of the {len(clips)} clips shows a face or has sound; look at some.")
    return ClipInputs(clips, MelAugmentation(), drop_video=options.drop_video, drop_audio=options.drop_audio), usable
