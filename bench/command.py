"""Run a benchmark as a command: a wrong input or Ctrl-C ends it without a traceback."""

import sys
from collections.abc import Callable

from moodreel.errors import MoodreelError


def run_command(main: Callable[[], object]) -> None:
    """Run `main`. After Ctrl-C the exit status is 130; an input that cannot be used is one line, with status 1."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (MoodreelError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        sys.exit(str(error))
