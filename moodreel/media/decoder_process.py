"""Decode clips in separate processes: the code that runs in such a process. `isolated` starts and calls them.

Codecs are C code. A hostile clip may make one crash, never return or fill the memory; in a separate process, that fails
one call only. Decoder processes are forked from a template, which is forked from a worker that has imported the
libraries and has no threads yet. So they share the libraries' memory, and one starts in some milliseconds. They end
with the worker, even if it is killed, and leave no file behind.
"""

import ctypes
import os
import resource
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from moodreel.errors import MoodreelError
from moodreel.media.audio import decode_audio
from moodreel.media.video import ClipGeometry, Frame, LoopFrame, VideoReader
from moodreel.media.video_decoder import MediaSpan, VideoLimits

MEMORY_BYTES = 2 * 2**30
"""Most memory of a decoder process, besides the libraries. Frames of 3840 × 2160 at 10 bits need 0.8 GiB: 16 reference
frames, and one for each of 16 threads."""
_FRAMES_AT_ONCE, _BYTES_AT_ONCE = 5, 4 * 2**20
"""Most frames of one reply, and bytes after which no more are added. A context switch, which leaves the processor's
cache cold, costs more than copying a frame."""
_M_TRIM_THRESHOLD, _TRIM_BYTES = -1, 64 * 2**20
_M_MMAP_THRESHOLD, _MMAP_BYTES = -3, 32 * 2**20
"""Freed memory that is kept for the next frame or clip, and size of blocks that are not kept (`mallopt(3)`): getting
new pages for every frame costs as much as copying it."""
_IDLE_SECONDS = 2.0
"""Time without a request after which freed memory goes back to the system."""
_OOM_SCORE = "500"
"""If the machine lacks memory, Linux ends a decoder process and not a worker (`proc_pid_oom_score_adj(5)`)."""
_PR_SET_PDEATHSIG = 1
_IGNORED_SIGNALS = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH")
"""Signals that a terminal, or systemd, sends to all processes. The worker still has to answer its open calls then."""


Request = tuple[str, dict[str, object]]
"""The name of a method of `Decoder`, and its arguments."""


@dataclass(frozen=True)
class Pixels:
    """Describe a frame whose pixels are in the mailbox.

    Attributes:
        time: Seconds since the first frame.
        size: As in `Frame`; None for a frame of a loop.
        shape: Of the uint8 array: (H, W, 3) RGB, or (H * 3 / 2, W) `yuv420p`.
        offset: Where it starts in the mailbox, in bytes.
        colors: `colorspace` and `color_range` of a frame of a loop.
    """

    time: float
    size: tuple[int, int] | None
    shape: tuple[int, ...]
    offset: int
    colors: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Frames:
    """Describe the next frames.

    Attributes:
        pixels: Of each.
        end: What followed them: the end of the clip, whose geometry is known then, or an error. None if more frames may
            follow.
    """

    pixels: tuple[Pixels, ...]
    end: "ClipGeometry | Failure | None"


@dataclass(frozen=True)
class Samples:
    """Describe audio of `count` float32 samples that are in the mailbox; see `AudioClip`."""

    count: int
    start: float


@dataclass(frozen=True)
class Failure:
    """Carry an error that was raised on purpose, and its cause, for the log."""

    error: MoodreelError
    cause: str


Reply = Frames | Samples | Failure | MediaSpan | None


def write_mailbox(mailbox: int, data: memoryview, offset: int = 0) -> None:
    """Write data into a mailbox: a file in memory (`memfd_create(2)`) that has no name."""
    if os.pwrite(mailbox, data, offset) != data.nbytes:
        raise MemoryError("the mailbox of a decoder process is full")


def read_mailbox(mailbox: int, array: np.ndarray, offset: int = 0) -> np.ndarray:
    """Fill an array from a mailbox, and return it."""
    if os.preadv(mailbox, [array.data], offset) != array.nbytes:
        raise EOFError("the mailbox of a decoder process is too short")
    return array


def fork_template() -> socket.socket:
    """Fork the template process. The calling process must have no other threads: a fork copies the locks they hold.

    Returns:
        A socket that takes one command in each message: `start`, with the connection and the mailbox of a new decoder
        process, is answered by its process id; `end PID` ends it at once and is answered by its exit code, negative
        for a signal.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    worker = os.getpid()
    if os.fork():
        theirs.close()
        return ours

    def run() -> None:
        _end_with_parent(worker)
        for name in _IGNORED_SIGNALS:
            signal.signal(signal.Signals[name], signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # Listening sockets and locked files of the worker. Nothing frees their Python objects: this never returns.
        os.closerange(3, theirs.fileno())
        os.closerange(theirs.fileno() + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        _run_template(theirs)

    _run_and_exit(run)


def _run_template(commands: socket.socket) -> None:
    template = os.getpid()
    while True:
        message, descriptors, _, _ = socket.recv_fds(commands, 64, 2)
        command, _, pid = message.decode().partition(" ")
        if command == "start":
            child = os.fork()
            if not child:
                commands.close()
                _run_and_exit(partial(_run_decoder, template, *descriptors))
            for descriptor in descriptors:
                os.close(descriptor)
            commands.send(str(child).encode())
        elif command == "end":
            os.kill(int(pid), signal.SIGKILL)  # a process that has ended keeps its id until the next line
            commands.send(str(os.waitstatus_to_exitcode(os.waitpid(int(pid), 0)[1])).encode())
        else:
            return  # the worker has closed the socket


def _run_decoder(template: int, connection: int, mailbox: int) -> None:
    _end_with_parent(template)
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    Decoder(Connection(connection), mailbox).run()


def _end_with_parent(parent: int) -> None:
    """Make the kernel end this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # the parent has ended already


def _run_and_exit(run: Callable[[], None]) -> NoReturn:
    """Run a forked process, and end it without the clean-up of the one it was forked from."""
    try:
        run()
    except BaseException:
        os.write(2, traceback.format_exc().encode())  # `sys.stderr` may be closed
    os._exit(1)


class Decoder:
    """Answer the requests of one worker: its public methods, except `run`. At most one clip is open."""

    def __init__(self, connection: Connection, mailbox: int) -> None:
        self._connection, self._mailbox = connection, mailbox
        self._reader: VideoReader | None = None
        self._frames: Iterator[Frame | LoopFrame] = iter(())

    def run(self) -> None:
        """Answer requests until the worker closes the connection."""
        while True:
            if not self._connection.poll(_IDLE_SECONDS):
                ctypes.CDLL(None).malloc_trim(0)
            try:
                operation, arguments = self._connection.recv()
            except EOFError:
                return
            self._connection.send(self._answer(operation, arguments))

    def _answer(self, operation: str, arguments: dict[str, object]) -> Reply:
        try:
            reply: Reply = getattr(self, operation)(**arguments)
            return reply
        except MoodreelError as error:
            return _failure(error)

    @property
    def _open_reader(self) -> VideoReader:
        assert self._reader is not None
        return self._reader

    def open_video(self, size: int, limits: VideoLimits, **options: Any) -> None:
        """Open the clip of `size` bytes in the mailbox; `options` are those of `VideoReader`."""
        self._reader = VideoReader(self._take(size), limits, **options)

    def probe_span(self) -> MediaSpan:
        """See `VideoReader.probe_span`."""
        return self._open_reader.probe_span()

    def read(self, method: str, options: dict[str, object]) -> Frames:
        """Start to read frames by a method of the reader, and return the first ones."""
        self._frames = getattr(self._open_reader, method)(**options)
        return self.next_frames()

    def next_frames(self) -> Frames:
        """Return the next frames; their pixels are in the mailbox."""
        pixels: list[Pixels] = []
        offset = 0
        try:
            while len(pixels) < _FRAMES_AT_ONCE and offset < _BYTES_AT_ONCE:
                frame = next(self._frames, None)
                if frame is None:
                    return Frames(tuple(pixels), self._open_reader.geometry)
                array = frame.rgb if isinstance(frame, Frame) else frame.yuv.to_ndarray()
                write_mailbox(self._mailbox, array.data, offset)
                pixels.append(_describe(frame, array.shape, offset))
                offset += array.nbytes
        except MoodreelError as error:
            return Frames(tuple(pixels), _failure(error))
        return Frames(tuple(pixels), None)

    def close_video(self) -> None:
        """Free the clip and the mailbox."""
        self._reader, self._frames = None, iter(())
        os.ftruncate(self._mailbox, 0)

    def decode_audio(self, size: int, limits: VideoLimits) -> Samples | None:
        """Decode the audio of the file of `size` bytes in the mailbox; the samples are in the mailbox then."""
        sound = decode_audio(self._take(size), limits)
        if sound is None:
            return None
        write_mailbox(self._mailbox, sound.samples.data)
        return Samples(len(sound.samples), sound.start)

    def _take(self, size: int) -> bytes:
        """Take a file out of the mailbox."""
        data = os.pread(self._mailbox, size, 0)
        os.ftruncate(self._mailbox, 0)
        return data


def _describe(frame: Frame | LoopFrame, shape: tuple[int, ...], offset: int) -> Pixels:
    if isinstance(frame, Frame):
        return Pixels(frame.time, frame.size, shape, offset)
    return Pixels(frame.time, None, shape, offset, (int(frame.yuv.colorspace), int(frame.yuv.color_range)))


def _failure(error: MoodreelError) -> Failure:
    return Failure(error, repr(error.__cause__))
