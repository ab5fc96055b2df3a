"""The files of a virtual machine: systemd's units, the proxy's configuration, the backup."""

import gzip
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from moodreel.storage.call_log import Call, CallLog
from tests.support.server import ROOT

FOLDER = ROOT / "deploy" / "gcp"
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")


@needs_systemd
def test_the_units_are_valid(tmp_path: Path) -> None:
    for unit in [*FOLDER.glob("*.service"), *FOLDER.glob("*.timer")]:
        text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text())
        (tmp_path / unit.name).write_text(text)
    units = sorted(tmp_path.iterdir())
    assert len(units) == 3
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_service_is_hardened() -> None:
    # 10 is a service without any protection.
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", FOLDER / "moodreel.service"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:]


def test_the_proxy_has_the_paths_and_ports_of_the_machine() -> None:
    command = re.search(r"^sed .+?nginx\.conf(?= >)", (FOLDER / "install").read_text(), re.M | re.S)[0]
    text = subprocess.run(
        ["bash", "-c", f"certificates=/etc/letsencrypt/live/example.org; {command}"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert re.search(r"moodreel:5000| /tmp/|/dev/std|/certs/|listen 8\d{3}", text) is None
    assert "user www-data;" in text
    assert "ssl_certificate /etc/letsencrypt/live/example.org/fullchain.pem;" in text


def test_a_backup_holds_the_rows_of_the_log_and_the_histories(tmp_path: Path) -> None:
    clone, bucket, programs = tmp_path / "clone", tmp_path / "bucket", tmp_path / "bin"
    for folder in (clone / "deploy" / "gcp", clone / "data", bucket, programs):
        folder.mkdir(parents=True)
    shutil.copy(FOLDER / "backup", clone / "deploy" / "gcp")
    for name in ("api", "moodreel", "model_store"):
        (clone / name).symlink_to(ROOT / name)
    (clone / ".venv").symlink_to(sys.prefix)
    (clone / ".env").write_text("API_KEY=key\nLOG_PATH=logs/my calls.db\nHISTORY_PATH=data/my history.db\n")
    CallLog(clone / "logs" / "my calls.db").write(Call.begin(request_id="one", method="POST", endpoint="/predict"))
    with closing(sqlite3.connect(clone / "data" / "my history.db")) as history:
        history.execute("create table entries (id)")
    # Google's program, as far as a backup needs it.
    (programs / "gcloud").write_text('#!/bin/sh\n[ "$1 $2" = "storage cp" ] && shift 2 && exec cp "$@"\n')
    (programs / "gcloud").chmod(0o755)
    subprocess.run(
        [clone / "deploy" / "gcp" / "backup"],
        env={"PATH": f"{programs}:/usr/bin:/bin", "BUCKET": str(bucket)}, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    log, history = sorted(bucket.iterdir())
    assert re.fullmatch(r"calls-\d{8}T\d{6}Z\.db\.gz", log.name)
    assert history.name.startswith("history-")
    (tmp_path / "copy.db").write_bytes(gzip.decompress(log.read_bytes()))
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("select request_id, endpoint from calls").fetchall() == [("one", "/predict")]
