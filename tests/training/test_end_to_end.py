"""Test the path from a RAVDESS folder to predictions: readers, splits, audio, faces and the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moodreel.emotions import EIGHT
from moodreel.media import audio
from moodreel.media.mel_spectrogram import log_mel
from moodreel.media.video import VideoReader
from moodreel.models.networks.audiovisual import AudioVisualBatch, AudioVisualNet
from moodreel.pipelines import clip_sampler
from moodreel.training.augmentation.modality_dropout import drop_modalities
from moodreel.training.data.ravdess import read_ravdess
from moodreel.training.data.splits import folds, split
from tests.support import ravdess

ACTORS = range(6, 10)


@pytest.fixture(scope="module")
def ravdess_folder(tmp_path_factory):
    """Write recordings of four actors, each emotion in both statements, and a clip of two emotions of each."""
    folder = tmp_path_factory.mktemp("ravdess")
    ravdess.write_recordings(folder, ACTORS)
    for actor in ACTORS:
        for emotion in ("happy", "sad"):
            ravdess.write_clip(
                folder / f"Actor_{actor:02}" / f"{ravdess.file_stem(emotion, actor, modality=1)}.mp4", emotion, actor
            )
    return folder


def window_of(path):
    """Return the only window of a clip or recording under three seconds; the whole frame is taken as the face."""
    data = path.read_bytes()
    sound = audio.decode_audio(data)
    [start] = clip_sampler.window_starts(sound.duration)
    faces = np.zeros((clip_sampler.FRAMES, 48, 64, 3), np.uint8)
    seen = np.zeros(clip_sampler.FRAMES, bool)
    if path.suffix == ".mp4":
        reader = VideoReader(data)
        frames = list(reader.frames(max_side=64))
        for index, time in enumerate(clip_sampler.frame_times(start, reader.duration)):
            faces[index], seen[index] = min(frames, key=lambda frame: abs(frame.time - time)).rgb, True
    return faces, seen, log_mel(sound.slice(start, clip_sampler.SECONDS)), True


def batch_of(examples):
    faces, seen, mels, has_audio = zip(*(window_of(example.media) for example in examples), strict=True)
    return AudioVisualBatch(
        *(torch.from_numpy(np.stack(column)) for column in (faces, seen, mels, np.array(has_audio)))
    )


def test_folds_are_by_actor_with_every_emotion(ravdess_folder):
    recordings = read_ravdess(ravdess_folder, "audio")
    assert len(recordings) == 4 * 16 + 1
    parts = folds(recordings, 4)
    for part in parts:
        held = [recordings[row] for row in part.held_out]
        assert len({example.person for example in held}) == 1
        assert {example.label for example in held} == set(EIGHT)
        assert not part.leaks


def test_a_batch_names_the_modalities_in_use(ravdess_folder):
    torch.manual_seed(0)
    network = AudioVisualNet().eval()
    clips, recordings = read_ravdess(ravdess_folder, "audio-video"), read_ravdess(ravdess_folder, "audio")
    batch = batch_of([*clips[:2], recordings[0]])
    assert batch.modalities() == [("video", "audio"), ("video", "audio"), ("audio",)]
    with torch.inference_mode():
        assert network(batch).shape == (3, len(EIGHT))


def test_spectrograms_differ_by_pitch(ravdess_folder):
    one_actor = [example for example in read_ravdess(ravdess_folder, "audio") if example.person == "actor 06"]
    loudest = {example.label: int(window_of(example.media)[2].max(axis=1).argmax()) for example in one_actor}
    assert list(loudest.values()) == sorted(loudest.values())
    assert len(set(loudest.values())) == len(EIGHT)


@pytest.mark.training
def test_network_overfits_two_emotions_with_and_without_sound(ravdess_folder):
    """It is measured on its training examples: this tests that the parts fit together."""
    clips = read_ravdess(ravdess_folder, "audio-video")
    parts = split(clips, 0.25)
    examples = [clips[row] for row in parts.train]
    batch, truth = batch_of(examples), torch.tensor([example.label == "sad" for example in examples]).long()
    batch = replace(
        batch, faces=batch.faces[:, 4:5], face_mask=batch.face_mask[:, 4:5]
    )  # one frame of eight, for speed
    torch.manual_seed(0)
    network = AudioVisualNet(classes=2, dropout=0.0).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(
            network(drop_modalities(batch, generator, video_prob=0.1, audio_prob=0.4)), truth
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    with torch.no_grad():
        assert (network(batch).argmax(dim=1) == truth).all()
