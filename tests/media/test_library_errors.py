"""Whatever a library raises while it decodes ends as one of moodreel's errors."""

import inspect
import io

import av
import av.error
import pytest
from av.sidedata import sidedata
from PIL import Image

from moodreel.errors import (
    AudioCorrupt,
    AudioTooLong,
    ImageCorrupt,
    ImageTooBig,
    MoodreelError,
    VideoCorrupt,
    VideoTooBig,
)
from moodreel.media import audio, container, frame_conversion, image, video, video_decoder
from moodreel.media.video import VideoReader
from tests.support import synthetic_audio, synthetic_frames, synthetic_image

BUILT_IN = [
    ArithmeticError("message"),
    AssertionError("message"),
    AttributeError("message"),
    EOFError("message"),
    IndexError("message"),
    KeyError("message"),
    MemoryError("message"),
    NotImplementedError("message"),
    OSError(22, "message"),
    OverflowError("message"),
    RecursionError("message"),
    RuntimeError("message"),
    SystemError("message"),
    TypeError("message"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "message"),
    ValueError("29 is not a valid Type"),
    ZeroDivisionError("message"),
]
OF_PYAV = [
    error(1, "message")
    for name, error in inspect.getmembers(av.error, inspect.isclass)
    if issubclass(error, av.error.FFmpegError) and error.__name__ == name and not name.startswith("HTTP")
]
ERRORS = [*BUILT_IN, *OF_PYAV]
CLIP = synthetic_audio.encode_clip(synthetic_frames.corner_frames(5), synthetic_audio.sine(440, 1, rate=48_000))


def raising(error: Exception):
    def function(*args, **options):
        raise error

    return function


class FaultyPacket:
    """Stands for a packet that cannot be decoded."""

    def __init__(self, packet, error: Exception) -> None:
        self._packet, self.decode = packet, raising(error)

    def __getattr__(self, name):
        return getattr(self._packet, name)


class FaultyContainer:
    """Stands for a container that raises at a step: "demux", "later" (after three packets), "decode" or "seek"."""

    def __init__(self, opened, step: str, error: Exception) -> None:
        self._opened, self._step, self._error = opened, step, error
        if step == "seek":
            self.seek = raising(error)

    def __getattr__(self, name):
        return getattr(self._opened, name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self._opened.close()

    def demux(self, stream):
        for number, packet in enumerate(self._opened.demux(stream)):
            if self._step == "demux" or (self._step == "later" and number == 3):
                raise self._error
            yield FaultyPacket(packet, self._error) if self._step == "decode" else packet


def break_container(monkeypatch, step: str, error: Exception) -> None:
    open_file = container.MediaFile.open
    monkeypatch.setattr(container.MediaFile, "open", lambda file: FaultyContainer(open_file(file), step, error))


def check(raised, error: Exception, too_big: type[MoodreelError]) -> None:
    """Check the type of an error, and that the library's message is for the log only."""
    assert isinstance(raised.value, too_big) == (type(error) is MemoryError)
    assert "message" not in str(raised.value)


@pytest.fixture(params=ERRORS, ids=lambda error: type(error).__name__)
def error(request) -> Exception:
    return request.param


@pytest.mark.parametrize(
    "step",
    [
        (container.av, "open"),
        (video_decoder, "_main_stream"),
        (video_decoder.VideoDecoder, "_start"),
        (video_decoder, "correct_timestamps"),
        (video, "display_matrix"),
        (frame_conversion.FrameConverter, "to_rgb"),
    ],
    ids=lambda step: step[1],
)
def test_video_that_a_library_cannot_read(step, error, monkeypatch) -> None:
    monkeypatch.setattr(*step, raising(error))
    for read in (VideoReader(CLIP).frames(), VideoReader(CLIP).frames_at([0.0])):
        with pytest.raises((VideoCorrupt, VideoTooBig)) as raised:
            list(read)
        check(raised, error, VideoTooBig)
        assert raised.value.__cause__ is error


@pytest.mark.parametrize("step", ["demux", "decode"])
def test_video_without_a_packet_that_can_be_decoded(step, error, monkeypatch) -> None:
    break_container(monkeypatch, step, error)
    with pytest.raises((VideoCorrupt, VideoTooBig)) as raised:
        list(VideoReader(CLIP).frames())
    check(raised, error, VideoTooBig)


def test_video_that_ends_abruptly_keeps_the_frames_before(error, monkeypatch) -> None:
    break_container(monkeypatch, "later", error)
    assert len(list(VideoReader(CLIP).frames())) == 3


def test_span_of_a_video_that_cannot_be_opened(error, monkeypatch) -> None:
    monkeypatch.setattr(container.av, "open", raising(error))
    with pytest.raises((VideoCorrupt, VideoTooBig)) as raised:
        VideoReader(CLIP).probe_span()
    check(raised, error, VideoTooBig)


def test_seeking_that_fails(error, monkeypatch) -> None:
    reader = VideoReader(CLIP)
    assert len(list(reader.frames())) == 5
    break_container(monkeypatch, "seek", error)
    with pytest.raises((VideoCorrupt, VideoTooBig)) as raised:
        list(reader.loop_frames(start=0.2, stop=1.0, min_interval=0, max_side=64))
    check(raised, error, VideoTooBig)


@pytest.mark.parametrize("step", ["open", "demux", "decode", "resample"])
def test_audio_that_a_library_cannot_read(step, error, monkeypatch) -> None:
    if step == "open":
        monkeypatch.setattr(container.av, "open", raising(error))
    elif step == "resample":
        monkeypatch.setattr(audio.av, "AudioResampler", raising(error))
    else:
        break_container(monkeypatch, step, error)
    with pytest.raises((AudioCorrupt, AudioTooLong)) as raised:
        audio.decode_audio(CLIP)
    check(raised, error, AudioTooLong)


@pytest.mark.parametrize("error", BUILT_IN, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", [(Image, "open"), (image, "_decode")], ids=lambda step: step[1])
def test_image_that_a_library_cannot_read(step, error, monkeypatch) -> None:
    monkeypatch.setattr(*step, raising(error))
    with pytest.raises((ImageCorrupt, ImageTooBig)) as raised:
        image.decode_image(synthetic_image.encode_image(synthetic_frames.portrait()))
    check(raised, error, ImageTooBig)


def test_side_data_without_a_name_is_ignored() -> None:
    """FFmpeg has more types of side data than PyAV: MV-HEVC's view, EXIF of MJPEG."""
    assert isinstance(sidedata.Type(10_000), sidedata.Type)
    file = io.BytesIO()
    Image.fromarray(synthetic_frames.corner_frames(1)[0]).save(file, "JPEG", exif=synthetic_image.exif(6))
    clip = io.BytesIO()
    with av.open(clip, "w", format="matroska") as output:
        packet = av.Packet(file.getvalue())
        packet.stream = output.add_mux_stream("mjpeg", rate=25, width=64, height=48)
        packet.pts = packet.dts = 0
        output.mux(packet)
    with av.open(io.BytesIO(clip.getvalue())) as opened:
        [frame] = opened.decode(video=0)
        kinds = [type(data).__name__ for data in frame.side_data]
    assert len(kinds) >= 1
    [read] = VideoReader(clip.getvalue()).frames()
    assert read.rgb.shape in ((64, 48, 3), (48, 64, 3))
