"""RAVDESS (Livingstone & Russo 2018, doi:10.1371/journal.pone.0196391): acted speech and song of 24 actors.

A file's name, `modality-channel-emotion-intensity-statement-repetition-actor`, encodes its labels. The set is
CC BY-NC-SA 4.0: weights trained on it are for non-commercial research.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moodreel.emotions import EIGHT
from moodreel.errors import DataInvalid
from moodreel.training.data.examples import Example, describe_counts

logger = logging.getLogger(__name__)

MODALITIES = ("audio-video", "video", "audio")
CHANNELS = ("speech", "song")
ACTORS = 24
EXTENSIONS = {
    "audio-video": (".mp4", ".mov", ".mkv", ".webm"),
    "video": (".mp4", ".mov", ".mkv", ".webm"),
    "audio": (".wav", ".flac"),
}
_FIELDS = ("modality", "channel", "emotion", "intensity", "statement", "repetition", "actor")
_MAXIMA = (len(MODALITIES), len(CHANNELS), len(EIGHT), 2, 2, 2, ACTORS)
"""Largest number of each field; the smallest is 1."""


@dataclass(frozen=True)
class RavdessName:
    """The fields of a file's name that are used: all but intensity, statement and repetition."""

    modality: str
    channel: str
    emotion: str
    actor: int

    @property
    def sex(self) -> str:
        """Sex of the actor, by their number."""
        return "male" if self.actor % 2 else "female"


def parse_name(name: str) -> RavdessName:
    """Parse a file's name, such as 03-01-06-01-02-01-12.wav.

    Raises:
        ValueError: It is not a name of RAVDESS; the message says why.
    """
    stem, dot, extension = name.rpartition(".")
    parts = stem.split("-")
    if len(parts) != len(_FIELDS) or not all(len(part) == 2 and part.isascii() and part.isdigit() for part in parts):
        raise ValueError("it is not seven numbers of two digits, separated by hyphens")
    numbers = dict(zip(_FIELDS, map(int, parts), strict=True))
    for (field, number), maximum in zip(numbers.items(), _MAXIMA, strict=True):
        if not 1 <= number <= maximum:
            raise ValueError(f"its {field} is {number:02}, not 01 to {maximum:02}")
    modality, emotion = MODALITIES[numbers["modality"] - 1], EIGHT[numbers["emotion"] - 1]
    if emotion == "neutral" and numbers["intensity"] != 1:
        raise ValueError("neutral is never of strong intensity")
    if (dot + extension).lower() not in EXTENSIONS[modality]:
        raise ValueError(f"its modality is {modality}, which ends in {' or '.join(EXTENSIONS[modality])}")
    return RavdessName(modality, CHANNELS[numbers["channel"] - 1], emotion, numbers["actor"])


def read_ravdess(folder: Path, modality: str) -> tuple[Example, ...]:
    """List the recordings of speech in a folder and its subfolders (`Actor_01` …, at any depth).

    A recording that is there twice, as in copies of the set that repeat all of it in a second folder, is listed once.
    The person of an example is the actor, its group the actor's sex, and its clip the take, the same in all modalities.
    The number of files that are left out is logged.

    Args:
        folder: Folder of the recordings.
        modality: One of `MODALITIES`.

    Raises:
        DataInvalid: There are no such recordings, or files with other names; the message lists them all.
    """
    examples, wrong, skipped, seen = [], [], Counter[str](), set[str]()
    for path in _media_files(folder, skipped):
        try:
            recording = parse_name(path.name)
            _check_folder(path, recording.actor)
        except ValueError as error:
            wrong.append(f"{path.relative_to(folder).as_posix()}: {error}")
            continue
        if recording.modality == modality and recording.channel == "speech":
            if path.stem in seen:
                skipped["second copies of a recording"] += 1
                continue
            seen.add(path.stem)
            take = path.stem.partition("-")[2]
            examples.append(
                Example(recording.emotion, path, f"actor {recording.actor:02}", clip=take, group=recording.sex)
            )
        else:
            skipped[f"{recording.channel}, {recording.modality}"] += 1
    if wrong:
        names = "\n  ".join(wrong)
        raise DataInvalid(f"{len(wrong)} files are not named as in RAVDESS; rename or move them:\n  {names}")
    if not examples:
        raise DataInvalid(
            f"{folder} holds no {modality} of speech. Name the folder that holds RAVDESS's Actor_01 to "
            f"Actor_{ACTORS}; ravdess: reads clips with sound, ravdess-audio: recordings alone. Left out: "
            f"{describe_counts(skipped)}."
        )
    if skipped:
        logger.info("RAVDESS, left out: %s.", describe_counts(skipped))
    return tuple(examples)


def _media_files(folder: Path, skipped: Counter[str]) -> Iterator[Path]:
    """Yield audio and video files in order; count the others by extension, except hidden files."""
    media = {extension for extensions in EXTENSIONS.values() for extension in extensions}
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        if path.suffix.lower() in media:
            yield path
        else:
            skipped[path.suffix or "no extension"] += 1


def _check_folder(path: Path, actor: int) -> None:
    name = path.parent.name
    if name.startswith("Actor_") and name != f"Actor_{actor:02}":
        raise ValueError(f"its actor is {actor:02}, but its folder's is {name.removeprefix('Actor_')}")
