"""Set up the process of the service before its workers are forked: its limits, and what native code prints."""

import ctypes
import os
import resource
import shutil
import subprocess
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of `mallopt` (malloc.h of glibc)."""
_OPEN_FILES = 8192
"""A connection of a client or to SQLite takes one or two file descriptors. Debian's default of 1024 is too low, and a
worker ends when `accept` finds none free."""
_NOISE = (
    "Logging before InitGoogle|(face_landmarker_graph|inference_feedback_manager|inference_runner_litert)\\.cc"
    "|XNNPACK delegate for CPU|^INFO: \\[[a-z_]+\\.cc:"
)
"""What MediaPipe's native code, and LiteRT in it, prints at each start. They have no switch for that."""


def set_up_process() -> None:
    """Set up this process, and with it the workers that it will fork. A further call changes nothing."""
    set_malloc_parameters()
    _raise_file_limit()
    # A core dump would hold clips. The hard limit stays: an operator may still allow dumps with prlimit.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.stderr.fileno() == 2 and shutil.which("grep"):
        _drop_noise()


def set_malloc_parameters() -> None:
    """Have glibc use one arena, and take blocks of up to 8 MB from it. Other C libraries have no such parameters.

    glibc gives every thread an arena that hardly shrinks. With one arena for all, the peak of a worker is 30 MB lower
    than with two. Blocks of up to 8 MB (a frame, an activation of the network) are taken again and again: mapping and
    unmapping each took 30,000 page faults a video, a sixth of its CPU time. An idle worker returns what is free.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 8 * 1024 * 1024)
        mallopt(_M_TRIM_THRESHOLD, 16 * 1024 * 1024)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _OPEN_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES if hard < 0 else min(_OPEN_FILES, hard), hard))


def _drop_noise() -> None:
    """Send what native code prints through grep, which drops only `_NOISE`. Python writes to standard error as before.

    grep is a separate process, so the last output of a worker that crashes is not lost. It ends with the service.
    """
    stderr, (reader, writer) = os.dup(2), os.pipe()
    script = 'exec 3<&0; grep --line-buffered -vE "$0" <&3 3<&- &'
    subprocess.run(["sh", "-c", script, _NOISE], stdin=reader, stdout=stderr, start_new_session=True, check=True)
    os.dup2(writer, 2)
    os.close(reader)
    os.close(writer)
    sys.stderr = os.fdopen(stderr, "w", buffering=1, errors="backslashreplace")
