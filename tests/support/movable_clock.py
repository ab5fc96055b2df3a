"""Move the time of day of a server, as an operator or a time server does. Its monotonic clock goes on as it was."""

from pathlib import Path

LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
"""The library of Debian's package libfaketime; None if it is not installed."""


_NO_CLOCK_NANOSLEEP = "import select, time; time.sleep = lambda seconds: select.select((), (), (), seconds); "


class MovableClock:
    """The time of day of a server that is started with `settings` and `command`.

    Args:
        file: A file to create, which the library reads whenever the server asks for the time.
    """

    # Version 0.9.10, which Debian 12 has, breaks time.sleep of Python.
    command = ("-c", f"{_NO_CLOCK_NANOSLEEP}from gunicorn.app.wsgiapp import run; run()")

    def __init__(self, file: Path) -> None:
        self._file = file
        self.settings = {
            "LD_PRELOAD": LIBRARY,
            "FAKETIME_TIMESTAMP_FILE": file,
            "FAKETIME_NO_CACHE": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
            "NO_FAKE_STAT": 1,
        }
        self.move(0)

    def move(self, hours: float) -> None:
        """Let the time of day be so many hours after the true one."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{hours * 3600:+.0f}")
        new.rename(self._file)
