"""Which language a text is in, so that nobody relies on what a model for English says of another."""

import hashlib
import json
import re
import unicodedata
from pathlib import Path

import emoji
import fasttext

from moodreel.errors import ModelInvalid

ENGLISH = "en"
FILE = "lid.176.ftz"

LONGEST = 2000
"""Characters that are looked at: the language of a diary shows in its first page."""
SURE, SURE_OF_FEW, FEW = 0.4, 0.6, 3
"""How much likelier than English another language must be, and how much for a text of up to so many words. Of 43,331
English comments that they were not chosen by 0.15 % are called foreign, 0.4 % of those of so few words
(`python -m bench.text --data PATH`)."""
_PLAIN = frozenset(
    ("i", "i'm", "i've", "the", "you", "you're", "my", "what", "it", "it's", "this", "that", "is", "are", "wanna")
)
"""A text of few words is English with one of these: fastText takes "I wanna die" for German."""

_NO_WORD = re.compile(r"https?://\S+|[@#]\w+|[^\w']+|[\d_]+")


class LanguageIdentifier:
    """Tells languages apart by the letters of their words (fastText, Joulin et al. 2016); any number of threads may.

    Raises ModelInvalid where its file is not what its model.json says.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE
        _check(path)
        self._model = fasttext.load_model(str(path))

    def find(self, text: str) -> str | None:
        """Give a text's ISO 639 code; None where there is nothing to tell it by, as in a line of emoji.

        A text is taken for English unless another language is clearly likelier, however the text is written: as it is,
        in lower case, since what is shouted is in the same language, and by its words alone.
        """
        line = _line(text)
        words = _NO_WORD.sub(" ", line).lower().split()
        if not words:
            return None
        margin, other = min(self._compare(way) for way in (line, line.lower(), " ".join(words)))
        if not _is_latin("".join(words)):
            return other or None
        if len(words) <= FEW and not _PLAIN.isdisjoint(words):
            return ENGLISH
        return other if other and margin > (SURE if len(words) > FEW else SURE_OF_FEW) else ENGLISH

    def _compare(self, line: str) -> tuple[float, str]:
        """How much likelier than English the likeliest other language is, -1..1, and which one."""
        labels, shares = self._model.predict(line, 5)
        found = {label.removeprefix("__label__"): share for label, share in zip(labels, shares, strict=True)}
        english = found.pop(ENGLISH, 0.0)
        other = max(found, key=found.__getitem__, default="")
        return found.get(other, 0.0) - english, other


def _line(text: str) -> str:
    """A text's first page in one line, without emoji."""
    page = text[:LONGEST].encode("utf-8", "replace").decode("utf-8").replace("\u2019", "'")
    return " ".join(emoji.replace_emoji(page, " ").split())


def _is_latin(letters: str) -> bool:
    """Tell whether half of the letters or more are those that English is written in, with accents or without."""
    latin = [unicodedata.name(letter, "").startswith("LATIN") for letter in letters if letter.isalpha()]
    return 2 * sum(latin) >= len(latin)


def _check(path: Path) -> None:
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
