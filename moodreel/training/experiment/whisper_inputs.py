"""Prepare recordings for networks with Whisper's encoder."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from moodreel.media.audio import AudioClip
from moodreel.media.mel_spectrogram import MEL_BANDS
from moodreel.models.networks.audiovisual import AudioVisualNet
from moodreel.models.networks.whisper import WIDTH, WhisperVoice
from moodreel.pipelines.clip_sampler import SECONDS, window_starts
from moodreel.training.experiment.audiovisual_inputs import AvBatch, AvInputs, single_modality


class WhisperInputs(AvInputs):
    """Recordings as statistics of the outputs of Whisper's frozen encoder, for windows of three seconds.

    They are computed once, for all folds.
    """

    modalities = ("audio",)
    unused = ("trunk.", "audio.encoder.")

    def __init__(self, sounds: Sequence[AudioClip]) -> None:
        """Create the inputs of N recordings."""
        self._sounds = sounds
        self._voices = torch.zeros(0, 2 * WIDTH)
        self._counts = np.array([len(window_starts(sound.duration)) for sound in sounds])
        self._first = np.cumsum(self._counts) - self._counts

    def init_statistics(self, network: nn.Module, rows: np.ndarray) -> None:
        """Set the network's input normalization from the training rows; compute all statistics the first time."""
        assert isinstance(network, AudioVisualNet)
        assert isinstance(network.audio, WhisperVoice)
        if not len(self._voices):
            network.eval()
            self._voices = torch.cat(
                [self._pool(network.audio, sound) for sound in tqdm(self._sounds, "voices", mininterval=5)]
            )
        std, mean = torch.std_mean(self._voices[self._windows(rows)], dim=0)
        network.audio.mean.copy_(mean)
        network.audio.std.copy_(std.clamp_min(1e-3))

    def _windows(self, rows: np.ndarray) -> np.ndarray:
        """Return the indices of the windows of some recordings, one recording after the other."""
        return np.concatenate([np.arange(self._counts[row]) + self._first[row] for row in rows])

    def _pool(self, voice: WhisperVoice, sound: AudioClip) -> torch.Tensor:
        """Return the statistics of a recording's windows, (W, 768)."""
        windows = np.stack([sound.slice(start, SECONDS) for start in window_starts(sound.duration)])
        with torch.inference_mode():
            pooled = voice.pool(torch.from_numpy(windows).to(voice.mean.device))
        return pooled.cpu().clone()

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None) -> AvBatch:
        """Return the windows of some examples; with an `rng`, one random window of each."""
        drawn = None if rng is None else self._first[rows] + rng.integers(self._counts[rows])
        voices = self._voices[self._windows(rows) if drawn is None else drawn]
        owners = np.arange(len(rows)).repeat(self._counts[rows])
        # The spectrograms of these windows are not read.
        windows = single_modality(mels=torch.zeros(len(voices), MEL_BANDS, 0))
        return AvBatch(windows, voices=voices, owners=torch.from_numpy(owners) if drawn is None else None)
