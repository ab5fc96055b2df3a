"""The example clip goes from a calm face to a smile."""

from pathlib import Path

import numpy as np
import pytest

from bench import smile
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.video import VideoPipeline
from tests.support.server import STORE

CLIP = Path(__file__).parents[2] / "examples" / "smile.mp4"


@pytest.fixture(scope="module")
def result():
    return VideoPipeline(Engine.load(STORE)).predict(CLIP.read_bytes())


def test_the_example_clip_is_neutral_first_and_happy_at_its_peak(result):
    emotions = [point.emotion for point in result.timeline]
    assert emotions == ["Neutral"] * emotions.count("Neutral") + ["Happy"] * emotions.count("Happy")
    assert emotions.count("Neutral") >= 5
    assert (result.emotion, result.certain) == ("Happy", True)
    assert emotions[[point.time for point in result.timeline].index(result.peak)] == "Happy"


def test_the_calm_face_shows_no_teeth_and_the_smile_does():
    def whiteness(stage):
        """Mean of the darkest channel between the lips."""
        frame, points = smile.SmileRenderer().render(stage, blink=0.0)
        between = (points[list(smile.UPPER_LIP[-1][3:8])] + points[list(smile.LOWER_LIP[-1][3:8])]) / 2
        x, y = np.round(between[:, :2]).astype(int).T
        return frame[y, x].min(axis=1).mean()

    assert whiteness(0.0) < 110
    assert whiteness(1.0) > 150
