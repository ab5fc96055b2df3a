from collections.abc import Iterator

import pytest

from moodreel.pipelines.engine import Engine
from tests.support.server import STORE


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """Load the shipped models. Who finds the slot taken is told soon."""
    engine = Engine.load(STORE, wait_seconds=0.05)
    yield engine
    engine.close()
