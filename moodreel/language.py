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
SURE, SURE_OF_FEW = 0.5, 0.8
"""How much likelier than English another language must be, and how much for a text of few words: "omg Pedro!!" would be
Spanish, and a line of English that is called foreign annoys more than a foreign one that isn't noticed."""
FEW = 3
"""Words up to which there are few."""

_NO_WORD = re.compile(r"https?://\S+|[@#]\w+|[^\w'’]+|[\d_]+")


class LanguageFinder:
    """Tells languages apart by the letters of their words (fastText, Joulin et al. 2016); any number of threads may.

    Raises ModelInvalid where its file is not what its model.json says.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / FILE
        _check(path)
        self._model = fasttext.load_model(str(path))

    def find(self, text: str) -> str | None:
        """Give a text's ISO 639 code; None where there is nothing to tell it by, as in a line of emoji.

        A text is taken for English unless another language is clearly likelier.
        """
        words = _words(text)
        if not words:
            return None
        found = self._likeliest(" ".join(words))
        other, share = max(
            ((code, share) for code, share in found.items() if code != ENGLISH),
            key=lambda pair: pair[1],
            default=("", 0),
        )
        if not _is_latin("".join(words)):
            return other or None
        margin = share - found.get(ENGLISH, 0.0)
        return other if margin > (SURE if len(words) > FEW else SURE_OF_FEW) else ENGLISH

    def _likeliest(self, line: str) -> dict[str, float]:
        labels, shares = self._model.predict(line, 5)
        return {label.removeprefix("__label__"): share for label, share in zip(labels, shares, strict=True)}


def _words(text: str) -> list[str]:
    """The words of a text's first page, in lower case: what is shouted is in the same language."""
    plain = emoji.replace_emoji(text[:LONGEST].encode("utf-8", "replace").decode("utf-8"), " ")
    return _NO_WORD.sub(" ", plain).lower().split()


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
