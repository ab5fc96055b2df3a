"""Build audio-visual networks and prepare their inputs: faces, voices, clips or synthetic pairs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.errors import DataInvalid
from moodreel.media.mel_spectrogram import log_mel
from moodreel.models.audiovisual_registry import load_audiovisual_model
from moodreel.models.model_card import AUDIO_VISUAL
from moodreel.models.networks.audiovisual import AudioVisualNet
from moodreel.models.networks.resnet18 import load_torchvision_weights
from moodreel.models.networks.whisper import WhisperVoice
from moodreel.models.registry import CARD_FILE
from moodreel.training.data.clip_cache import load_windows
from moodreel.training.data.dataset import AUDIO, CLIPS, IMAGES, Dataset
from moodreel.training.data.loading import load_audio, load_face_crops
from moodreel.training.experiment.adapter import ArchitectureAdapter, ClassificationRequest, checked_build
from moodreel.training.experiment.audiovisual_inputs import (
    AudioInputs,
    AvInputs,
    ClipInputs,
    FaceInputs,
    SyntheticPairs,
)
from moodreel.training.experiment.classification import InputAdapter
from moodreel.training.experiment.whisper_init import LICENSE as WHISPER_LICENSE
from moodreel.training.experiment.whisper_init import find_pretrained, load_encoder
from moodreel.training.experiment.whisper_inputs import WhisperInputs

INPUT_DESCRIPTIONS = {
    "video": "8 squares around the face (moodreel.faces.features.crop_square)",
    "audio": "a log-mel spectrogram (moodreel.media.mel_spectrogram)",
}
"""Description of each modality's input, for model.json."""
WHISPER_INPUT = "sound at 16 kHz (moodreel.models.networks.whisper)"


class AudioVisualAdapter(ArchitectureAdapter):
    """Networks for face and voice, trained on images, recordings, clips or synthetic pairs."""

    media = (IMAGES, AUDIO, CLIPS)
    input_description = "windows of three seconds"

    def load_inputs(self, data: Dataset, request: ClassificationRequest) -> tuple[InputAdapter, np.ndarray]:
        """Load the examples of a data set."""
        context, options = request.context, request.options
        whisper = request.model.get("voice") == "whisper"
        if data.media == IMAGES:
            squares, found = load_face_crops(data.examples, context)
            return FaceInputs(squares), found
        dropped = {"drop_video": options.drop_video, "drop_audio": options.drop_audio}
        if data.media == CLIPS:
            if whisper:
                raise DataInvalid("voice=whisper is trained on recordings, alone or paired with faces, not on clips.")
            clips = load_windows(data.examples, context)
            usable = np.array([clip is not None for clip in clips])
            if not usable.any():
                raise DataInvalid(f"None of the {len(clips)} clips shows a face or has sound; check the files.")
            return ClipInputs(clips, **dropped), usable
        sounds: AvInputs
        if whisper:
            sounds = WhisperInputs(list(load_audio(data.examples)))
        else:
            recordings = [(log_mel(sound.samples), sound.duration) for sound in load_audio(data.examples)]
            mels, durations = zip(*recordings, strict=True)
            sounds = AudioInputs(mels, durations)
        usable = np.ones(len(data.examples), bool)
        if data.faces is None:
            return sounds, usable
        crops, _ = load_face_crops(data.faces.examples, context)
        return SyntheticPairs(sounds, data, crops, request.config.seed, **dropped), usable

    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Build a network with its initial weights."""
        network = checked_build(self.name, AudioVisualNet, classes=len(labels), **arguments)
        if isinstance(network.audio, WhisperVoice):
            load_encoder(network.audio.encoder, find_pretrained())
        if pretrained and (pretrained / CARD_FILE).is_file():
            source = load_audiovisual_model(pretrained, fuse=False).network
            network.trunk.load_state_dict(source.trunk.state_dict())
            if type(source.audio) is type(network.audio):
                network.audio.load_state_dict(source.audio.state_dict())
        elif pretrained:
            load_torchvision_weights(network.trunk, pretrained)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def card_fields(self, inputs: InputAdapter) -> dict[str, Any]:
        """Return more fields of model.json."""
        assert isinstance(inputs, AvInputs)
        parts = " and ".join(INPUT_DESCRIPTIONS[name] for name in inputs.modalities)
        modalities = list(inputs.modalities)
        return {"kind": AUDIO_VISUAL, "modalities": modalities, "input": f"{self.input_description}: {parts}"}

    def write(self, out: Path, network: nn.Module, fields: dict[str, Any], weights: str, **statement: str) -> None:
        """Write weights and model.json; the license of pretrained weights is added to ours."""
        if fields["arguments"].get("voice") == "whisper":
            statement["licence"] += f"; {WHISPER_LICENSE}"
            fields["input"] = fields["input"].replace(INPUT_DESCRIPTIONS["audio"], WHISPER_INPUT)
        super().write(out, network, fields, weights, **statement)
