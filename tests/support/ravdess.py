"""A small RAVDESS, made in a folder: real names, and media with sound that the tests make themselves."""

from pathlib import Path

import cv2
import numpy as np

from moodreel.emotions import EIGHT
from tests.support import synthetic_audio, synthetic_frames

SAMPLE_RATE = 48_000


def file_stem(
    emotion: str, actor: int, *, modality: int = 3, intensity: int = 1, statement: int = 1, take: int = 1
) -> str:
    """A file's name without its ending."""
    emotion_number = EIGHT.index(emotion) + 1
    return f"{modality:02}-01-{emotion_number:02}-{intensity:02}-{statement:02}-{take:02}-{actor:02}"


def write_audio(path: Path, emotion: str, actor: int, *, seconds: float = 0.6) -> None:
    """A recording, as FLAC or WAV: each emotion has a pitch, and each actor a little more."""
    wave = synthetic_audio.sine(200 * (1 + EIGHT.index(emotion)) + 5 * actor, seconds, rate=SAMPLE_RATE)
    kind = {".flac": ("flac", "flac"), ".wav": ("wav", "pcm_s16le")}[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(synthetic_audio.encode_audio(wave, rate=SAMPLE_RATE, container=kind[0], codec=kind[1]))


def write_clip(path: Path, emotion: str, actor: int, *, seconds: float = 1.2, face: bool = False) -> None:
    """An MP4 with sound; each emotion has a brightness, or NASA's portrait is in it."""
    fps, count = 10, round(10 * seconds)
    if face:
        frames = synthetic_frames.face_frames(count)
    else:
        grey = 20 + 25 * EIGHT.index(emotion)
        ground = np.full((48, 64, 3), grey, np.uint8)
        frames = [cv2.circle(ground.copy(), (20 + i, 24), 9, (250, 250, 250), -1) for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        synthetic_audio.encode_clip(
            frames, synthetic_audio.sine(300 + 5 * actor, seconds, rate=SAMPLE_RATE), rate=SAMPLE_RATE, fps=fps
        )
    )


def write_recordings(folder: Path, actors: range, emotions: tuple[str, ...] = EIGHT) -> None:
    """Recordings alone, both statements of each emotion by each actor; two of them are the same recording under two
    names, as two of actor 07 are in the published set."""
    for actor in actors:
        own = folder / f"Actor_{actor:02}"
        for emotion in emotions:
            for statement in (1, 2):
                path = own / f"{file_stem(emotion, actor, statement=statement)}.flac"
                write_audio(path, emotion, actor, seconds=0.5 + 0.1 * statement)
        if actor == 7:
            first, second = (own / f"{file_stem('happy', 7, statement=2, take=take)}.flac" for take in (1, 2))
            second.write_bytes(first.read_bytes())
