"""Ask a person one question about what they wrote, or give them the fixed answer to words of crisis."""

import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from api.companion.crisis import CrisisWords
from api.errors import ApiError
from api.settings import Settings, SettingsError

if TYPE_CHECKING:
    from api.companion.language_model import LanguageModel

MAX_ANSWER_CHARACTERS = 600
_QUESTION_MARKS = "?？؟"
_PROMPT_FILE = Path(__file__).with_name("prompt.txt")


class Companion:
    """A companion for the journal. Thread-safe; keeps no text.

    Args:
        model: Makes the questions.
        max_streams: Questions that may be made at the same time.

    Attributes:
        crisis_words: The phrases that are answered without the model.
    """

    def __init__(self, model: "LanguageModel", max_streams: int) -> None:
        self.crisis_words = CrisisWords()
        self._model = model
        self._prompt = _PROMPT_FILE.read_text(encoding="utf-8")
        self._streams = threading.BoundedSemaphore(max_streams)

    @classmethod
    def from_settings(cls, settings: Settings) -> "Companion | None":
        """Return the companion; None if no model is set. Raises SettingsError if httpx2 is not installed."""
        if not settings.llm_base_url or not settings.llm_model:
            return None
        # Imported here because the httpx2 package is optional and slow to import.
        try:
            from api.companion.language_model import LanguageModel
        except ImportError as error:
            raise SettingsError("LLM_BASE_URL needs httpx2: pip install -r requirements-extras.txt.") from error
        return cls(
            LanguageModel(settings.llm_base_url, settings.llm_model, settings.llm_api_key), settings.llm_max_streams
        )

    def ask(
        self,
        emotion: str,
        confidence: float,
        text: str,
        is_unwanted: Callable[[], bool],
        headers: Mapping[str, str],
    ) -> Generator[str]:
        """Yield a question in pieces. Closing the generator ends the call of the model.

        Args:
            emotion: What the face showed.
            confidence: Of the emotion, 0 to 1.
            text: What the person wrote.
            is_unwanted: Whether nobody waits for the question any longer.
            headers: Sent with the call of the model, such as `traceparent`.

        Raises:
            ApiError: Too many questions are being made, the model fails, or the question is unwanted.
        """
        if not self._streams.acquire(blocking=False):
            raise ApiError("overloaded", "The companion is asked too many questions now. Try again in a few seconds.")
        try:
            # JSON allows half a surrogate pair; UTF-8 does not.
            text = text.encode(errors="replace").decode()
            entry = f"Expression: {emotion} ({confidence:.0%} sure)\n\nWritten in the journal:\n{text}"
            messages = [{"role": "system", "content": self._prompt}, {"role": "user", "content": entry}]
            with closing(self._model.stream(messages, is_unwanted, headers)) as pieces:
                yield from first_question(pieces)
        finally:
            self._streams.release()


def first_question(pieces: Iterable[str]) -> Generator[str]:
    """Yield pieces of a text up to its first question mark, or its first `MAX_ANSWER_CHARACTERS`."""
    left = MAX_ANSWER_CHARACTERS
    for piece in pieces:
        end = min((at + 1 for mark in _QUESTION_MARKS if (at := piece.find(mark)) >= 0), default=left)
        yield piece[: min(end, left)]
        left -= len(piece)
        if end <= len(piece) or left <= 0:
            return
