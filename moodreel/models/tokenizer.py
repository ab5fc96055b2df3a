"""Texts to the word pieces that networks read: emoji in words, long texts in windows that overlap."""

from dataclasses import dataclass

import emoji
from tokenizers import Tokenizer

WINDOW_TOKENS = 96
"""Word pieces of a window, special ones included: what networks are trained with, some 70 words."""
OVERLAP_TOKENS = 24
"""Word pieces that a window shares with the one before, so that what is said across its edge is read whole once."""

_SKIN_TONES = dict.fromkeys(range(0x1F3FB, 0x1F400))


@dataclass(frozen=True)
class TokenWindow:
    """A part of a text: its word pieces, special ones included, and how many of them are the text's own."""

    ids: tuple[int, ...]
    text_tokens: int


class WindowedTokenizer:
    """Cuts texts into windows of word pieces; any number of threads may.

    tokenizer: as its library read it; it is the caller's no longer.
    longest: word pieces that a network reads at once.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int = WINDOW_TOKENS) -> None:
        self._tokenizer = tokenizer
        max_tokens = min(max_tokens, WINDOW_TOKENS)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens, stride=min(OVERLAP_TOKENS, max_tokens // 4))

    @property
    def vocabulary_size(self) -> int:
        """How many word pieces there are."""
        return self._tokenizer.get_vocab_size()

    def tokenize(self, text: str) -> list[TokenWindow]:
        """Cut a text into windows, the whole of it and in its order; none where nothing in it can be read."""
        first = self._tokenizer.encode(normalize_text(text))
        cut = [TokenWindow(tuple(each.ids), each.special_tokens_mask.count(0)) for each in (first, *first.overflowing)]
        return [window for window in cut if window.text_tokens]


def normalize_text(text: str) -> str:
    """Write a text as networks read it.

    Emoji become their names. Half a surrogate pair, which JSON can carry and UTF-8 can't, becomes U+FFFD, and a skin
    tone goes: "dark" or "light" would be a word about the mood.
    """
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return emoji.demojize(whole.translate(_SKIN_TONES), delimiters=(" ", " ")).replace("_", " ")
