"""Modality dropout: what teaches an audio-visual network to answer a silent clip, and one that hides the face."""

from dataclasses import replace

import torch

from moodreel.models.networks.audiovisual import AudioVisualBatch


def drop_modalities(
    excerpts: AudioVisualBatch, generator: torch.Generator, *, video: float = 0.15, audio: float = 0.15
) -> AudioVisualBatch:
    """Take the faces or the sound away from some windows of a batch that have both; never both.

    video, audio: shares of these windows, 0 to 1, together at most 1, that lose the one or the other (Neverova et al.
        2016, "ModDrop").
    generator: on the CPU; the same seed takes the same away.
    """
    if min(video, audio) < 0 or video + audio > 1:
        raise ValueError(f"Shares of {video} and {audio} to drop are not from 0 to 1 together.")
    both = excerpts.face_mask.any(dim=1) & excerpts.audio_mask
    drawn = torch.rand(len(excerpts), generator=generator).to(both.device)
    blind, deaf = both & (drawn < video), both & (drawn >= 1 - audio)
    return replace(excerpts, face_mask=excerpts.face_mask & ~blind[:, None], audio_mask=excerpts.audio_mask & ~deaf)
