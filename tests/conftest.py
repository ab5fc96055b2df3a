import numpy as np
import pytest

from tests import media


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """NASA's public-domain portrait of a smiling woman: (512, 512, 3) uint8 RGB."""
    return media.portrait()
