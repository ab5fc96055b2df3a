"""The image pipeline with the shipped models."""

import io
import itertools
import threading

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image

from moodreel.emotions import FIVE, SEVEN
from moodreel.errors import ImageCorrupt, ImageTooBig, ModelNotFound, NoFace, Overloaded, UnsupportedMedia
from moodreel.media import image
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.geometry import turn_box
from moodreel.pipelines.image import ImageBatchResult, ImagePipeline, ImageResult
from moodreel.pipelines.image_or_video import ImageOrVideoPipeline
from moodreel.pipelines.video import VideoPipeline
from tests.media.test_image import stored
from tests.support import synthetic_frames, synthetic_image, synthetic_video
from tests.support.server import STORE

NO_FACE = synthetic_image.encode_image(skimage.data.coffee())


@pytest.fixture(scope="module")
def pipeline(engine):
    return ImagePipeline(engine)


@pytest.fixture(scope="module")
def either(engine, pipeline):
    return ImageOrVideoPipeline(pipeline, VideoPipeline(engine))


@pytest.fixture(scope="module")
def smile():
    return synthetic_image.encode_image(synthetic_frames.portrait(), quality=95)


def test_images_that_a_batch_has_no_time_for_are_overloaded(pipeline, smile, monkeypatch):
    monkeypatch.setattr("moodreel.pipelines.image.BATCH_SECONDS", 0)
    results = pipeline.predict_batch([smile, smile, b"garbage"]).results
    assert results[0].emotion == "happy"
    assert [type(result) for result in results[1:]] == [Overloaded, Overloaded]
    assert "smaller batch" in str(results[1])


@pytest.mark.parametrize(("path", "name"), [("resemotenet", "resemotenet"), ("compact-emotimesh", "face-expression")])
def test_a_default_with_seven_labels_answers_for_images_too(smile, path, name):
    engine = Engine.load(STORE, model_path=STORE / path)
    pipeline = ImagePipeline(engine)
    either = ImageOrVideoPipeline(pipeline, VideoPipeline(engine))
    assert pipeline.predict(smile).model.name == name
    assert either.predict(smile).model.name == name
    assert either.predict(synthetic_video.encode_video(synthetic_frames.face_frames(5))).model.name == name


def test_a_smile_is_happy_and_the_result_is_complete(pipeline, smile):
    result = pipeline.predict(smile)
    [face] = result.faces
    assert result.emotion == face.emotion == "happy"
    assert result.confidence == face.confidence == face.probabilities["happy"] > 0.85
    assert result.all_emotions == face.probabilities
    assert tuple(face.probabilities) == SEVEN
    assert sum(face.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert (result.width, result.height) == (512, 512)
    x, y, w, h = face.box
    assert x < 224 < x + w and y < 115 < y + h, "the nose is in the box"
    assert (face.certain, face.quality.reason) == (True, None)
    assert result.model.name == "face-expression"
    assert set(result.timings) == {"decode", "faces", "model"}
    assert result.drawn is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_the_format_and_the_orientation_change_nothing(pipeline, smile, kind, orientation):
    upright = synthetic_frames.portrait()[:320]
    plain, turned = (
        pipeline.predict(synthetic_image.encode_image(stored(upright, each), kind, exif=synthetic_image.exif(each)))
        for each in (1, orientation)
    )
    assert (turned.width, turned.height) == (512, 320)
    assert turned.faces[0].box == pytest.approx(plain.faces[0].box, abs=3)
    assert turned.emotion == "happy"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_exif_orientations_give_the_same_box_and_an_upright_drawing(pipeline, orientation):
    upright = synthetic_frames.portrait()[:320]
    data = synthetic_image.encode_image(
        stored(upright, orientation), quality=95, exif=synthetic_image.exif(orientation)
    )
    expected = pipeline.predict(synthetic_image.encode_image(upright, quality=95))
    found = pipeline.predict(data, draw=True)
    assert (found.width, found.height) == (512, 320)
    assert found.faces[0].box == pytest.approx(expected.faces[0].box, abs=3)
    assert found.confidence == pytest.approx(expected.confidence, abs=0.02)
    drawn = cv2.resize(np.asarray(Image.open(io.BytesIO(found.drawn))), (512, 320), interpolation=cv2.INTER_AREA)
    assert np.abs(drawn.astype(int) - upright).mean() < 8, "only the box differs from the image"


def test_boxes_are_in_the_pixels_of_the_image_as_sent(pipeline):
    rgb, centers = synthetic_frames.group_photo(3840, 2880, 5, 300)
    result = pipeline.predict(synthetic_image.encode_image(rgb))
    assert (result.width, result.height) == (3840, 2880)
    boxes = [face.box for face in result.faces]
    assert len(boxes) == 5
    for x, y in centers:
        [width] = [w for left, top, w, h in boxes if left < x < left + w and top < y < top + h]
        assert width == pytest.approx(300, rel=0.15)


def test_a_group_lists_every_face_and_answers_for_the_largest(pipeline):
    rgb, _ = synthetic_frames.group_photo(1280, 960, 7, 70)
    rgb[300:900, 600:1200] = cv2.resize(synthetic_frames.portrait()[20:240, 120:340], (600, 600))
    result = pipeline.predict(synthetic_image.encode_image(rgb))
    areas = [face.box[2] * face.box[3] for face in result.faces]
    assert len(areas) == 8
    assert areas[0] > 5 * max(areas[1:])
    assert result.all_emotions == result.faces[0].probabilities
    assert {face.emotion for face in result.faces} == {"happy"}


def test_an_image_without_a_face_has_an_empty_result(pipeline):
    result = pipeline.predict(NO_FACE, draw=True)
    assert (result.faces, result.emotion, result.confidence, result.all_emotions) == ((), None, None, {})
    assert Image.open(io.BytesIO(result.drawn)).size == (640, 427)


def test_a_drawn_face_is_none(pipeline):
    assert pipeline.predict(synthetic_image.encode_image(synthetic_frames.cartoon())).faces == ()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_image_gives_the_answer_of_the_upright_one_and_the_boxes_of_its_own_pixels(pipeline, turns):
    photo, _ = synthetic_frames.group_photo(960, 720, 3, 140)
    upright, turned = (
        pipeline.predict(synthetic_image.encode_image(np.ascontiguousarray(np.rot90(photo, k)), quality=95))
        for k in (0, turns)
    )
    assert [face.emotion for face in turned.faces] == [face.emotion for face in upright.faces] == ["happy"] * 3
    boxes = [
        turn_box((x / w, y / h, bw / w, bh / h), turns)
        for (x, y, bw, bh), w, h in ((face.box, turned.width, turned.height) for face in turned.faces)
    ]
    expected = [(x / 960, y / 720, w / 960, h / 720) for x, y, w, h in (face.box for face in upright.faces)]
    for box, other in zip(sorted(boxes), sorted(expected), strict=True):
        assert box == pytest.approx(other, abs=0.02)


def test_a_small_face_is_uncertain(pipeline):
    [face] = pipeline.predict(synthetic_image.encode_image(synthetic_frames.portrait()[::4, ::4], quality=95)).faces
    assert (face.certain, face.quality.reason) == (False, "small")


def test_the_named_model_answers(pipeline, either, smile):
    result = pipeline.predict(smile, model="moodreel-five")
    assert tuple(result.all_emotions) == FIVE
    assert (result.emotion, result.model.name) == ("Happy", "moodreel-five")
    for call in (
        pipeline.predict,
        either.predict,
        lambda data, model: pipeline.predict_batch([data], model=model),
    ):
        with pytest.raises(ModelNotFound):
            call(smile, model="unknown")


def many() -> list[bytes]:
    group, _ = synthetic_frames.group_photo(960, 720, 9, 60)
    faces = [
        synthetic_frames.portrait()[:, ::-1],
        synthetic_frames.portrait()[::2, ::2],
        synthetic_frames.portrait() // 3,
        synthetic_frames.face_frames(1)[0],
    ]
    return [synthetic_image.encode_image(rgb) for rgb in (synthetic_frames.portrait(), group, *faces)] + [NO_FACE]


def test_a_batch_gives_the_same_results_as_single_images(pipeline):
    files = many()
    batch = pipeline.predict_batch(files)
    assert isinstance(batch, ImageBatchResult)
    assert set(batch.timings) == {"decode", "faces", "model"}
    for data, together in zip(files, batch.results, strict=True):
        alone = pipeline.predict(data)
        assert [face.box for face in together.faces] == [face.box for face in alone.faces]
        assert [face.emotion for face in together.faces] == [face.emotion for face in alone.faces]
        assert [face.quality for face in together.faces] == [face.quality for face in alone.faces]
        for one, other in zip(together.faces, alone.faces, strict=True):
            # A network's sums round differently by the size of its batch.
            assert one.probabilities == pytest.approx(other.probabilities, abs=2e-6)


def test_a_batch_classifies_all_faces_at_once(engine, pipeline, monkeypatch):
    predictor = engine.models.get("face-expression")
    asked = []
    predict = predictor.predict
    monkeypatch.setattr(predictor, "predict", lambda tracks, **o: asked.append(len(tracks)) or predict(tracks, **o))
    files = many()
    faces = sum(len(result.faces) for result in pipeline.predict_batch(files).results)
    assert asked == [faces]


def test_the_error_of_an_image_is_returned_at_its_index(pipeline, smile):
    files = [NO_FACE, b"text", smile, smile[:5000], smile * 200, b"", smile]
    kinds = [type(result) for result in pipeline.predict_batch(files).results]
    error = [UnsupportedMedia, ImageCorrupt, ImageTooBig, UnsupportedMedia]
    assert kinds == [ImageResult, error[0], ImageResult, error[1], error[2], error[3], ImageResult]
    assert [type(result) for result in pipeline.predict_batch([b"text"]).results] == [UnsupportedMedia]


def test_a_batch_holds_one_decoded_image_at_a_time(pipeline, smile, monkeypatch):
    numbers, counts = itertools.count(), []
    in_memory: set[int] = set()

    class CountedImage(image.DecodedImage):
        def __del__(self):
            in_memory.discard(self.number)

    def decode(*arguments):
        decoded = original(*arguments)
        counted = CountedImage(decoded.rgb, decoded.width, decoded.height, decoded.icc_profile)
        object.__setattr__(counted, "number", next(numbers))
        in_memory.add(counted.number)
        counts.append(len(in_memory))
        return counted

    original = image.decode_image
    monkeypatch.setattr(image, "decode_image", decode)
    pipeline.predict_batch([smile] * 6)
    assert len(counts) == 6
    assert max(counts) <= 2, "the previous image lives until its variable is assigned again"


def test_videos_and_images_are_distinguished_by_their_bytes(either, smile):
    photo, clip = (
        either.predict(smile),
        either.predict(synthetic_video.encode_video(synthetic_frames.face_frames(10))),
    )
    assert photo.emotion == clip.emotion == "happy"
    assert tuple(photo.all_emotions) == tuple(clip.all_emotions) == SEVEN
    assert isinstance(photo, ImageResult)
    assert (clip.frames_analysed, clip.duration) == (10, pytest.approx(0.4))


def test_only_a_video_needs_a_face(either):
    assert either.predict(NO_FACE).emotion is None
    with pytest.raises(NoFace):
        either.predict(synthetic_video.encode_video(synthetic_frames.noise_frames(5)))
    with pytest.raises(UnsupportedMedia, match=r"MP4.* A picture may be JPEG"):
        either.predict(b"text")


def test_a_call_that_waits_too_long_for_a_slot_is_overloaded(engine, pipeline, either, smile):
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.slot():
            inside.set()
            leave.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert inside.wait(20)
        for call in (pipeline.predict, either.predict, lambda data: pipeline.predict_batch([data])):
            with pytest.raises(Overloaded):
                call(smile)
    finally:
        leave.set()
        holder.join()
    assert pipeline.predict(smile).emotion == "happy"
