"""How audio-visual networks are made and fed: by faces alone, voices alone, clips, or synthetic pairs."""

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
from moodreel.models.audiovisual_registry import load_audiovisual
from moodreel.models.model_card import AUDIO_VISUAL
from moodreel.models.networks.audiovisual import MODALITIES, AudioVisualNet
from moodreel.models.networks.resnet18 import SIDE, load_pretrained
from moodreel.models.registry import CARD
from moodreel.training.augmentation.spectrogram import MelAugmentation
from moodreel.training.data.audio import load_audio
from moodreel.training.data.clip_cache import load_windows
from moodreel.training.data.examples import Example
from moodreel.training.data.face_crops import load_face_crops
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import AUDIO, CLIPS, IMAGES, Dataset
from moodreel.training.engine.checkpoint import read_checkpoint
from moodreel.training.experiment.adapter import Maker
from moodreel.training.experiment.audiovisual_inputs import Faces, Footage, Pairs, Sounds
from moodreel.training.experiment.classification import Material
from moodreel.training.experiment.config import Study
from moodreel.training.experiment.face_inputs import portrait

log = logging.getLogger(__name__)

READS = {
    "video": "8 squares around the face (moodreel.faces.features.cut)",
    "audio": "a log-mel spectrogram (moodreel.media.mel_spectrogram)",
}
"""What is read of each modality."""
POOL = 600
"""Faces of a label that recordings are paired with, at most."""
LOOKS = 2
"""Times that each of them is shown to the trunk, disturbed anew."""


class AudioVisualMaker(Maker):
    name = AUDIO_VISUAL
    media = (IMAGES, AUDIO, CLIPS)
    reads = "windows of three seconds"

    def prepare(
        self, data: Dataset, means: DataContext, study: Study, arguments: Mapping[str, Any]
    ) -> tuple[Material, np.ndarray]:
        if data.media == IMAGES:
            return _pictures(data, means)
        if data.media == CLIPS:
            return _clips(data, means, study)
        sounds = _recordings(data.examples)
        usable = np.ones(len(sounds), bool)
        if data.faces is None:
            return sounds, usable
        return PairsOf(sounds, data, study, means), usable

    def make(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        try:
            network = AudioVisualNet(classes=len(labels), **arguments)
        except (TypeError, ValueError, RuntimeError) as error:
            said = str(error).rstrip(".")
            raise DataInvalid(f"No audio-visual network can be made so: {said}. Look at its arguments.") from error
        if pretrained and (pretrained / CARD).is_file():
            own = load_audiovisual(pretrained, fold=False).network
            network.trunk.load_state_dict(own.trunk.state_dict())
            network.audio.load_state_dict(own.audio.state_dict())
        elif pretrained:
            load_pretrained(network.trunk, pretrained)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def hear(self, network: nn.Module, checkpoint: Path, data: Dataset, study: Study, counts: Mapping) -> None:
        state = read_checkpoint(checkpoint)
        about, weights = state["about"], (state["mean"] or state)["network"]
        recipe = about["recipe"]
        same = about["examples"] == counts and (recipe["seed"], recipe["by"]) == (study.seed, study.by)
        if not same or about["data"] not in data.name:
            # Whoever is held out here would have been learnt from there.
            raise DataInvalid(f"{checkpoint} has heard others than are learnt from here; train it on the same parts.")
        own = {name.removeprefix("audio."): tensor for name, tensor in weights.items() if name.startswith("audio.")}
        assert isinstance(network, AudioVisualNet)
        network.audio.load_state_dict(own)

    def fields(self, data: Dataset) -> dict[str, Any]:
        has = {IMAGES: ("video",), AUDIO: ("audio",), CLIPS: MODALITIES}[data.media]
        modalities = MODALITIES if data.faces else has
        parts = " and ".join(READS[name] for name in modalities)
        return {
            "kind": AUDIO_VISUAL,
            "modalities": list(modalities),
            "input": f"windows of three seconds: {parts}",
        }

    def idle(self, data: Dataset) -> tuple[str, ...]:
        if data.media == IMAGES:
            return ("audio.",)
        # The trunk has looked at the faces of pairs before they are made.
        return ("trunk.",) if data.media == AUDIO else ()

    def begin(self, network: nn.Module, material: Material, learnt: np.ndarray) -> None:
        assert isinstance(network, AudioVisualNet)
        mels: list[np.ndarray] = []
        sounds = material.sounds if isinstance(material, Pairs) else material
        if isinstance(sounds, Sounds):
            mels = [sounds.mels[row] for row in learnt]
        elif isinstance(material, Footage):
            mels = [clip.mels[clip.heard].numpy() for clip in material.chosen(learnt)]
        values = np.concatenate([mel.ravel() for mel in mels]) if mels else np.zeros(0)
        if len(values):
            network.audio.mean.fill_(float(values.mean()))
            network.audio.std.fill_(max(float(values.std()), 1e-3))
        if isinstance(material, PairsOf):
            material.show(network)


class PairsOf(Pairs):
    """Pairs whose faces are looked at by a network's trunk, which then stays as it is."""

    def __init__(self, sounds: Sounds, data: Dataset, study: Study, means: DataContext) -> None:
        super().__init__(sounds, data.truth, video=study.video, audio=study.audio)
        assert data.faces is not None and data.faces.published_split is not None
        self._seed = study.seed
        truth = data.faces.truth
        wanted = [data.faces.labels.index(EIGHT_TO_SEVEN.get(label, label)) for label in data.labels]
        draw = np.random.default_rng(study.seed)
        sides = (data.faces.published_split.train, data.faces.published_split.held_out)
        self._rows = [
            [draw.permutation(rows[truth[rows] == label])[:POOL] for label in range(len(data.faces.labels))]
            for rows in sides
        ]
        if poor := [
            data.labels[i] for i, label in enumerate(wanted) if any(len(side[label]) == 0 for side in self._rows)
        ]:
            raise DataInvalid(f"{data.faces.name} lacks faces for {', '.join(poor)} on one side of its split.")
        self._wanted = wanted
        self._trunk: list[torch.Tensor] = []
        self._squares, _ = load_face_crops(data.faces.examples, means)

    def show(self, network: AudioVisualNet) -> None:
        """Let the trunk look at all faces: those that are learnt from as they are and disturbed. What it sees is kept
        for the next network with the same trunk, as that of the next fold."""
        trunk = [tensor.cpu() for tensor in network.trunk.state_dict().values()]
        if self._trunk and all(map(torch.equal, trunk, self._trunk)):
            return
        self._trunk = [tensor.clone() for tensor in trunk]
        network.eval()
        self.features, self.pools = self._look(network, self._rows[0], LOOKS)
        self.kept, self.kept_pools = self._look(network, self._rows[1], 0)

    def _look(
        self, network: AudioVisualNet, rows: Sequence[np.ndarray], looks: int
    ) -> tuple[torch.Tensor, list[np.ndarray]]:
        rng = np.random.default_rng(self._seed)
        features: list[torch.Tensor] = []
        places: list[np.ndarray] = []
        count = 0
        for own in rows:
            before = count
            for look in range(looks + 1):
                for some in np.array_split(own, max(1, -(-len(own) // 64))):
                    shown = np.stack([portrait(self._squares[row], SIDE, rng if look else None) for row in some])
                    with torch.inference_mode():
                        features.append(network.encode_faces(torch.from_numpy(shown)).float().cpu())
                    count += len(some)
            places.append(np.arange(before, count))
        return torch.cat(features).clone(), [places[index] for index in self._wanted]


def _pictures(data: Dataset, means: DataContext) -> tuple[Material, np.ndarray]:
    squares, found = load_face_crops(data.examples, means)
    return Faces(squares), found


def _recordings(examples: Sequence[Example]) -> Sounds:
    made = [(log_mel(sound.samples), sound.duration) for sound in load_audio(examples)]
    return Sounds([mel for mel, _ in made], [seconds for _, seconds in made], MelAugmentation())


def _clips(data: Dataset, means: DataContext, study: Study) -> tuple[Material, np.ndarray]:
    clips = load_windows(data.examples, means)
    usable = np.array([clip is not None for clip in clips])
    if not usable.any():
        raise DataInvalid(f"None of the {len(clips)} clips shows a face or has sound; look at some.")
    return Footage(clips, MelAugmentation(), video=study.video, audio=study.audio), usable
