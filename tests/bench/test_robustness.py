"""The robustness benchmark: rendered scenes, metrics and report."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from bench import render, robustness
from bench.robustness import CONDITIONS, ConditionResult, measure, sample, table
from moodreel.emotions import FIVE
from moodreel.faces.features import normalize_landmarks
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.models.face_registry import face_model_registry
from moodreel.training.data.fer2013 import VOTE_COLUMNS
from tests.support.server import STORE

HAPPY = FIVE.index("Happy")
EYES, MOUTH = (159, 386), (13, 14)
NOSE = 4


@pytest.fixture(scope="module")
def landmarker():
    landmarker = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task")
    yield landmarker
    landmarker.close()


@pytest.fixture(scope="module")
def crop(portrait):
    """The face of the portrait like an image of FER+: (48, 48) uint8, gray."""
    face = cv2.cvtColor(portrait[55:185, 160:290], cv2.COLOR_RGB2GRAY)
    return cv2.resize(face, (48, 48), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def scene(crop, landmarker):
    return render.make_scene(crop, landmarker)


@pytest.fixture(scope="module")
def faceless(landmarker):
    return render.make_scene(np.full((48, 48), 127, np.uint8), landmarker)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def detail(frame):
    return cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.CV_32F).var()


def difference(frame, other, scene, points):
    """Compute the mean difference of two frames around landmarks, 0 to 255."""
    difference_map = np.abs(frame.astype(float) - other).mean(axis=2)
    return np.mean(
        [difference_map[y - 3 : y + 4, x - 3 : x + 4] for x, y in scene.landmarks[list(points), :2].astype(int)]
    )


def test_a_scene_holds_one_color_face_of_the_standard_size(scene):
    assert np.ptp(scene.landmarks[:, 0]) == pytest.approx(render.FACE, rel=0.2)
    red, green, blue = scene.frame.reshape(-1, 3).mean(axis=0)
    assert red > green > blue


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda each: f"{each.name} {each.strength:g}")
def test_every_condition_is_deterministic_and_keeps_the_frame_size(scene, condition):
    frame, again = (condition.effect(scene, condition.strength, np.random.default_rng(5)) for _ in range(2))
    assert (frame.shape, frame.dtype) == (scene.frame.shape, np.uint8)
    assert np.array_equal(frame, again)
    assert np.array_equal(frame, scene.frame) == (condition.name == "none")


@pytest.mark.parametrize(
    "effect", [render.yawed, render.pitched, render.masked, render.with_glasses, render.lit_from_behind]
)
def test_effects_on_the_face_leave_a_scene_without_one_unchanged(faceless, effect, rng):
    assert faceless.landmarks is None
    assert np.array_equal(effect(faceless, 1, rng), faceless.frame)


def yaw_and_pitch(face):
    return normalize_landmarks(face.landmarks, width=render.WIDTH, height=render.HEIGHT)[1][:2]


@pytest.mark.parametrize("degrees", [-30, -15, 15, 30])
def test_a_head_turns_to_the_requested_side_and_keeps_its_size(scene, landmarker, degrees):
    (before,) = landmarker.detect(scene.frame)
    (after,) = landmarker.detect(render.turn(scene.frame, scene.landmarks, yaw=degrees))
    assert yaw_and_pitch(after)[0] - yaw_and_pitch(before)[0] == pytest.approx(degrees, abs=10)
    assert (after.landmarks[NOSE, 0] - before.landmarks[NOSE, 0]) * degrees > 0
    assert after.box[3] == pytest.approx(before.box[3], rel=0.1)


@pytest.mark.parametrize("degrees", [-20, 20])
def test_a_head_is_raised_and_lowered(scene, landmarker, degrees):
    (before,) = landmarker.detect(scene.frame)
    (after,) = landmarker.detect(render.turn(scene.frame, scene.landmarks, pitch=degrees))
    assert yaw_and_pitch(after)[1] - yaw_and_pitch(before)[1] == pytest.approx(degrees, abs=10)
    assert (after.landmarks[NOSE, 1] - before.landmarks[NOSE, 1]) * degrees < 0


def test_a_head_that_is_not_turned_stays_as_it_is(scene):
    difference_map = np.abs(render.turn(scene.frame, scene.landmarks).astype(int) - scene.frame)
    assert np.percentile(difference_map, 99) <= 2


@pytest.mark.parametrize("degrees", [-30, 30])
def test_the_yaw_is_that_of_the_condition(scene, landmarker, rng, degrees):
    (face,) = landmarker.detect(render.yawed(scene, degrees, rng))
    assert yaw_and_pitch(face)[0] == pytest.approx(degrees, abs=12)


def test_a_head_turned_farther_is_only_mirrored(scene, rng):
    turned = replace(scene, yaw=40.0)
    difference_map = np.abs(render.yawed(turned, 15, rng).astype(int) - scene.frame)
    mirrored = np.abs(render.yawed(turned, -15, rng).astype(int) - scene.frame[:, ::-1])
    assert max(np.percentile(difference_map, 99), np.percentile(mirrored, 99)) <= 2


@pytest.mark.parametrize("degrees", [15, 45])
def test_a_head_rolls(scene, landmarker, rng, degrees):
    (face,) = landmarker.detect(render.rolled(scene, degrees, rng))
    assert abs(face.roll) == pytest.approx(degrees, abs=8)


@pytest.mark.parametrize("pixels", [128, 300])
def test_a_face_has_the_requested_size(scene, landmarker, rng, pixels):
    (before,), (after,) = landmarker.detect(scene.frame), landmarker.detect(render.sized(scene, pixels, rng))
    assert after.box[2] / before.box[2] == pytest.approx(pixels / render.FACE, rel=0.1)


@pytest.mark.parametrize(
    "effect, weak, strong, measure, grows",
    [
        (render.blurred, 2, 8, detail, False),
        (render.shaken, 5, 20, detail, False),
        (render.noisy, 8, 32, detail, True),
        (render.darkened, 2, 6, np.mean, False),
        (render.overexposed, 1, 3, np.mean, True),
        (render.lit_from_side, 2, 4, np.mean, False),
    ],
)
def test_a_stronger_effect_changes_more(scene, rng, effect, weak, strong, measure, grows):
    steps = np.diff([measure(scene.frame), measure(effect(scene, weak, rng)), measure(effect(scene, strong, rng))])
    assert (steps > 0).all() if grows else (steps < 0).all()


@pytest.mark.parametrize("effect, good, bad", [(render.as_jpeg, 70, 10), (render.as_h264, 23, 45)])
def test_compression_loses_detail(scene, rng, effect, good, bad):
    better, worse = (np.abs(effect(scene, quality, rng).astype(int) - scene.frame).mean() for quality in (good, bad))
    assert 0 < better < worse < 12


def test_a_mask_covers_the_mouth_and_glasses_the_eyes(scene, rng):
    small, mask = render.masked(scene, 0.5, rng), render.masked(scene, 1, rng)
    glasses = render.with_glasses(scene, 0.9, rng)
    for covered in (small, mask):
        assert difference(covered, scene.frame, scene, MOUTH) > 20
        assert difference(covered, scene.frame, scene, EYES) < 1
    assert (small != scene.frame).sum() < (mask != scene.frame).sum()
    assert difference(glasses, scene.frame, scene, EYES) > 20
    assert difference(glasses, scene.frame, scene, MOUTH) < 1


def test_colors_run_from_bluish_over_gray_to_warm_at_one_brightness(scene, rng):
    cool, gray, warm = (render.recolored(scene, cast, rng) for cast in (-1, 0, 2))
    assert cool[..., 2].mean() > cool[..., 0].mean()
    assert (gray == gray[..., :1]).all()
    assert warm[..., 0].mean() > scene.frame[..., 0].mean()
    light = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).mean() for frame in (cool, gray, scene.frame, warm)]
    assert np.ptp(light) < 8


def test_light_from_one_side_and_from_behind(scene, rng):
    x, y = scene.landmarks[NOSE, :2].astype(int)
    side = render.lit_from_side(scene, 4, rng) / np.maximum(scene.frame, 1)
    halves = side[y - 40 : y + 40, x - 60 : x - 40].mean(), side[y - 40 : y + 40, x + 40 : x + 60].mean()
    assert max(halves) > 2 * min(halves)
    behind = render.lit_from_behind(scene, 2, rng)
    assert (behind[:20] == 255).all()
    assert behind[y, x].mean() < scene.frame[y, x].mean()


def test_a_face_that_is_not_found_counts_as_wrong(scene, faceless, landmarker):
    predictor = face_model_registry(STORE).get()
    truth = np.array([HAPPY, HAPPY])
    result = measure([scene, faceless], truth, CONDITIONS[0], landmarker, predictor)
    assert result.found.tolist() == [True, False]
    assert result.certain.tolist() == [True, False]
    assert result.probabilities.shape == (1, len(predictor.info.labels))
    assert not result.correct[1]
    none = measure([faceless], truth[:1], CONDITIONS[0], landmarker, predictor)
    assert none.correct.tolist() == [False]


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_a_row_for_each_condition():
    probabilities = np.eye(5, dtype=np.float32)[[0, 1]]
    half = ConditionResult(
        np.array([0, 0, 1]), np.array([True, True, False]), np.array([True, False, False]), probabilities
    )
    no_face = ConditionResult(np.array([0, 1]), np.zeros(2, bool), np.zeros(2, bool), np.zeros((0, 5), np.float32))
    lines = table({condition: half if i else no_face for i, condition in enumerate(CONDITIONS)}).splitlines()
    assert len(lines) == 2 + len(CONDITIONS)
    assert len({line.count("|") for line in lines}) == 1
    for condition, line in zip(CONDITIONS, lines[2:], strict=True):
        assert cells(line)[:2] == [condition.name, condition.title]
    assert cells(lines[2])[2:] == ["0 %", "0 %", "–", "0 %", "–", "–", "0 %", "–"]
    assert cells(lines[3])[2:] == ["67 %", "33 %", "50 %", "25 %", "0.50", "100 %", "33 %", "100 %"]


@pytest.fixture
def data(tmp_path, crop):
    """Files in the layout of FER+: 60 happy images, a sad one, and one without a majority."""
    votes = np.zeros((62, len(VOTE_COLUMNS)), np.uint8)
    votes[:60, VOTE_COLUMNS.index("happiness")] = votes[60, VOTE_COLUMNS.index("sadness")] = 10
    votes[61, :2] = 5
    np.savez(tmp_path / "valid.npz", images=np.repeat(crop[None], 62, axis=0), votes=votes)
    return tmp_path


def test_a_sample_has_rare_classes_and_is_deterministic(data):
    drawn, again = sample(data, FIVE, 20), sample(data, FIVE, 20)
    assert np.bincount(drawn.truth, minlength=5).tolist() == [0, 20, 0, 0, 1]
    assert np.array_equal(drawn.images, again.images)


def test_the_command_writes_the_table_and_the_sheet(data, tmp_path, capsys):
    common = ["--data", str(data), "--pictures", "2", "--conditions", "none,size"]
    card = tmp_path / "CARD.md"
    card.write_text("# a model\n\n## Metrics\nfew\n\n## Robustness\nan old one\n\n## Training\nso\n")
    robustness.main([*common, "--card", str(card)])
    written = capsys.readouterr().out
    rows = [cells(line) for line in written.splitlines()]
    assert ["size", "face 24 px of 480 × 640", "0 %"] in [row[:3] for row in rows]
    before, after = "# a model\n\n## Metrics\nfew\n\n## Robustness\n", "\n## Training\nso\n"
    assert card.read_text() == before + written + after
    assert f"{len(sample(data, FIVE, 2).truth)} images" in written
    robustness.main([*common, "--sheet", str(tmp_path / "sheet.png")])
    height, width = cv2.imread(str(tmp_path / "sheet.png")).shape[:2]
    assert width == 8 * (render.WIDTH // 3)
    assert height > 2 * (render.HEIGHT // 3)


def test_an_unknown_condition_is_refused(data, capsys):
    with pytest.raises(SystemExit):
        robustness.main(["--data", str(data), "--conditions", "blur,fog"])
    assert "no condition fog" in capsys.readouterr().err
