"""Run a benchmark as a command: a wrong input or Ctrl-C ends it without a traceback."""

import sys
from collections.abc import Callable

from moodreel.errors import MoodreelError


def run_command(main: Callable[[], object]) -> None:
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except (MoodreelError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        sys.exit(str(error))
