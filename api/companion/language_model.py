"""Stream an answer of a language model from an OpenAI-compatible server, such as vLLM, llama.cpp or transformers serve.

Source: https://platform.openai.com/docs/api-reference/chat-streaming
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing

import httpx2

from api.errors import ApiError

MAX_TOKENS = 120
CONNECT_SECONDS, FIRST_SECONDS, TOTAL_SECONDS = 5.0, 30.0, 60.0
"""Timeouts of the connection, of the first piece of text, and of the whole answer."""
_TEMPERATURE = 0.7
_MAX_EVENT_BYTES = 64 * 1024
_POLL_SECONDS = 0.25
"""How often to check whether the answer is still wanted."""
_MAX_QUEUED = 16

logger = logging.getLogger(__name__)

Messages = Sequence[Mapping[str, str]]
"""The conversation: `role` and `content` of each message."""


class LanguageModel:
    """A language model on a server.

    Args:
        base_url: The address under which the server has `/chat/completions`.
        model: Its name on the server.
        api_key: Sent as a bearer token; None sends none.
    """

    def __init__(self, base_url: str, model: str, api_key: str | None = None) -> None:
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._model = model
        self._headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._ssl = httpx2.create_ssl_context()  # takes some milliseconds, so it is made once

    def stream(
        self, messages: Messages, is_unwanted: Callable[[], bool], headers: Mapping[str, str] | None = None
    ) -> Generator[str]:
        """Yield the answer in pieces as they come. Closing the generator closes the call to the server.

        The call runs in an event loop of its own, because a blocking one could not be ended while the server thinks.

        Args:
            messages: The conversation.
            is_unwanted: Called several times a second; True ends the answer.
            headers: Sent with the call, such as `traceparent`.

        Raises:
            ApiError: The server is down, slow, or sends no answer, or the answer is unwanted.
        """
        # Leaving the runner cancels the call.
        with asyncio.Runner() as runner:
            queue: asyncio.Queue[str | ApiError | None] = asyncio.Queue(_MAX_QUEUED)
            call = runner.get_loop().create_task(self._fill(queue, messages, headers or {}))
            while not is_unwanted():
                try:
                    item = runner.run(asyncio.wait_for(queue.get(), _POLL_SECONDS))
                except TimeoutError:
                    continue
                if isinstance(item, ApiError):
                    raise item
                if item is None:
                    return
                yield item
            call.cancel()
            raise ApiError("client_closed_request")

    async def _fill(
        self, queue: asyncio.Queue[str | ApiError | None], messages: Messages, headers: Mapping[str, str]
    ) -> None:
        """Put the pieces of the answer into a queue, and then None, or the error that ended it."""
        try:
            async with asyncio.timeout(TOTAL_SECONDS), aclosing(self._pieces(messages, headers)) as pieces:
                async with asyncio.timeout(FIRST_SECONDS):
                    await queue.put(await anext(pieces))
                async for piece in pieces:
                    await queue.put(piece)
            await queue.put(None)
        except Exception as error:
            code = _code(error)
            # The message of an error may hold what the caller wrote.
            status = error.response.status_code if isinstance(error, httpx2.HTTPStatusError) else ""
            logger.warning("the companion's model failed: %s %s %s", code, type(error).__name__, status)
            await queue.put(ApiError(code))

    async def _pieces(self, messages: Messages, headers: Mapping[str, str]) -> AsyncGenerator[str]:
        body = {
            "model": self._model,
            "messages": messages,
            "max_tokens": MAX_TOKENS,
            "temperature": _TEMPERATURE,
            "stream": True,
        }
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        async with (
            httpx2.AsyncClient(verify=self._ssl, timeout=timeout, headers={**self._headers, **headers}) as client,
            client.sse(self._url, method="POST", json=body, max_event_size=_MAX_EVENT_BYTES) as source,
        ):
            source.response.raise_for_status()
            async for event in source:
                if event.data == "[DONE]":
                    return
                for choice in json.loads(event.data)["choices"]:  # none in the event with the usage
                    if text := choice["delta"].get("content"):
                        yield str(text)
                    if choice.get("finish_reason"):
                        return
        raise httpx2.RemoteProtocolError("The answer broke off.")


def _code(error: Exception) -> str:
    """Return the code for an error of a call."""
    if isinstance(error, httpx2.ConnectTimeout | httpx2.NetworkError | httpx2.HTTPStatusError):
        return "companion_unavailable"
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return "companion_timeout"
    return "companion_bad_answer"
