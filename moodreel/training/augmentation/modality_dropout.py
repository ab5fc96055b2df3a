"""Modality dropout: train an audio-visual network for silent clips, and for clips without a visible face."""

from dataclasses import replace

import torch

from moodreel.models.networks.audiovisual import AudioVisualBatch


def drop_modalities(
    batch: AudioVisualBatch, generator: torch.Generator, *, video_prob: float, audio_prob: float
) -> AudioVisualBatch:
    """Drop the faces or the audio of some windows that have both; never both (ModDrop, Neverova et al. 2016).

    Args:
        batch: The windows.
        generator: Source of all randomness, on the CPU.
        video_prob: Probability that such a window loses its faces.
        audio_prob: Probability that it loses its audio; at most 1 together with `video_prob`.
    """
    both = batch.face_mask.any(dim=1) & batch.audio_mask
    draw = torch.rand(len(batch), generator=generator).to(both.device)
    no_video, no_audio = both & (draw < video_prob), both & (draw >= 1 - audio_prob)
    return replace(batch, face_mask=batch.face_mask & ~no_video[:, None], audio_mask=batch.audio_mask & ~no_audio)
