"""Test audio decoding: formats, resampling, gaps, limits and damaged files."""

import io
import struct

import av
import numpy as np
import pytest

from moodreel.errors import AudioCorrupt, AudioTooLong, UnsupportedMedia
from moodreel.media import audio
from moodreel.media.audio import SAMPLE_RATE, AudioClip
from moodreel.media.video_decoder import VideoLimits
from moodreel.pipelines import clip_sampler
from tests.support import synthetic_audio, synthetic_frames, synthetic_image, synthetic_video

FORMATS = [
    ("wav", "pcm_s16le", 48_000, "stereo"),
    ("wav", "pcm_u8", 8_000, "mono"),
    ("wav", "pcm_f32le", 44_100, "5.1"),
    ("wav", "pcm_mulaw", 8_000, "mono"),
    ("wav", "adpcm_ms", 22_050, "mono"),
    ("flac", "flac", 96_000, "stereo"),
    ("ogg", "libopus", 48_000, "stereo"),
    ("ogg", "flac", 44_100, "mono"),
    ("mp3", "libmp3lame", 44_100, "stereo"),
    ("adts", "aac", 44_100, "stereo"),
    ("ipod", "aac", 48_000, "mono"),
    ("mov", "alac", 44_100, "stereo"),
    ("mov", "pcm_s24le", 96_000, "stereo"),
    ("webm", "libopus", 48_000, "mono"),
    ("matroska", "ac3", 48_000, "5.1"),
    ("avi", "mp2", 44_100, "stereo"),
    ("3gp", "libopencore_amrnb", 8_000, "mono"),
]


def dominant_frequency(samples: np.ndarray) -> float:
    """Return the frequency with the largest magnitude, in Hz."""
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * SAMPLE_RATE / len(samples))


@pytest.mark.parametrize(("container", "codec", "rate", "layout"), FORMATS)
def test_every_format_decodes_to_the_same_wave(container, codec, rate, layout):
    wave = synthetic_audio.sine(440, 2, rate=rate)
    decoded = audio.decode_audio(
        synthetic_audio.encode_audio(wave, rate=rate, container=container, codec=codec, layout=layout)
    )
    assert decoded.samples.dtype == np.float32
    assert decoded.duration == pytest.approx(2, abs=0.08)
    assert dominant_frequency(decoded.samples) == pytest.approx(440, abs=2)
    middle = decoded.samples[SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]
    like = 0.2 if "amr" in codec else 0.12  # AMR is for voices: it hardly keeps a sine's strength
    assert np.sqrt(2) * middle.std() == pytest.approx(0.4, rel=like), "several channels are no louder than one"


def test_pcm_samples_are_unchanged():
    wave = synthetic_audio.sine(1000, 1)
    np.testing.assert_allclose(audio.decode_audio(synthetic_audio.encode_audio(wave)).samples, wave, atol=1 / 2**14)


def test_signal_in_one_of_two_channels_has_half_the_amplitude():
    wave = np.stack([synthetic_audio.sine(440, 1), np.zeros(SAMPLE_RATE, np.float32)])
    assert np.abs(
        audio.decode_audio(synthetic_audio.encode_audio(wave, layout="stereo")).samples
    ).max() == pytest.approx(0.2, abs=0.01)


def test_frequencies_above_8_khz_are_removed_without_aliasing():
    assert (
        audio.decode_audio(synthetic_audio.encode_audio(synthetic_audio.sine(440, 1, rate=48_000) * 0, rate=48_000))
        is None
    )
    high = audio.decode_audio(synthetic_audio.encode_audio(synthetic_audio.sine(12_000, 1, rate=48_000), rate=48_000))
    assert high is None or np.abs(high.samples[1000:-1000]).max() < 0.001


def test_audio_of_a_video_file_is_decoded():
    decoded = audio.decode_audio(
        synthetic_audio.encode_clip(synthetic_frames.counter_frames(20), synthetic_audio.sine(500, 2, rate=48_000))
    )
    assert decoded.duration == pytest.approx(2, abs=0.08)
    assert dominant_frequency(decoded.samples) == pytest.approx(500, abs=2)


EMPTY_WAV = struct.pack(
    "<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", 0
)
NO_AUDIO = {
    "a clip without sound": synthetic_audio.SILENT_CLIP,
    "a GIF": synthetic_video.encode_video(
        synthetic_frames.counter_frames(2), container="gif", codec="gif", pix_fmt="rgb8"
    ),
    "a muted microphone": synthetic_audio.encode_audio(np.zeros(SAMPLE_RATE, np.float32)),
    "a muted microphone in AAC": synthetic_audio.encode_audio(
        np.zeros(SAMPLE_RATE, np.float32), container="ipod", codec="aac"
    ),
    "a WAV of no samples": EMPTY_WAV,
}


@pytest.mark.parametrize("data", NO_AUDIO.values(), ids=NO_AUDIO.keys())
def test_file_without_audio_is_no_error(data):
    assert audio.decode_audio(data) is None


def test_gap_is_filled_with_silence_of_its_length():
    data = synthetic_audio.encode_audio(
        synthetic_audio.sine(440, 2), container="matroska", codec="flac", pauses={1.0: 0.5}
    )
    decoded = audio.decode_audio(data)
    assert decoded.duration == pytest.approx(2.5, abs=0.15)
    assert np.abs(decoded.samples[int(1.15 * SAMPLE_RATE) : int(1.4 * SAMPLE_RATE)]).max() < 0.001
    assert np.abs(decoded.samples[int(1.7 * SAMPLE_RATE) :]).max() > 0.3


NINE = synthetic_audio.encode_audio(
    synthetic_audio.sine(440, 1)
)  # its header gets another number of channels, and of bytes of a sample of all
UNSUPPORTED = {
    "nothing": b"",
    "text": b"hello, this is my diary",
    "a playlist": b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n",
    "a concat script": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "a JPEG": synthetic_image.encode_image(synthetic_frames.portrait()),
    "nine channels": NINE[:22] + struct.pack("<H", 9) + NINE[24:32] + struct.pack("<H", 18) + NINE[34:],
}


@pytest.mark.parametrize("data", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_unsupported_format_is_refused(data):
    with pytest.raises(UnsupportedMedia):
        audio.decode_audio(data)


WAV = synthetic_audio.encode_audio(synthetic_audio.sine(440, 1))


@pytest.mark.parametrize("rate", [0, 1, 100, 4_000_000, 2**32 - 1])
def test_implausible_sample_rate_is_refused(rate):
    data = bytearray(WAV)
    data[24:28] = struct.pack("<I", rate)
    with pytest.raises((UnsupportedMedia, AudioCorrupt, AudioTooLong)):
        audio.decode_audio(bytes(data))


DAMAGED = {
    "an M4A without its index": synthetic_audio.encode_audio(
        synthetic_audio.sine(440, 1), container="ipod", codec="aac"
    )[:2000],
    "an MP3's tag alone": synthetic_audio.encode_audio(
        synthetic_audio.sine(440, 1), container="mp3", codec="libmp3lame"
    )[:30],
    "noise that calls itself MP3": b"\xff\xfb" + np.random.default_rng(1).bytes(4000),
    "noise that calls itself FLAC": b"fLaC" + np.random.default_rng(2).bytes(4000),
    "noise that calls itself Ogg": b"OggS" + np.random.default_rng(3).bytes(4000),
    "noise that calls itself AAC": b"\xff\xf1" + np.random.default_rng(4).bytes(4000),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file_gives_a_named_error_or_audio(data):
    try:
        decoded = audio.decode_audio(data, VideoLimits(seconds=5))
    except (AudioCorrupt, AudioTooLong, UnsupportedMedia):
        return
    assert decoded is None or np.isfinite(decoded.samples).all()


def test_truncated_recording_gives_its_first_part():
    data = synthetic_audio.encode_audio(synthetic_audio.sine(440, 4), container="mp3", codec="libmp3lame")
    assert audio.decode_audio(data[: len(data) // 2]).duration == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("limits", [VideoLimits(seconds=0.5), VideoLimits(timeout_seconds=0.0)])
def test_limits_are_enforced_on_decoded_audio(limits):
    with pytest.raises(AudioTooLong):
        audio.decode_audio(WAV, limits)


def test_gap_counts_towards_the_duration_limit():
    data = synthetic_audio.encode_audio(
        synthetic_audio.sine(440, 2), container="matroska", codec="flac", pauses={1.0: 10.0}
    )
    assert audio.decode_audio(data, VideoLimits(seconds=12)).duration == pytest.approx(12, abs=0.1)
    with pytest.raises(AudioTooLong):
        audio.decode_audio(data, VideoLimits(seconds=10))


def test_gap_that_no_recording_has_is_closed():
    data = synthetic_audio.encode_audio(
        synthetic_audio.sine(440, 2), container="matroska", codec="flac", pauses={1.0: 1000.0}
    )
    decoded = audio.decode_audio(data)
    assert decoded.duration == pytest.approx(2, abs=0.1)
    assert np.abs(decoded.samples.reshape(-1, 400)).max(axis=1).min() > 0.3


def clip_of_tracks(*tracks: tuple[str, float], enabled: int) -> bytes:
    """Encode a second of a sine wave of some frequency by some codec as each of the audio tracks of an MP4."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        streams = [output.add_stream(codec, rate=48_000, layout="mono") for codec, _ in tracks]
        for index, (stream, (_, hertz)) in enumerate(zip(streams, tracks, strict=True)):
            stream.disposition = av.stream.Disposition.default if index == enabled else av.stream.Disposition(0)
            wave = synthetic_audio.sine(hertz, 1, rate=48_000)[None]
            output.mux(synthetic_audio.encode_packets(stream, wave, 48_000, {}))
    return file.getvalue()


@pytest.mark.parametrize("enabled", [0, 1])
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
@pytest.mark.parametrize("fault", ["unknown codec", "silence", "noise"])
def test_track_that_can_be_decoded_is_taken(fault, first, enabled):
    other = "alac" if fault != "noise" else "flac"
    tracks = [("aac", 440.0), (other, 0.0 if fault == "silence" else 880.0)]
    data = clip_of_tracks(*(tracks if first else tracks[::-1]), enabled=enabled)
    if fault == "unknown codec":
        data = data.replace(b"alac", b"apac")  # Apple's positional audio, which FFmpeg does not know
    elif fault == "noise":
        with av.open(io.BytesIO(data)) as container:
            spans = [(packet.pos, packet.size) for packet in container.demux(audio=first) if packet.size]
        broken, random = bytearray(data), np.random.default_rng(5)
        for position, size in spans:
            broken[position : position + size] = random.bytes(size)
        data = bytes(broken)
    decoded = audio.decode_audio(data)
    assert decoded.duration == pytest.approx(1, abs=0.1)
    assert dominant_frequency(decoded.samples) == pytest.approx(440, abs=3)


def test_only_a_track_of_an_unknown_codec_is_unsupported():
    data = clip_of_tracks(("alac", 440.0), ("alac", 880.0), enabled=0).replace(b"alac", b"apac")
    with pytest.raises(UnsupportedMedia):
        audio.decode_audio(data)


def test_invalid_float_samples_are_clipped():
    wave = synthetic_audio.sine(440, 1)
    wave[100], wave[200], wave[300] = np.nan, np.inf, -1e30
    decoded = audio.decode_audio(synthetic_audio.encode_audio(wave, codec="pcm_f32le"))
    assert np.isfinite(decoded.samples).all()
    assert np.abs(decoded.samples).max() <= 1


def test_slice_is_padded_with_silence():
    part = AudioClip(np.ones(SAMPLE_RATE, np.float32)).slice(0.5, 3)
    assert part.shape == (3 * SAMPLE_RATE,)
    assert part[: SAMPLE_RATE // 2].all()
    assert not part[SAMPLE_RATE // 2 :].any()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, [0]),
        (3.0, [0]),
        (3.2, [0.1]),
        (4.0, [0, 1]),
        (6.0, [0, 3]),
        (9.0, [0, 3, 6]),
        (10.0, [0, 7 / 3, 14 / 3, 7]),
        (60.0, [0, 14.25, 28.5, 42.75, 57]),
    ],
)
def test_windows_cover_the_clip_from_start_to_end(seconds, expected):
    assert clip_sampler.window_starts(seconds) == pytest.approx(expected)


def test_frames_are_sampled_in_the_middle_of_eight_segments():
    assert clip_sampler.frame_times(3, 6) == pytest.approx(3 + 3 * (np.arange(8) + 0.5) / 8)
    assert clip_sampler.frame_times(0, 0.8) == pytest.approx(0.1 * np.arange(8) + 0.05)
