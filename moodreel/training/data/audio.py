"""The sound of recordings, and of clips, one after the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from moodreel.errors import DataInvalid, MoodreelError
from moodreel.media import audio
from moodreel.media.audio import AudioClip
from moodreel.training.data.examples import Example


def load_audio(examples: Sequence[Example]) -> Iterator[AudioClip]:
    """Read the sound of each example. Raises DataInvalid that names a file which cannot be read, or is silent."""
    for example in tqdm(examples, desc="sound", mininterval=5):
        assert isinstance(example.media, Path)
        try:
            sound = audio.decode_audio(example.media.read_bytes())
        except (MoodreelError, OSError) as error:
            raise DataInvalid(f"{example.media.name} cannot be read; mend it or take it out. {error}") from error
        if sound is None:
            raise DataInvalid(f"{example.media.name} is silent from end to end; take it out.")
        yield sound
