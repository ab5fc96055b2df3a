"""Measure peak memory in a separate process: in this one, earlier tests may have raised the peak."""

import subprocess
import sys
from pathlib import Path

from tests.support.server import ROOT

SCRIPT = """
import resource, sys
from pathlib import Path
{imports}

data = Path(sys.argv[1]).read_bytes()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    {statement}
except {error}:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def refusal_peak_kilobytes(imports: str, statement: str, error: str, path: Path) -> int:
    """Return by how many kilobytes a statement about `data`, a file's bytes, raises the peak memory until its error."""
    code = SCRIPT.format(imports=imports, statement=statement, error=error)
    ran = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return int(ran.stdout)
