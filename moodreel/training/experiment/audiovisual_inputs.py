"""Prepare the inputs of audio-visual networks: faces alone, voices alone, clips with both, or synthetic pairs."""

import itertools
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from moodreel.emotions import EIGHT_TO_SEVEN
from moodreel.errors import DataInvalid
from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, MEL_BANDS
from moodreel.models.model_card import MODALITIES
from moodreel.models.networks.audiovisual import AudioCNN, AudioVisualBatch, AudioVisualNet
from moodreel.models.networks.resnet18 import INPUT_SIDE
from moodreel.pipelines.clip_loader import MEL_STEPS
from moodreel.pipelines.clip_sampler import FRAMES, window_starts
from moodreel.training.augmentation.image import augment_face_square
from moodreel.training.augmentation.modality_dropout import drop_modalities
from moodreel.training.augmentation.spectrogram import augment_mel, crop_time
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.images import Images
from moodreel.training.engine.schedule import Phase
from moodreel.training.experiment.classification import InputAdapter

SMALL_FACES, SMALL_FACE_SIDE = "small faces", 64
"""Name of the phase with small faces, and their side in pixels: most is learned in it, in a third of the time."""
MAX_FACES_PER_LABEL = 600
"""Recordings are paired with at most this many faces of each label."""
AUGMENTATIONS_PER_FACE = 2
"""Number of augmented versions of each training face that the trunk encodes, besides the face itself."""


@dataclass(frozen=True, eq=False)
class AvBatch:
    """A batch of windows.

    Attributes:
        windows: B windows.
        frames: float32 (B, T, 512), the trunk's features of the faces, if known. The images in `windows` are then
            ignored.
        voices: float32 (B, 768), Whisper's statistics of the audio, if known. The audio in `windows` is then ignored.
        owners: int64 (B,), index of the example that each window is part of: the probabilities of its windows are
            averaged. None if each example has one window.
    """

    windows: AudioVisualBatch
    frames: torch.Tensor | None = None
    voices: torch.Tensor | None = None
    owners: torch.Tensor | None = None


class AvInputs(InputAdapter):
    """Inputs whose batches are windows.

    Attributes:
        modalities: The modalities that the network is trained on.
    """

    modalities: tuple[str, ...]

    def mels_of(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the spectrograms of some examples; none by default."""
        return []

    def init_statistics(self, network: nn.Module, rows: np.ndarray) -> None:
        """Set the network's input normalization from the training rows."""
        assert isinstance(network, AudioVisualNet)
        values = np.concatenate([np.zeros(0, np.float32), *(mel.ravel() for mel in self.mels_of(rows))])
        if len(values) and isinstance(network.audio, AudioCNN):
            network.audio.mean.fill_(float(values.mean()))
            network.audio.std.fill_(max(float(values.std()), 1e-3))

    def mixup(self, inputs: AvBatch, order: np.ndarray, weight: float) -> AvBatch:
        """Mix each input with another one of the batch."""
        rows = torch.from_numpy(order)
        own, other = inputs.windows, inputs.windows.select(rows)
        mixed = AudioVisualBatch(
            faces=(weight * own.faces + (1 - weight) * other.faces).round().byte(),
            face_mask=own.face_mask | other.face_mask,
            mels=own.mels.lerp(other.mels, 1 - weight),
            audio_mask=own.audio_mask | other.audio_mask,
        )
        frames = None if inputs.frames is None else inputs.frames.lerp(inputs.frames[rows], 1 - weight)
        voices = None if inputs.voices is None else inputs.voices.lerp(inputs.voices[rows], 1 - weight)
        return AvBatch(mixed, frames, voices)

    def forward(self, network: nn.Module, inputs: AvBatch, phase: Phase | None = None) -> torch.Tensor:
        """Return the logits of each example; with `owners`, the log of the mean probabilities of its windows."""
        assert isinstance(network, AudioVisualNet)
        network.input_side = SMALL_FACE_SIDE if phase is not None and phase.name == SMALL_FACES else INPUT_SIDE
        masks = inputs.windows.face_mask.to(network.device), inputs.windows.audio_mask.to(network.device)
        frames = network.encode_frames(inputs.windows) if inputs.frames is None else inputs.frames.to(network.device)
        voices = network.prepare_audio(inputs.windows) if inputs.voices is None else inputs.voices.to(network.device)
        logits: torch.Tensor = network.fusion(network.fusion_inputs(frames, masks[0], voices, masks[1]))
        if inputs.owners is None:
            return logits
        owners = inputs.owners.to(logits.device)
        count = int(owners.max()) + 1
        total: torch.Tensor = logits.new_zeros(count, logits.shape[1]).index_add(
            0, owners, logits.float().softmax(dim=1)
        )
        return (total / torch.bincount(owners, minlength=count)[:, None]).clamp_min(1e-9).log()


@dataclass(eq=False, kw_only=True)
class PairedInputs(AvInputs):
    """Windows with a face and a voice; some lose one of them in training.

    Attributes:
        drop_video: The fraction of training windows that lose the face.
        drop_audio: The fraction of training windows that lose the voice.
        missing: The modality that is removed from all windows in evaluation; "" for none.
    """

    modalities = MODALITIES
    drop_video: float
    drop_audio: float
    missing: str = field(default="", init=False)

    def ablations(self) -> dict[str, InputAdapter]:
        """Return the examples with audio alone and with video alone, by modality."""
        ablated: dict[str, InputAdapter] = {}
        for missing, modality in (("video", "audio"), ("audio", "video")):
            other = copy(self)
            other.missing = missing
            ablated[modality] = other
        return ablated

    def drop_modality(self, windows: AudioVisualBatch, rng: np.random.Generator | None) -> AudioVisualBatch:
        """Remove a modality: a random one, or none, with an `rng`; else the `missing` one."""
        if rng is not None:
            generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
            return drop_modalities(windows, generator, video_prob=self.drop_video, audio_prob=self.drop_audio)
        if self.missing == "video":
            return replace(windows, face_mask=torch.zeros_like(windows.face_mask))
        return replace(windows, audio_mask=torch.zeros_like(windows.audio_mask)) if self.missing else windows


@dataclass(eq=False)
class FaceInputs(AvInputs):
    """Images of faces, as windows of one frame without audio."""

    modalities = ("video",)
    unused = ("audio.",)
    faces: Images

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None) -> AvBatch:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        faces = np.stack([augment_face_square(self.faces[row], INPUT_SIDE, rng) for row in rows])[:, None]
        return AvBatch(single_modality(faces=torch.from_numpy(faces)))


@dataclass(eq=False)
class AudioInputs(AvInputs):
    """Recordings as log-mel spectrograms, each float32 (64, frames), cut into windows of three seconds."""

    modalities = ("audio",)
    unused = ("trunk.",)
    mels: Sequence[np.ndarray]
    durations: Sequence[float]

    def mels_of(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the spectrograms of some examples."""
        return [self.mels[row] for row in rows]

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None) -> AvBatch:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        if rng is not None:
            mels = np.stack([augment_mel(self.mels[row], rng) for row in rows])
            return AvBatch(single_modality(mels=torch.from_numpy(mels)))
        windows = [self._windows(row) for row in rows]
        owners = torch.tensor([index for index, each in enumerate(windows) for _ in each])
        mels = np.stack([window for each in windows for window in each])
        return AvBatch(single_modality(mels=torch.from_numpy(mels)), owners=owners)

    def _windows(self, row: int) -> list[np.ndarray]:
        return [
            crop_time(self.mels[row], round(start * SAMPLE_RATE / HOP_LENGTH))
            for start in window_starts(self.durations[row])
        ]


class SyntheticPairs(PairedInputs):
    """Synthetic pairs: each recording with a face of the same emotion, of another person.

    The faces are encoded once by the network's trunk, which is then frozen.
    """

    def __init__(self, sounds: AvInputs, data: Dataset, crops: Images, seed: int, **dropped: float) -> None:
        """Choose the faces.

        Args:
            sounds: N recordings.
            data: The data set of these recordings, paired with a data set of faces.
            crops: The squares around the faces of that data set.
            seed: Seed of the choice and of the augmentation.
            **dropped: `drop_video` and `drop_audio`.

        Raises:
            DataInvalid: There are no faces of a label.
        """
        super().__init__(**dropped)
        assert data.faces is not None and data.faces.published_split is not None
        self.sounds, self.truth, self._crops, self._seed = sounds, data.truth, crops, seed
        self.unused = sounds.unused
        self._wanted = [data.faces.labels.index(EIGHT_TO_SEVEN.get(label, label)) for label in data.labels]
        rng, truth = np.random.default_rng(seed), data.faces.truth
        self._rows = [
            [
                rng.permutation(rows[truth[rows] == label])[:MAX_FACES_PER_LABEL]
                for label in range(len(data.faces.labels))
            ]
            for rows in (data.faces.published_split.train, data.faces.published_split.held_out)
        ]
        lacks = [min(len(rows[label]) for rows in self._rows) == 0 for label in self._wanted]
        if missing := [label for label, lacking in zip(data.labels, lacks, strict=True) if lacking]:
            raise DataInvalid(f"{data.faces.name} lacks faces for {', '.join(missing)} on one side of its split.")
        self._trunk: list[torch.Tensor] = []

    def init_statistics(self, network: nn.Module, rows: np.ndarray) -> None:
        """Set the network's input normalization, and encode all faces; training faces are also encoded augmented.

        Networks with the same trunk, such as the networks of all folds, share the features.
        """
        self.sounds.init_statistics(network, rows)
        assert isinstance(network, AudioVisualNet)
        trunk = [tensor.cpu() for tensor in network.trunk.state_dict().values()]
        if self._trunk and all(map(torch.equal, trunk, self._trunk)):
            return
        self._trunk = [tensor.clone() for tensor in trunk]
        network.eval()
        self._train_faces = self._encode(network, self._rows[0], AUGMENTATIONS_PER_FACE)
        self._val_faces = self._encode(network, self._rows[1], 0)

    def _encode(
        self, network: AudioVisualNet, rows: Sequence[np.ndarray], augmentations: int
    ) -> tuple[torch.Tensor, list[np.ndarray]]:
        """Return the trunk's features of faces, float32 (F, 512), and their rows for each label of the recordings."""
        rng = np.random.default_rng(self._seed)
        features: list[torch.Tensor] = []
        for label_rows, repeat in itertools.product(rows, range(augmentations + 1)):
            for part in np.array_split(label_rows, max(1, -(-len(label_rows) // 64))):
                crops = [augment_face_square(self._crops[row], INPUT_SIDE, rng if repeat else None) for row in part]
                with torch.inference_mode():
                    features.append(network.encode_faces(torch.from_numpy(np.stack(crops))).float().cpu())
        ends = np.cumsum([len(label_rows) * (augmentations + 1) for label_rows in rows])
        rows_of = np.split(np.arange(ends[-1]), ends[:-1])
        return torch.cat(features).clone(), [rows_of[index] for index in self._wanted]

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None) -> AvBatch:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        batch: AvBatch = self.sounds.batch(rows, rng)
        features, pools = self._val_faces if rng is None else self._train_faces
        chosen = np.stack([self._choose(pools[self.truth[row]], int(row), rng) for row in rows])
        frames = features[torch.from_numpy(chosen)]
        frames = frames if batch.owners is None else frames[batch.owners]
        windows = replace(
            batch.windows,
            faces=torch.zeros(len(frames), FRAMES, 0, 0, 3, dtype=torch.uint8),
            face_mask=torch.ones(len(frames), FRAMES, dtype=torch.bool),
        )
        return replace(batch, windows=self.drop_modality(windows, rng), frames=frames)

    def _choose(self, pool: np.ndarray, row: int, rng: np.random.Generator | None) -> np.ndarray:
        """Return the row of each frame's face, int64 (T,): of up to three faces in training, of one in evaluation.

        Several faces teach the network the emotion and not the person.
        """
        if rng is None:
            return np.full(FRAMES, np.random.default_rng(row).choice(pool))
        faces = rng.choice(pool, int(rng.integers(1, 4)))
        return faces[np.arange(FRAMES) * len(faces) // FRAMES]


@dataclass(eq=False)
class ClipInputs(PairedInputs):
    """Clips, each with all its windows; None for a clip with neither face nor voice. Training takes a random one."""

    clips: Sequence[AudioVisualBatch | None]

    def mels_of(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return the spectrograms of some examples."""
        return [clip.mels[clip.audio_mask].numpy() for clip in self.select(rows)]

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None) -> AvBatch:
        """Return the inputs of some examples, augmented if there is an `rng`."""
        if rng is None:
            clips = self.select(rows)
            owners = torch.tensor([index for index, clip in enumerate(clips) for _ in range(len(clip))])
            return AvBatch(self.drop_modality(_concatenate(clips), None), owners=owners)
        windows = _concatenate([self._augment(clip, rng) for clip in self.select(rows)])
        return AvBatch(self.drop_modality(windows, rng))

    def select(self, rows: np.ndarray) -> list[AudioVisualBatch]:
        """Return the windows of some clips."""
        return [clip for clip in (self.clips[row] for row in rows) if clip is not None]

    def _augment(self, clip: AudioVisualBatch, rng: np.random.Generator) -> AudioVisualBatch:
        window = clip.select(torch.tensor([int(rng.integers(len(clip)))]))
        seed = int(rng.integers(2**31))  # the same augmentation for all frames
        faces = [augment_face_square(face, INPUT_SIDE, np.random.default_rng(seed)) for face in window.faces[0].numpy()]
        mels = augment_mel(window.mels[0].numpy(), rng) if bool(window.audio_mask[0]) else window.mels[0]
        return replace(
            window, faces=torch.from_numpy(np.stack(faces))[None], mels=torch.as_tensor(mels, dtype=torch.float32)[None]
        )


def single_modality(*, faces: torch.Tensor | None = None, mels: torch.Tensor | None = None) -> AudioVisualBatch:
    """Return windows of faces alone or of audio alone."""
    has_video, has_audio = faces is not None, mels is not None
    if faces is None:
        assert mels is not None
        faces = torch.zeros(len(mels), FRAMES, 0, 0, 3, dtype=torch.uint8)
    return AudioVisualBatch(
        faces=faces,
        face_mask=torch.full(faces.shape[:2], has_video),
        mels=torch.zeros(len(faces), MEL_BANDS, MEL_STEPS) if mels is None else mels,
        audio_mask=torch.full((len(faces),), has_audio),
    )


def _concatenate(parts: Sequence[AudioVisualBatch]) -> AudioVisualBatch:
    return AudioVisualBatch(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("faces", "face_mask", "mels", "audio_mask"))
    )
