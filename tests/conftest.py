import ctypes
import gc
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import synthetic_frames
from tests.support.postgresql_server import PostgresqlServer, find_programs
from tests.support.typescript import TypeScript


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """Return NASA's public-domain portrait of a smiling woman: (512, 512, 3) uint8 RGB."""
    return synthetic_frames.portrait()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Use one torch thread, as a worker does; networks this small are slower on several."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="module")
def release_memory() -> None:
    """Give the memory of earlier modules' models back to the system.

    Apps, engines and networks are in reference cycles, so they stay until a garbage collection. glibc then keeps the
    freed pages, a few hundred MB of them, because a small block above each one is still used. What is left after that,
    such as libraries and tests, is left out of further collections, which it would make many times slower.
    """
    gc.collect()
    gc.freeze()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim:
            trim(0)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Run a real PostgreSQL; without one the test is skipped, and says so."""
    pytest.importorskip("psycopg")
    programs = find_programs()
    if programs is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql, as ./init.sh test does")
    with PostgresqlServer(programs) as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database_settings(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the settings of a service with SQLite files, and in a second run with an empty PostgreSQL database."""
    if request.param == "sqlite":
        return {}
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return {"LOG_DATABASE_URL": server.make_database()}


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Return where a store is to be: a file, and in a second run an empty PostgreSQL database."""
    if request.param == "sqlite":
        return tmp_path / "data" / "store.db"
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.make_database()


@pytest.fixture(scope="session")
def typescript(tmp_path_factory: pytest.TempPathFactory) -> TypeScript:
    """Install TypeScript's tools; without npm the test is skipped, and says so."""
    tools = TypeScript(tmp_path_factory.mktemp("typescript"))
    if tools.problem:
        pytest.skip(tools.problem)
    return tools


@pytest.fixture
def interrupted_at():
    """Return `fit` with a first argument: the batch, counted from 1, at which it is interrupted."""
    from moodreel.training.engine.trainer import fit

    def run(batch, task, *args, **kwargs):
        batches, sample_batch = itertools.count(1), task.sample_batch

        def sample(*arguments):
            if next(batches) == batch:
                raise KeyboardInterrupt
            return sample_batch(*arguments)

        task.sample_batch = sample
        return fit(task, *args, **kwargs)

    return run
