"""Find words of crisis in a text, and the fixed answer to them."""

import re
import tomllib
import unicodedata
from pathlib import Path
from typing import TypedDict

_FILE = Path(__file__).with_name("crisis.toml")
_WORD = re.compile(r"\w+")
_SHORT_FORMS = (
    (re.compile(r"\b(ca|do|is|was|were)n\W?t\b"), r"\1 not"),
    (re.compile(r"\bwanna\b"), "want to"),
    (re.compile(r"\bgonna\b"), "going to"),
)
"""English short forms, with and without an apostrophe, and one long form of each."""


class _Language(TypedDict):
    """One table of crisis.toml."""

    phrases: list[str]
    answer: str
    spaces: bool


class CrisisWords:
    """The phrases of crisis.toml by language, each with its answer."""

    def __init__(self) -> None:
        languages: dict[str, _Language] = tomllib.loads(_FILE.read_text(encoding="utf-8"))
        self._patterns = [
            (re.compile("|".join(_pattern(phrase, language) for phrase in language["phrases"])), language["answer"])
            for language in languages.values()
        ]

    def answer(self, text: str) -> str | None:
        """Return the answer in the language of the longest phrase that is in the text; None if there is none."""
        words = f" {' '.join(_words(text))} "
        found = [(len(match[0]), answer) for pattern, answer in self._patterns for match in pattern.finditer(words)]
        # Of phrases of the same length, the first language's: its table comes first.
        return max(found, key=lambda each: each[0])[1].strip() if found else None


def _words(text: str) -> list[str]:
    """Split a text into its words, NFKC-normalized, case-folded and without English short forms."""
    # Case folding may undo the normalization (Unicode 17.0, section 3.13.5).
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    for short, long in _SHORT_FORMS:
        folded = short.sub(long, folded)
    return _WORD.findall(folded)


def _pattern(phrase: str, language: _Language) -> str:
    """Write a phrase as a pattern for words that are separated, preceded and followed by one space."""
    words = [re.escape(word) for word in _words(phrase)]
    if not language.get("spaces", True):
        return " ?".join(character for word in words for character in word)
    return f" {' '.join(words)}{'' if phrase.endswith('*') else ' '}"
