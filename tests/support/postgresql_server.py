"""Run a real PostgreSQL for the tests; `./init.sh test` installs it."""

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.server import free_port

PASSWORD = "a-password-for-tests"


def find_programs() -> Path | None:
    """Return the folder of initdb and postgres; None if PostgreSQL is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if (program := shutil.which("initdb")) is not None:
        folders.append(Path(program).resolve().parent)
    return folders[-1] if folders else None


class PostgresqlServer:
    """Run a cluster of its own as a context manager; it can be stopped, killed and started in between.

    Its files are in a folder in /tmp that is deleted at the end, and nothing waits for a disk.
    """

    def __init__(self, programs: Path) -> None:
        self.port = free_port()
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="moodreel-postgresql-"))
        # PostgreSQL refuses to run as root.
        self._user = None if os.getuid() else pwd.getpwnam("nobody").pw_name
        self._process: subprocess.Popen | None = None
        self._numbers = itertools.count()

    def __enter__(self) -> "PostgresqlServer":
        if self._user:
            shutil.chown(self._folder, self._user)
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        options = ["-U", "moodreel", "-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C.UTF-8"]
        self._run("initdb", *options, "--no-sync", "-D", self._folder / "data")
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        with (self._folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", *options],
                stdout=output,
                stderr=output,
                user=self._user,
                cwd=self._folder,
            )
        deadline = time.monotonic() + 60
        while subprocess.run([self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode:
            assert self._process.poll() is None and time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends its connections, SIGQUIT is a crash with a recovery."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def kill(self) -> None:
        """Kill the server and all of its processes at once, as a power cut would."""
        assert self._process is not None
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self._process.pid)], capture_output=True, text=True
        )
        for pid in (self._process.pid, *map(int, children.stdout.split())):
            os.kill(pid, signal.SIGKILL)
        self._process.wait(60)
        self._process = None
        (self._folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def freeze(self, frozen: bool = True) -> None:
        """Stop all processes where they are, or let them go on: connections stay open, and nothing answers."""
        assert self._process is not None
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self._process.pid)], capture_output=True, text=True
        )
        for pid in (self._process.pid, *map(int, children.stdout.split())):
            os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)

    def make_database(self) -> str:
        """Return the URL of an empty database. It is a schema, which is made much faster."""
        import psycopg

        name = f"test_{os.getpid()}_{next(self._numbers)}"
        url = f"postgresql://moodreel:{PASSWORD}@127.0.0.1:{self.port}/postgres"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"create schema {name}")  # type: ignore[call-overload]
        return f"{url}?options=-csearch_path%3D{name}"

    @property
    def output(self) -> str:
        """What the server wrote."""
        return (self._folder / "output.txt").read_text(errors="replace")

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, user=self._user, cwd=self._folder)
        assert done.returncode == 0, done.stdout + done.stderr
