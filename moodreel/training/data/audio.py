"""The audio of recordings and clips."""

from collections.abc import Iterator, Sequence

from tqdm import tqdm

from moodreel.errors import DataInvalid, MoodreelError
from moodreel.media import audio
from moodreel.media.audio import AudioClip
from moodreel.training.data.examples import Example


def load_audio(examples: Sequence[Example]) -> Iterator[AudioClip]:
    """Decode the audio of each example.

    Raises:
        DataInvalid: a file cannot be read or is silent; the message names it.
    """
    for example in tqdm(examples, desc="audio", mininterval=5):
        file = example.file
        try:
            clip = audio.decode_audio(file.read_bytes())
        except (MoodreelError, OSError) as error:
            raise DataInvalid(f"{file.name} cannot be read; repair it or remove it. {error}") from error
        if clip is None:
            raise DataInvalid(f"{file.name} is silent from end to end; remove it.")
        yield clip
