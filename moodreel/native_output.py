"""Keep what native libraries print off the terminal."""

import os
import sys


def silence_native_libraries() -> None:
    """Send what C++ code writes to standard error nowhere: no setting silences MediaPipe's and Ray's at their start."""
    # A name that cannot be shown is escaped, as on Python's own standard error.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
    with open(os.devnull, "wb") as null:  # noqa: PTH123 - a device, not a path
        os.dup2(null.fileno(), 2)
