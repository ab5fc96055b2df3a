"""Write a small synthetic RAVDESS: the names of the real data set, and synthetic audio and video."""

from pathlib import Path

import cv2
import numpy as np

from moodreel.emotions import EIGHT
from tests.support import synthetic_audio, synthetic_frames

SAMPLE_RATE = 48_000


def file_stem(
    emotion: str, actor: int, *, modality: int = 3, intensity: int = 1, statement: int = 1, take: int = 1
) -> str:
    """Return the file name of a recording without its extension."""
    emotion_number = EIGHT.index(emotion) + 1
    return f"{modality:02}-01-{emotion_number:02}-{intensity:02}-{statement:02}-{take:02}-{actor:02}"


def write_audio(path: Path, emotion: str, actor: int, *, seconds: float = 0.6) -> None:
    """Write a sine wave as FLAC or WAV; the pitch depends on the emotion and slightly on the actor."""
    wave = synthetic_audio.sine(200 * (1 + EIGHT.index(emotion)) + 5 * actor, seconds, rate=SAMPLE_RATE)
    output = {".flac": ("flac", "flac"), ".wav": ("wav", "pcm_s16le")}[path.suffix]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(synthetic_audio.encode_audio(wave, rate=SAMPLE_RATE, container=output[0], codec=output[1]))


def write_clip(path: Path, emotion: str, actor: int, *, seconds: float = 1.2, face: bool = False) -> None:
    """Write an MP4 with audio; the brightness depends on the emotion, or the video shows a face."""
    fps, count = 10, round(10 * seconds)
    if face:
        frames = synthetic_frames.face_frames(count)
    else:
        gray = 20 + 25 * EIGHT.index(emotion)
        background = np.full((48, 64, 3), gray, np.uint8)
        frames = [cv2.circle(background.copy(), (20 + i, 24), 9, (250, 250, 250), -1) for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        synthetic_audio.encode_clip(
            frames, synthetic_audio.sine(300 + 5 * actor, seconds, rate=SAMPLE_RATE), rate=SAMPLE_RATE, fps=fps
        )
    )


def write_recordings(folder: Path, actors: range, emotions: tuple[str, ...] = EIGHT) -> None:
    """Write audio recordings of both statements of each emotion by each actor.

    Two files of actor 07 have the same content, as in the published set.
    """
    for actor in actors:
        actor_folder = folder / f"Actor_{actor:02}"
        for emotion in emotions:
            for statement in (1, 2):
                path = actor_folder / f"{file_stem(emotion, actor, statement=statement)}.flac"
                write_audio(path, emotion, actor, seconds=0.5 + 0.1 * statement)
        if actor == 7:
            first, second = (actor_folder / f"{file_stem('happy', 7, statement=2, take=take)}.flac" for take in (1, 2))
            second.write_bytes(first.read_bytes())
