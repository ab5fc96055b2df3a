"""The benchmark of the studio."""

import pytest

from bench import studio
from tests.support.browser import needs_chromium


@pytest.mark.browser
@pytest.mark.server
@needs_chromium
def test_the_first_load_and_interactions_are_printed(capsys):
    studio.main(["--rounds", "1"])
    printed = capsys.readouterr().out
    assert "| first contentful paint, ms " in printed
    assert "Target: at most 150,000 bytes (met)" in printed
