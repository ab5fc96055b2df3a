"""Split texts into tokens: normalized letters, emoji as words, long texts as overlapping windows."""

from dataclasses import dataclass

from tokenizers import Tokenizer

from moodreel.models.text_normalization import normalize_text

WINDOW_TOKENS = 96
"""Tokens of a window, special ones included: what networks are trained with, some 70 words."""
OVERLAP_TOKENS = 24
"""Tokens that a window shares with the one before, so that each phrase is whole in one of them."""


@dataclass(frozen=True)
class TokenWindow:
    """The tokens of a part of a text.

    Attributes:
        ids: Token ids, special tokens included.
        text_tokens: Number of tokens without the special ones.
    """

    ids: tuple[int, ...]
    text_tokens: int


class WindowedTokenizer:
    """Splits texts into windows of tokens. Safe to use from any number of threads."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int = WINDOW_TOKENS) -> None:
        """Configure a tokenizer for windows.

        Args:
            tokenizer: As its library reads it. It is changed; the caller must not use it any more.
            max_tokens: Tokens that the network reads at once.
        """
        self._tokenizer = tokenizer
        max_tokens = min(max_tokens, WINDOW_TOKENS)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_tokens, stride=min(OVERLAP_TOKENS, max_tokens // 4))

    @property
    def vocabulary_size(self) -> int:
        """Number of different tokens."""
        return int(self._tokenizer.get_vocab_size())

    def tokenize(self, text: str) -> list[TokenWindow]:
        """Return the windows of a whole text, in order; an empty list for a text without readable characters."""
        first = self._tokenizer.encode(normalize_text(text))
        windows = [
            TokenWindow(tuple(each.ids), each.special_tokens_mask.count(0)) for each in (first, *first.overflowing)
        ]
        return [window for window in windows if window.text_tokens]
