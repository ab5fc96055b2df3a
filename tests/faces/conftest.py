from collections.abc import Iterator

import pytest

from moodreel.faces.landmarker import FaceLandmarker
from tests.support.server import STORE


@pytest.fixture(scope="module")
def landmarker() -> Iterator[FaceLandmarker]:
    """Load the landmarker as the service does, with its fallbacks."""
    landmarker = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task", use_fallbacks=True)
    yield landmarker
    landmarker.close()
