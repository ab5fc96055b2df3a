"""Identify the language of a text: a model for English is unreliable for other languages."""

import hashlib
import json
import re
import unicodedata
from pathlib import Path

import fasttext

from moodreel.errors import ModelInvalid
from moodreel.models.text_normalization import normalize_words

ENGLISH = "en"
FILE = "lid.176.ftz"

MAX_CHARACTERS = 2000
"""Characters that are read: the language of a diary shows on its first page."""
FEW_WORDS = 3
"""Number of words up to which a text is short."""
MIN_MARGIN, MIN_MARGIN_SHORT = 0.4, 0.6
"""How much more probable than English another language must be, in any text and in a short one. On 43,331 English
comments that were not used to choose these, the false-alarm rate is 0.16 %, and 0.4 % on the short ones
(`python -m bench.text --data PATH`)."""
_ENGLISH_WORDS = frozenset(
    ("i", "i'm", "i've", "the", "you", "you're", "my", "what", "it", "it's", "this", "that", "is", "are", "wanna")
)
"""A short text with one of these is English: fastText classifies "I wanna die" as German."""

_NOT_A_WORD = re.compile(r"https?://\S+|[@#]\w+|[^\w']+|[\d_]+")


class LanguageIdentifier:
    """Identify languages by the character n-grams of their words (fastText, Joulin et al. 2016). Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Load the model of a folder.

        Raises:
            ModelInvalid: The file is missing, or not the one that its model.json describes.
        """
        path = folder / FILE
        _verify(path)
        self._model = fasttext.load_model(str(path))

    def identify(self, text: str) -> str | None:
        """Return the ISO 639 code of a text's language; None without words, as in a line of emoji.

        The language is English unless another one is clearly more probable in every spelling: as written, in lower
        case (since shouting does not change the language), and by its words alone.
        """
        line = _first_page(text)
        words = _NOT_A_WORD.sub(" ", line).lower().split()
        if not words:
            return None
        margin, other = min(self._compare(spelling) for spelling in (line, line.lower(), " ".join(words)))
        if not _is_latin("".join(words)):
            return other or None
        is_short = len(words) <= FEW_WORDS
        if is_short and not _ENGLISH_WORDS.isdisjoint(words):
            return ENGLISH
        return other if other and margin > (MIN_MARGIN_SHORT if is_short else MIN_MARGIN) else ENGLISH

    def _compare(self, line: str) -> tuple[float, str]:
        """Return how much more probable than English the best other language is, -1 to 1, and its code."""
        labels, values = self._model.predict(line, 5)
        probabilities = {label.removeprefix("__label__"): value for label, value in zip(labels, values, strict=True)}
        english = probabilities.pop(ENGLISH, 0.0)
        other = max(probabilities, key=probabilities.__getitem__, default="")
        return probabilities.get(other, 0.0) - english, other


def _first_page(text: str) -> str:
    """Return the first page of a text in one line and in plain letters, without emoji and emoticons."""
    return " ".join(normalize_words(text[:MAX_CHARACTERS]).replace("\u2019", "'").split())


def _is_latin(letters: str) -> bool:
    """Return whether at least half of the letters are Latin, with or without accents."""
    latin = [unicodedata.name(letter, "").startswith("LATIN") for letter in letters if letter.isalpha()]
    return 2 * sum(latin) >= len(latin)


def _verify(path: Path) -> None:
    try:
        expected = json.loads((path.parent / "model.json").read_text(encoding="utf-8"))["sha256"]
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelInvalid(
            f"The folder {path.parent.name!r} needs {FILE} and a model.json with its sha256; restore both."
        ) from error
    if found != expected:
        raise ModelInvalid(
            f"{FILE} has SHA-256 {found[:12]}…, but its model.json says {expected[:12]}…; restore the file."
        )
