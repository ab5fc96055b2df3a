"""The comparison with `fer`, whose detector and network are replaced by small ones: the package is optional."""

from importlib.metadata import PackageNotFoundError

import cv2
import numpy as np
import pytest

from bench import peers
from bench.peers import LABELS, OFFSET, SIDE, Peer, crop_face, landmark_box
from moodreel.errors import MoodreelError
from moodreel.models.model_card import read_card

SMALL, LARGE = (0, 0, 60, 60), (160, 55, 130, 130)
"""Boxes in the portrait: of the background, and of her face."""


@pytest.fixture
def images(tmp_path, portrait):
    """A folder with two smiling faces under "anger", and an image without a face under "sad"."""
    folder = tmp_path / "images"
    flat = np.full_like(portrait, 128)
    for file, image in {"anger/1.png": portrait, "anger/2.png": portrait[:, ::-1], "sad/1.png": flat}.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / file), image[..., ::-1])
    return folder


@pytest.fixture
def classified(monkeypatch):
    """What the peer's network was given, a list of (N, 64, 64). It answers angry 0.3, disgust 0.3, happy 0.4."""
    calls = []
    answer = [{"angry": 0.3, "disgust": 0.3, "happy": 0.4}.get(label, 0.0) for label in LABELS]

    def classify(faces):
        calls.append(faces)
        return np.array([answer] * len(faces), np.float32)

    def detect(gray):
        return [SMALL, LARGE] if np.ptp(gray) else []

    monkeypatch.setattr(peers, "load_fer", lambda: Peer("fer 0", detect, classify))
    return calls


def row(printed, system):
    """Return the numbers of a system in the first table, by heading."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in printed.splitlines() if line.startswith("|")]
    return next(dict(zip(lines[0][3:], line[3:], strict=True)) for line in lines if line[2] == system)


def test_a_crop_is_the_face_with_the_margin():
    gray = np.zeros((100, 120), np.uint8)
    gray[20:60, 30:70] = 255
    tight, loose = (crop_face(gray, (30, 20, 40, 40), offset) for offset in (0, 10))
    assert tight.shape == loose.shape == (SIDE, SIDE)
    assert (tight == 1).all()
    assert (loose > 0).mean() == pytest.approx((40 / 60) ** 2, abs=0.03)
    assert loose[0, 0] == -1


def test_the_shorter_side_of_a_box_is_extended():
    gray = np.zeros((100, 120), np.uint8)
    gray[20:60, 40:60] = 255  # 20 wide, 40 high
    columns = crop_face(gray, (40, 20, 20, 40), 0).mean(axis=0)
    assert columns[:14] == pytest.approx(-1)
    assert columns[18:46] == pytest.approx(1)
    assert columns[50:] == pytest.approx(-1)


def test_beyond_the_image_a_crop_shows_the_mean_of_its_last_rows():
    gray = np.full((50, 50), 255, np.uint8)
    gray[-2:] = 51
    crop = crop_face(gray, (0, 0, 20, 20), 10)
    assert crop[0, 0] == pytest.approx(51 / 127.5 - 1)
    assert crop[32, 32] == 1


def test_the_box_of_landmarks_is_in_pixels():
    landmarks = np.array([[0.25, 0.5, 0], [0.75, 0.6, 0.1]], np.float32)
    assert landmark_box(landmarks, np.zeros((100, 200), np.uint8)) == (50, 50, 100, 10)


def test_a_table_shows_the_model_beside_both_ways_to_use_the_peer(images, classified, portrait, tmp_path, capsys):
    peers.main(["--data", f"images:{images}", "--cache", str(tmp_path / "cache")])
    printed = capsys.readouterr().out
    version = read_card(peers.STORE / "moodreel-five" / "model.json").version
    ours, own = row(printed, f"moodreel-five {version}"), row(printed, "fer 0")
    assert ours["face found"] == own["face found"] == "66.7"
    # Anger is the sum of angry and disgust: right for both faces. The sad image without a face is wrong.
    assert own == row(printed, "fer 0, our faces")
    assert (own["mean recall"], own["accuracy"], own["ECE"]) == ("50.0", "66.7", "0.400")
    assert ours["mean recall"] == "0.0"
    assert " -50.0 (" in printed

    gray = cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY)
    found_by_peer, found_by_us = classified
    assert found_by_peer[0] == pytest.approx(crop_face(gray, LARGE, OFFSET))
    assert found_by_us.shape == (2, SIDE, SIDE)
    assert np.abs(found_by_us[0] - found_by_peer[0]).mean() > 0.05


def test_without_the_package_the_error_says_what_to_install(images, monkeypatch, capsys):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(peers.metadata, "distribution", absent)
    with pytest.raises(SystemExit):
        peers.main(["--data", f"images:{images}"])
    assert "pip install --no-deps fer==" in capsys.readouterr().err


def test_sets_other_than_images_are_refused(tmp_path, classified):
    data = peers.Dataset("clips", "clips", ("Neutral",), (), "")
    [model] = peers.open_models(["moodreel-five"], peers.STORE)
    with pytest.raises(MoodreelError, match="reads images"):
        peers.measure(model, peers.load_fer(), data, peers.DataContext(peers.STORE, tmp_path))
