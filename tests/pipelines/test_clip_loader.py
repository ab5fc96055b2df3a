"""Clips come out as windows of faces and spectrograms, laid over one another by the file's own clock."""

import io
from concurrent.futures import ThreadPoolExecutor

import av
import numpy as np
import pytest

from moodreel.errors import (
    AudioCorrupt,
    AudioTooLong,
    NoFace,
    NoFaceNoAudio,
    NoVideoStream,
    UnsupportedMedia,
    VideoCorrupt,
    VideoTooLong,
)
from moodreel.faces.features import crop_square
from moodreel.media import mel_spectrogram
from moodreel.media.audio import SAMPLE_RATE
from moodreel.media.video_decoder import VideoLimits
from moodreel.pipelines.clip_loader import CORRUPT, NO_FACE, NONE, NOT_REQUESTED, UNSUPPORTED, ClipLoader
from tests.support import synthetic_audio, synthetic_frames, synthetic_image, synthetic_video
from tests.support.synthetic_audio import encode_sine_clip

BOTH = ("video", "audio")


@pytest.fixture(scope="module")
def loader(engine):
    return ClipLoader(engine)


def loudest_band(mel):
    """Hertz of the middle of the band that is loudest over the steps of a spectrogram."""
    row = int(np.asarray(mel).mean(axis=1).argmax())
    band = mel_spectrogram.mel_filter_bank()[row]
    return float((band * np.fft.rfftfreq(mel_spectrogram.WINDOW_LENGTH, 1 / SAMPLE_RATE)).sum() / band.sum())


FACE = synthetic_frames.face_frames(30)
CONTAINERS = [
    ("mp4", "libx264", "aac", 44_100, "stereo"),
    ("mp4", "libx264", "libmp3lame", 44_100, "mono"),
    ("webm", "libvpx", "libopus", 48_000, "stereo"),
    ("mov", "libx264", "pcm_s16le", 8_000, "mono"),
    ("matroska", "libx264", "flac", 96_000, "mono"),
]


@pytest.mark.parametrize(("container", "video", "codec", "rate", "layout"), CONTAINERS)
def test_faces_and_audio_are_read_from_every_container_and_codec(loader, container, video, codec, rate, layout):
    clip = encode_sine_clip(FACE, 3, container=container, video=video, codec=codec, rate=rate, layout=layout)
    loaded = loader.load(clip)
    assert loaded.modalities == BOTH
    assert not loaded.missing
    assert loaded.starts == pytest.approx((0,), abs=0.1)
    assert loaded.seconds == pytest.approx(3, abs=0.15)
    assert (loaded.frames, loaded.faces) == (8, 1)
    batch = loaded.batch
    assert batch.faces.shape == (1, 8, 112, 112, 3)
    assert batch.mels.shape == (1, 64, 188)
    assert batch.face_mask.all()
    assert batch.audio_mask.all()
    assert loudest_band(batch.mels[0]) == pytest.approx(500, abs=25)


def test_a_crop_is_taken_from_the_frame_shown_at_that_time(loader, engine):
    frames = synthetic_frames.face_frames(30)
    batch = loader.load(synthetic_video.encode_video(frames, fps=10, options={"qp": "0"})).batch
    for column, number in enumerate((1, 5, 9, 13, 16, 20, 24, 28)):  # the middles of eight segments of 3 s
        [face] = engine.landmarker.detect(frames[number])
        expected = crop_square(frames[number], face.landmarks, 112).astype(int)
        assert np.abs(batch.faces[0, column].numpy().astype(int) - expected).mean() < 2.5


def test_a_long_clip_has_adjacent_windows_and_is_decoded_once(loader):
    clip = synthetic_video.encode_video(synthetic_frames.face_frames(50, 160, 120), fps=10)
    loaded = loader.load(clip)
    assert loaded.starts == pytest.approx((0, 2))
    assert loaded.batch.face_mask.shape == (2, 8)
    assert loaded.batch.face_mask.all()
    assert loaded.frames <= 16


def test_missing_or_silent_audio_leaves_the_video(loader):
    for clip in (synthetic_video.encode_video(FACE, fps=10), encode_sine_clip(FACE, 3, silent=True)):
        loaded = loader.load(clip)
        assert loaded.modalities == ("video",)
        assert loaded.missing == {"audio": NONE}
        assert loaded.batch.modalities() == [("video",)]


def test_a_missing_face_leaves_the_audio(loader):
    loaded = loader.load(encode_sine_clip([np.zeros((48, 64, 3), np.uint8)] * 30, 3))
    assert loaded.modalities == ("audio",)
    assert loaded.missing == {"video": NO_FACE}
    assert loaded.batch.audio_mask.all()
    assert not loaded.batch.face_mask.any()


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [("wav", "pcm_s16le", 8_000), ("mp3", "libmp3lame", 44_100), ("ipod", "aac", 48_000), ("webm", "libopus", 48_000)],
)
def test_audio_files_have_windows(loader, container, codec, rate):
    loaded = loader.load(
        synthetic_audio.encode_audio(
            synthetic_audio.sine(500, 5, rate=rate), container=container, codec=codec, rate=rate
        )
    )
    assert loaded.modalities == ("audio",)
    assert loaded.missing == {"video": NONE}
    assert len(loaded.starts) == 2
    assert loaded.frames == 0
    assert loudest_band(loaded.batch.mels[1]) == pytest.approx(500, abs=25)


BLACK = [np.zeros((48, 64, 3), np.uint8)] * 10


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (synthetic_video.encode_video(BLACK, fps=10), "Face the camera"),
        (encode_sine_clip(BLACK, 1, silent=True), "Face the camera"),
        (synthetic_audio.encode_audio(np.zeros(SAMPLE_RATE, np.float32)), "microphone"),
        (synthetic_audio.encode_audio(synthetic_audio.sine(500, 0.01)), "microphone"),
        (synthetic_audio.encode_audio(np.full(48_000, 0.5, np.float32), rate=48_000), "microphone"),
    ],
    ids=["black, no sound", "black, silence", "silence alone", "a click", "a constant voltage"],
)
def test_neither_face_nor_audio_is_an_error(loader, clip, message):
    with pytest.raises(NoFaceNoAudio, match=message):
        loader.load(clip)


def test_modalities_that_are_not_requested_are_not_read(loader):
    clip = encode_sine_clip(FACE[:10], 1)
    video, audio = loader.load(clip, modalities=("video",)), loader.load(clip, modalities=("audio",))
    assert (video.modalities, video.missing) == (("video",), {"audio": NOT_REQUESTED})
    assert (audio.modalities, audio.missing) == (("audio",), {"video": NOT_REQUESTED})
    assert audio.frames == 0
    with pytest.raises(NoFace, match="arm's length"):
        loader.load(encode_sine_clip(BLACK, 1), modalities=("video",))
    with pytest.raises(NoVideoStream, match="Send a clip with pictures"):
        loader.load(synthetic_audio.encode_audio(synthetic_audio.sine(500, 1)), modalities=("video",))
    with pytest.raises(NoFaceNoAudio, match="microphone"):
        loader.load(synthetic_video.encode_video(FACE[:10], fps=10), modalities=("audio",))


# Times


def test_video_that_ends_before_the_audio_leaves_windows_without_a_face(loader):
    loaded = loader.load(encode_sine_clip(FACE[:30], 7))
    assert loaded.starts == pytest.approx((0, 2, 4), abs=0.05)
    assert loaded.batch.modalities() == [BOTH, BOTH, ("audio",)]
    assert 0 < loaded.batch.face_mask[1].sum() < 8


def test_audio_that_ends_before_the_video_leaves_windows_without_audio(loader):
    loaded = loader.load(encode_sine_clip(synthetic_frames.face_frames(70, 160, 120), 1.5))
    assert loaded.batch.modalities() == [BOTH, ("video",), ("video",)]
    steps = loaded.batch.mels[0].amax(dim=0).numpy()
    assert (steps[:80] > -6).all()
    np.testing.assert_allclose(
        steps[110:], np.log(mel_spectrogram.POWER_FLOOR), rtol=1e-6, err_msg="silence from there on"
    )


@pytest.mark.parametrize("shift", [0.0, 7.3])
@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_audio_that_starts_later_is_shifted_whatever_the_start_time_of_the_file(loader, container, shift):
    codec = {"mp4": "aac", "matroska": "flac"}[container]
    loaded = loader.load(encode_sine_clip(FACE, 2, container=container, codec=codec, later=1.0, shift=shift))
    assert loaded.seconds == pytest.approx(3, abs=0.2)
    steps = loaded.batch.mels[0].amax(dim=0)
    begins = int((steps > -6).nonzero()[0]) * mel_spectrogram.HOP_LENGTH / SAMPLE_RATE
    assert begins == pytest.approx(1.0, abs=0.1)
    assert loaded.batch.face_mask.all()


def test_audio_that_starts_first_is_kept(loader):
    loaded = loader.load(encode_sine_clip(FACE[:20], 3, container="matroska", codec="flac", later=-1.0, shift=1.0))
    assert loaded.seconds == pytest.approx(3, abs=0.15)
    assert loaded.batch.face_mask[0].tolist() == [False] * 3 + [True] * 5
    assert float(loaded.batch.mels[0].amax(dim=0)[2]) > -6


def test_impossible_start_times_are_ignored(engine):
    loader = ClipLoader(engine, limits=VideoLimits(seconds=10))
    loaded = loader.load(encode_sine_clip(FACE[:20], 2, container="matroska", codec="flac", later=500.0))
    assert loaded.seconds == pytest.approx(2, abs=0.15)
    assert loaded.batch.modalities() == [BOTH]


def test_a_duration_missing_in_the_header_is_measured(loader):
    clip = synthetic_video.encode_video(FACE, container="webm", codec="libvpx", fps=10, container_options={"live": "1"})
    with av.open(io.BytesIO(clip)) as container:
        assert container.duration is None
    loaded = loader.load(clip)
    assert loaded.seconds == pytest.approx(3, abs=0.1)
    assert loaded.batch.face_mask.all()


# Damaged files


def damaged(clip: bytes, kind: str) -> bytes:
    """Fill every packet of the audio or of the video stream with noise."""
    random, broken = np.random.default_rng(5), bytearray(clip)
    with av.open(io.BytesIO(clip)) as container:
        for packet in container.demux(**{kind: 0}):
            if packet.size and packet.pos is not None:
                broken[packet.pos : packet.pos + packet.size] = random.bytes(packet.size)
    return bytes(broken)


WHOLE = encode_sine_clip(FACE, 3, codec="flac")


def test_damaged_audio_leaves_the_video(loader):
    loaded = loader.load(damaged(WHOLE, "audio"))
    assert loaded.missing == {"audio": CORRUPT}
    assert loaded.batch.modalities() == [("video",)]


def test_damaged_video_leaves_the_audio(loader):
    loaded = loader.load(damaged(WHOLE, "video"))
    assert loaded.missing["video"] in (CORRUPT, NO_FACE)
    assert loaded.batch.modalities() == [("audio",)]


def test_an_unsupported_audio_codec_leaves_the_video(loader):
    loaded = loader.load(encode_sine_clip(FACE[:10], 1, container="matroska", codec="tta"))
    assert loaded.missing == {"audio": UNSUPPORTED}


def test_an_unsupported_video_codec_leaves_the_audio(loader):
    loaded = loader.load(encode_sine_clip(FACE[:10], 1, container="matroska", video="ffv1"))
    assert loaded.missing == {"video": UNSUPPORTED}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UnsupportedMedia),
        (b"hello, this is text", UnsupportedMedia),
        (b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n", UnsupportedMedia),
        (synthetic_image.encode_image(synthetic_frames.portrait()), UnsupportedMedia),
        (synthetic_video.encode_video(BLACK)[:300], VideoCorrupt),
        (
            synthetic_audio.encode_audio(synthetic_audio.sine(440, 1), container="ipod", codec="aac")[:2000],
            VideoCorrupt,
        ),
        (b"fLaC" + np.random.default_rng(2).bytes(4000), AudioCorrupt),
    ],
    ids=["empty", "text", "playlist", "JPEG", "truncated MP4", "truncated M4A", "noise as FLAC"],
)
def test_unreadable_files_raise_the_matching_error(loader, data, error):
    with pytest.raises(error):
        loader.load(data)


def test_limits_are_enforced_for_video_and_audio(engine):
    with pytest.raises(VideoTooLong):
        ClipLoader(engine, limits=VideoLimits(seconds=2)).load(synthetic_video.encode_video(FACE, fps=10))
    with pytest.raises(VideoTooLong):  # the audio limit is not reached
        ClipLoader(engine, limits=VideoLimits(seconds=2)).load(WHOLE)
    with pytest.raises(AudioTooLong):
        ClipLoader(engine, limits=VideoLimits(seconds=2)).load(encode_sine_clip(FACE[:15], 3))
    with pytest.raises(AudioTooLong):
        ClipLoader(engine, limits=VideoLimits(seconds=2)).load(
            synthetic_audio.encode_audio(synthetic_audio.sine(440, 3))
        )


# People


def test_only_the_main_person_is_followed(loader, engine):
    """The smaller of two heads is visible all the time, the larger one only briefly."""
    large, small = synthetic_frames.two_heads(230)[0], synthetic_frames.two_heads(170)[0]
    frames = []
    for number in range(30):
        frame = np.full((300, 560, 3), 90, np.uint8)
        frame[20 : 20 + small.shape[0], 20 : 20 + small.shape[1]] = small
        if number < 4:
            frame[40 : 40 + large.shape[0], 300 : 300 + large.shape[1]] = large
        frames.append(frame)
    batch = loader.load(synthetic_video.encode_video(frames, fps=10, options={"qp": "0"})).batch
    assert batch.face_mask.all(), "the larger one is in one of eight frames"
    last = batch.faces[0, -1].numpy().astype(int)
    assert np.abs(batch.faces[0, 0].numpy().astype(int) - last).mean() < 6


def test_a_drawn_face_is_no_face(loader):
    loaded = loader.load(encode_sine_clip([synthetic_frames.cartoon()] * 30, 3))
    assert loaded.modalities == ("audio",)
    assert (loaded.missing, loaded.faces) == ({"video": NO_FACE}, 0)


def test_an_upside_down_clip_has_the_crops_of_the_upright_one(loader):
    upright, turned = (
        loader.load(synthetic_video.encode_video(frames, fps=10, options={"qp": "0"})).batch
        for frames in (FACE, [np.ascontiguousarray(frame[::-1, ::-1]) for frame in FACE])
    )
    assert turned.face_mask.all()
    assert np.abs(upright.faces.numpy().astype(int) - turned.faces.numpy()).mean() < 2.5


def test_one_loader_serves_several_threads(loader):
    clips = [encode_sine_clip(FACE[:10], 1, hertz=300 * number) for number in (1, 2, 3)] * 2
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda clip: loader.load(clip).batch, clips))
    for first, second in zip(found[:3], found[3:], strict=True):
        np.testing.assert_array_equal(first.faces, second.faces)
        np.testing.assert_array_equal(first.mels, second.mels)
    assert [loudest_band(each.mels[0, :, :60]) for each in found[:3]] == pytest.approx([300, 600, 900], abs=40)
