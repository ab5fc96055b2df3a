"""Decode clips in other processes, so that a codec that crashes, never returns or fills the memory fails one call only.

`start_template` switches this on for a process. Without it, the functions decode in the calling process.
"""

import logging
import os
import signal
import socket
import threading
import time as clock
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from multiprocessing.connection import Connection
from typing import Any

import av
import numpy as np

from moodreel.errors import Overloaded
from moodreel.media import audio
from moodreel.media.audio import AudioClip
from moodreel.media.decoder_process import (
    Failure,
    Frames,
    Pixels,
    Reply,
    Request,
    Samples,
    fork_template,
    read_mailbox,
    write_mailbox,
)
from moodreel.media.video import ClipGeometry, Frame, LoopFrame, VideoReader
from moodreel.media.video_decoder import MediaSpan, VideoLimits, video_errors

GRACE_SECONDS = 2.0
"""Time after the deadline in which a decoder process may end by itself."""

_log = logging.getLogger(__name__)


class _Template:
    """Start and end decoder processes, and lend those that are idle. Thread-safe."""

    def __init__(self) -> None:
        self._socket = fork_template()
        self._lock = threading.Lock()
        self._idle: list[_DecoderProcess] = []

    def start(self, connection: int, mailbox: int) -> int:
        """Start a process; return its id."""
        return self._command(b"start", connection, mailbox)

    def end(self, pid: int) -> int:
        """End a process at once; return its exit code, negative for a signal."""
        return self._command(b"end %d" % pid)

    @contextmanager
    def lend(self) -> Iterator["_DecoderProcess"]:
        """Lend a process during a `with` block: one that is idle, or a new one."""
        process = self._take_idle() or _DecoderProcess(self)
        try:
            yield process
        finally:
            with suppress(MemoryError, TimeoutError, ChildProcessError):
                process.close_video()
            if process.is_usable:
                self._idle.append(process)
            else:
                process.end()

    def _take_idle(self) -> "_DecoderProcess | None":
        while True:
            try:
                process = self._idle.pop()
            except IndexError:
                return None
            if process.is_usable:
                return process
            process.end()

    def _command(self, command: bytes, *descriptors: int) -> int:
        try:
            with self._lock:
                socket.send_fds(self._socket, [command], descriptors)
                if reply := self._socket.recv(64):
                    return int(reply)
        except OSError:
            _log.exception("the template of the decoder processes does not answer")
        # Somebody has killed the template. Only a new worker can fork another.
        os.kill(os.getpid(), signal.SIGTERM)
        raise Overloaded("Clips cannot be read right now. Try again in a few seconds.")


class _DecoderProcess:
    """A decoder process, for one call at a time."""

    def __init__(self, template: _Template) -> None:
        """Start the process."""
        ours, theirs = socket.socketpair()
        self._template = template
        self._mailbox = os.memfd_create("moodreel-decoder")
        with theirs:
            self._pid = template.start(theirs.fileno(), self._mailbox)
        self._connection = Connection(ours.detach())
        self._awaits_reply = False

    @property
    def is_usable(self) -> bool:
        """Whether the process runs and waits for a request. Its connection has nothing to read then."""
        return not self._awaits_reply and not self._connection.closed and not self._connection.poll(0)

    def put(self, data: bytes) -> None:
        """Put a file into the mailbox, for the next request."""
        write_mailbox(self._mailbox, memoryview(data))

    def take(self, array: np.ndarray, offset: int = 0) -> np.ndarray:
        """Fill an array with what the last reply describes."""
        return read_mailbox(self._mailbox, array, offset)

    def request(self, operation: str, deadline: float, **arguments: object) -> Reply:
        """Send a request and wait for the reply.

        Args:
            operation: A method of `decoder_process.Decoder`.
            deadline: Time on the monotonic clock; the process has `GRACE_SECONDS` more to end by itself.
            **arguments: Of the method.

        Raises:
            MoodreelError: The decoder process raised it.
            TimeoutError: The process did not reply in time and was ended.
            MemoryError: The system has ended the process, as it does when memory is low.
            ChildProcessError: The process crashed.
        """
        try:
            self._awaits_reply = True
            request: Request = operation, arguments
            self._connection.send(request)
            if not self._connection.poll(max(0.0, deadline - clock.monotonic()) + GRACE_SECONDS):
                self.end()
                _log.warning("a decoder process was ended: it did not finish %s in time", operation)
                raise TimeoutError
            reply: Reply = self._connection.recv()
            self._awaits_reply = False
        except (EOFError, ConnectionError) as error:
            code = self.end()
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            _log.warning("a decoder process ended in %s: %s", operation, reason)
            raise (MemoryError if code == -signal.SIGKILL else ChildProcessError)(reason) from error
        _raise_failure(reply)
        return reply

    def close_video(self) -> None:
        """Make the process free its clip."""
        if self.is_usable:
            self.request("close_video", clock.monotonic())

    def end(self) -> int:
        """End the process; return its exit code, negative for a signal, or 0 if `end` was called before."""
        if self._connection.closed:
            return 0
        self._connection.close()
        os.close(self._mailbox)
        return self._template.end(self._pid)


class IsolatedVideoReader(VideoReader):
    """Read a clip as `VideoReader` does, in a decoder process, by one iterator at a time."""

    def __init__(self, process: _DecoderProcess, data: bytes, limits: VideoLimits, **options: Any) -> None:
        super().__init__(data, limits, **options)
        self._process = process
        with video_errors():
            process.put(data)
            self._request("open_video", size=len(data), limits=limits, **options)

    def probe_span(self) -> MediaSpan:
        """See `VideoReader.probe_span`."""
        with video_errors():
            span = self._request("probe_span")
            assert isinstance(span, MediaSpan)
            return span

    def frames(
        self, *, min_interval: float = 0.0, min_frames: int = 0, max_side: int = 640
    ) -> Generator[Frame, None, None]:
        """See `VideoReader.frames`."""
        return self._rgb_frames("frames", min_interval=min_interval, min_frames=min_frames, max_side=max_side)

    def frames_at(self, times: Sequence[float], *, max_side: int = 640) -> Generator[Frame, None, None]:
        """See `VideoReader.frames_at`."""
        return self._rgb_frames("frames_at", times=list(times), max_side=max_side)

    def loop_frames(
        self, *, start: float, stop: float, min_interval: float, max_side: int, size: tuple[int, int] | None = None
    ) -> Generator[LoopFrame, None, None]:
        """See `VideoReader.loop_frames`."""
        for pixels, array in self._read(
            "loop_frames", start=start, stop=stop, min_interval=min_interval, max_side=max_side, size=size
        ):
            yuv = av.VideoFrame.from_ndarray(array, format="yuv420p")
            yuv.colorspace, yuv.color_range = pixels.colors
            yield LoopFrame(pixels.time, yuv)

    def _rgb_frames(self, method: str, **options: object) -> Generator[Frame, None, None]:
        for pixels, array in self._read(method, **options):
            assert pixels.size is not None
            yield Frame(pixels.time, array, pixels.size)

    def _read(self, method: str, **options: object) -> Iterator[tuple[Pixels, np.ndarray]]:
        with video_errors():
            reply = self._request("read", method=method, options=options)
            while isinstance(reply, Frames):
                for pixels in reply.pixels:
                    yield pixels, self._process.take(np.empty(pixels.shape, np.uint8), pixels.offset)
                if isinstance(reply.end, ClipGeometry):
                    self.duration, self.width, self.height = astuple(reply.end)
                    return
                _raise_failure(reply.end)
                reply = self._request("next_frames")

    def _request(self, operation: str, **arguments: object) -> Reply:
        try:
            return self._process.request(operation, self._decoder.file.deadline, **arguments)
        except TimeoutError:
            self._decoder.file.check_deadline()
            raise


def _raise_failure(reply: Reply) -> None:
    if isinstance(reply, Failure):
        raise reply.error from RuntimeError(reply.cause)


_template: _Template | None = None
"""One for each process, like the fork server of `multiprocessing`."""


def start_template() -> None:
    """Make this process decode in decoder processes. Call it before any thread is started."""
    global _template
    _template = _Template()


@contextmanager
def open_video(data: bytes, limits: VideoLimits, **options: Any) -> Iterator[VideoReader]:
    """Open a clip during a `with` block; arguments and errors as for `VideoReader`."""
    if _template is None:
        yield VideoReader(data, limits, **options)
        return
    with _template.lend() as process:
        yield IsolatedVideoReader(process, data, limits, **options)


def decode_audio(data: bytes, limits: VideoLimits) -> AudioClip | None:
    """Decode the audio of a file; see `audio.decode_audio`."""
    if _template is None:
        return audio.decode_audio(data, limits)
    file = audio.open_file(data, limits)
    with _template.lend() as process, audio.audio_errors():
        process.put(data)
        try:
            reply = process.request("decode_audio", file.deadline, size=len(data), limits=limits)
        except TimeoutError:
            file.check_deadline()
            raise
        if reply is None:
            return None
        assert isinstance(reply, Samples)
        return AudioClip(process.take(np.empty(reply.count, np.float32)), reply.start)
