"""What examples are to audio-visual networks: faces alone, voices alone, clips with both, or the two put together."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.mel_spectrogram import HOP_LENGTH, MEL_BANDS
from moodreel.models.networks.audiovisual import AudioVisualBatch, AudioVisualNet
from moodreel.models.networks.resnet18 import FEATURE_DIM, INPUT_SIDE
from moodreel.pipelines.clip_sampler import FRAMES, window_starts
from moodreel.training.augmentation.image import augment_face_square
from moodreel.training.augmentation.modality_dropout import drop_modalities
from moodreel.training.augmentation.spectrogram import WINDOW_FRAMES, MelAugmentation, augment_mel, crop_time
from moodreel.training.engine.schedule import Phase
from moodreel.training.experiment.classification import InputAdapter

SMALL_FACES, SMALL_FACE_SIDE = "small faces", 64
"""The phase in which faces are shown small, and how small: it takes a third of the time, and teaches most of it."""


@dataclass(frozen=True, eq=False)
class AvBatch:
    """Windows as an audio-visual network reads them.

    frames: float32 (B, T, 512), what its trunk makes of the faces, where that is known already; the pictures in
        `excerpts` are not looked at then.
    owners: int64 (B,), which example each window is of; None where each has one. Its windows' answers are averaged.
    """

    excerpts: AudioVisualBatch
    frames: torch.Tensor | None = None
    owners: torch.Tensor | None = None


class AvInputs(InputAdapter):
    """What all of them have in common: `Views` to logits. Sound and spectrograms are blended, pictures where there are
    such."""

    def mixup(self, inputs: AvBatch, order: np.ndarray, weight: float) -> AvBatch:
        rows = torch.from_numpy(order)
        own, other = inputs.excerpts, inputs.excerpts.select(rows)
        mixed = AudioVisualBatch(
            faces=(weight * own.faces + (1 - weight) * other.faces).round().byte(),
            face_mask=own.face_mask | other.face_mask,
            mels=own.mels.lerp(other.mels, 1 - weight),
            audio_mask=own.audio_mask | other.audio_mask,
        )
        frames = None if inputs.frames is None else inputs.frames.lerp(inputs.frames[rows], 1 - weight)
        return AvBatch(mixed, frames)

    def forward(self, network: nn.Module, inputs: AvBatch, phase: Phase | None = None) -> torch.Tensor:
        assert isinstance(network, AudioVisualNet)
        network.input_side = SMALL_FACE_SIDE if phase is not None and phase.name == SMALL_FACES else INPUT_SIDE
        seen, heard = inputs.excerpts.face_mask.to(network.device), inputs.excerpts.audio_mask.to(network.device)
        frames = network.encode_frames(inputs.excerpts) if inputs.frames is None else inputs.frames.to(network.device)
        logits = network.fusion(network.fusion_inputs(frames, seen, inputs.excerpts.mels, heard))
        if inputs.owners is None:
            return logits
        owners = inputs.owners.to(logits.device)
        count = int(owners.max()) + 1
        total = logits.new_zeros(count, logits.shape[1]).index_add(0, owners, logits.float().softmax(dim=1))
        return (total / torch.bincount(owners, minlength=count)[:, None]).clamp_min(1e-9).log()


class PairedInputs(AvInputs):
    """Windows with a face and a voice, of which some lose the one or the other while they are learnt.

    video, audio: shares of those that lose it. lacks: which one all lack, when they are judged; "" for none.
    """

    def __init__(self, drop_video: float, drop_audio: float) -> None:
        self.drop_video, self.drop_audio, self.missing = drop_video, drop_audio, ""

    def ablations(self) -> dict[str, InputAdapter]:
        made: dict[str, InputAdapter] = {}
        for lacks, left in (("video", "audio alone"), ("audio", "video alone")):
            other = copy(self)
            other.missing = lacks
            made[left] = other
        return made

    def drop_modality(self, excerpts: AudioVisualBatch, rng: np.random.Generator | None) -> AudioVisualBatch:
        if rng is not None:
            draw = torch.Generator().manual_seed(int(rng.integers(2**31)))
            return drop_modalities(excerpts, draw, video_prob=self.drop_video, audio_prob=self.drop_audio)
        if self.missing == "video":
            return replace(excerpts, face_mask=torch.zeros_like(excerpts.face_mask))
        return replace(excerpts, audio_mask=torch.zeros_like(excerpts.audio_mask)) if self.missing else excerpts


class FaceInputs(AvInputs):
    """Pictures of faces, as `Portraits` takes them: windows of one frame without sound."""

    def __init__(self, faces: Any) -> None:
        self.faces = faces

    def __len__(self) -> int:
        return len(self.faces)

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, phase: Phase | None = None) -> AvBatch:
        faces = np.stack([augment_face_square(self.faces[row], INPUT_SIDE, rng) for row in rows])[:, None]
        return AvBatch(_single_modality(faces=torch.from_numpy(faces)))


class AudioInputs(AvInputs):
    """Recordings, each the log-mel spectrogram of all of it, float32 (64, steps): windows of three seconds."""

    def __init__(self, mels: Sequence[np.ndarray], seconds: Sequence[float], voices: MelAugmentation) -> None:
        self.mels, self.seconds, self.voices = mels, seconds, voices

    def __len__(self) -> int:
        return len(self.mels)

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, phase: Phase | None = None) -> AvBatch:
        if rng is not None:
            mels = np.stack([augment_mel(self.mels[row], rng, self.voices) for row in rows])
            return AvBatch(_single_modality(mels=torch.from_numpy(mels)))
        cut = [self._windows(row) for row in rows]
        owners = torch.tensor([index for index, windows in enumerate(cut) for _ in windows])
        mels = np.stack([window for windows in cut for window in windows])
        return AvBatch(_single_modality(mels=torch.from_numpy(mels)), owners=owners)

    def _windows(self, row: int) -> list[np.ndarray]:
        return [
            crop_time(self.mels[row], round(start * SAMPLE_RATE / HOP_LENGTH))
            for start in window_starts(self.seconds[row])
        ]


class SyntheticPairs(PairedInputs):
    """Synthetic pairing: each recording with a face of the same emotion, of another person, who never said it.

    features: float32 (F, 512), what the trunk makes of faces that may be learnt from; kept: the same of faces that may
    not. pools, kept_pools: for each label, the rows in these of its faces. truth: int64 (N,), of the recordings.
    """

    def __init__(self, sounds: AudioInputs, truth: np.ndarray, *, drop_video: float, drop_audio: float) -> None:
        super().__init__(drop_video, drop_audio)
        self.sounds, self.truth = sounds, truth
        self.features = self.val_features = torch.zeros(0, FEATURE_DIM)
        self.pools: Sequence[np.ndarray] = ()
        self.val_pools: Sequence[np.ndarray] = ()

    def __len__(self) -> int:
        return len(self.sounds)

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, phase: Phase | None = None) -> AvBatch:
        views = self.sounds.batch(rows, rng, phase)
        features, pools = (self.val_features, self.val_pools) if rng is None else (self.features, self.pools)
        chosen = np.stack([self._choose(pools[self.truth[row]], int(row), rng) for row in rows])
        frames = features[torch.from_numpy(chosen)]
        frames = frames if views.owners is None else frames[views.owners]
        excerpts = replace(
            views.excerpts,
            faces=torch.zeros(len(frames), FRAMES, 0, 0, 3, dtype=torch.uint8),
            face_mask=torch.ones(len(frames), FRAMES, dtype=torch.bool),
        )
        return AvBatch(self.drop_modality(excerpts, rng), frames, views.owners)

    def _choose(self, pool: np.ndarray, row: int, rng: np.random.Generator | None) -> np.ndarray:
        """One face for all frames, the same each time, where it is measured on; or one to three, one after the other:
        a face that is learnt from shall stand for its emotion, not for itself."""
        if rng is None:
            return np.full(FRAMES, np.random.default_rng(row).choice(pool))
        faces = rng.choice(pool, int(rng.integers(1, 4)))
        return faces[np.arange(FRAMES) * len(faces) // FRAMES]


class ClipInputs(PairedInputs):
    """Clips, each with all its windows of face and voice, None for one that has neither; one of them, at random, is
    learnt from at a time."""

    def __init__(
        self, clips: Sequence[AudioVisualBatch | None], voices: MelAugmentation, *, drop_video: float, drop_audio: float
    ) -> None:
        super().__init__(drop_video, drop_audio)
        self.clips, self.voices = clips, voices

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, phase: Phase | None = None) -> AvBatch:
        if rng is None:
            clips = self.select(rows)
            owners = torch.tensor([index for index, clip in enumerate(clips) for _ in range(len(clip))])
            return AvBatch(self.drop_modality(_concatenate(clips), None), owners=owners)
        windows = _concatenate([self._augment(clip, rng) for clip in self.select(rows)])
        return AvBatch(self.drop_modality(windows, rng))

    def select(self, rows: np.ndarray) -> list[AudioVisualBatch]:
        return [clip for clip in (self.clips[row] for row in rows) if clip is not None]

    def _augment(self, clip: AudioVisualBatch, rng: np.random.Generator) -> AudioVisualBatch:
        window = clip.select(torch.tensor([int(rng.integers(len(clip)))]))
        seed = int(rng.integers(2**31))  # one camera for all frames
        faces = [augment_face_square(face, INPUT_SIDE, np.random.default_rng(seed)) for face in window.faces[0].numpy()]
        mels = augment_mel(window.mels[0].numpy(), rng, self.voices) if bool(window.audio_mask[0]) else window.mels[0]
        return replace(
            window, faces=torch.from_numpy(np.stack(faces))[None], mels=torch.as_tensor(mels, dtype=torch.float32)[None]
        )


def _single_modality(*, faces: torch.Tensor | None = None, mels: torch.Tensor | None = None) -> AudioVisualBatch:
    """Windows of faces or of sound alone."""
    if faces is not None:
        count, frames = faces.shape[:2]
        return AudioVisualBatch(
            faces=faces,
            face_mask=torch.ones(count, frames, dtype=torch.bool),
            mels=torch.zeros(count, MEL_BANDS, WINDOW_FRAMES),
            audio_mask=torch.zeros(count, dtype=torch.bool),
        )
    assert mels is not None
    return AudioVisualBatch(
        faces=torch.zeros(len(mels), FRAMES, 0, 0, 3, dtype=torch.uint8),
        face_mask=torch.zeros(len(mels), FRAMES, dtype=torch.bool),
        mels=mels,
        audio_mask=torch.ones(len(mels), dtype=torch.bool),
    )


def _concatenate(parts: Sequence[AudioVisualBatch]) -> AudioVisualBatch:
    return AudioVisualBatch(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("faces", "face_mask", "mels", "audio_mask"))
    )
