"""The set-up of the process of the service, in a process of its own."""

import subprocess
import sys

SCRIPT = """
import resource
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
from api.process_setup import set_up_process
set_up_process()
print(resource.getrlimit(resource.RLIMIT_CORE) == (0, hard))
"""


def test_no_core_dump_is_written_which_would_hold_clips() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"
