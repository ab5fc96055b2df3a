"""Sound of any container, codec, rate and channels comes out as one wave of 16 kHz, within limits."""

import struct

import numpy as np
import pytest

from moodreel.errors import AudioCorrupt, AudioTooLong, UnsupportedMedia
from moodreel.media import audio
from moodreel.media.audio import SAMPLE_RATE, AudioClip, AudioLimits
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


def loudest(samples: np.ndarray) -> float:
    """The frequency that is loudest, in hertz."""
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * SAMPLE_RATE / len(samples))


@pytest.mark.parametrize(("container", "codec", "rate", "layout"), FORMATS)
def test_every_container_codec_rate_and_layout_gives_the_same_wave(container, codec, rate, layout):
    wave = synthetic_audio.sine(440, 2, rate=rate)
    heard = audio.decode_audio(
        synthetic_audio.encode_audio(wave, rate=rate, container=container, codec=codec, layout=layout)
    )
    assert heard.samples.dtype == np.float32
    assert heard.duration == pytest.approx(2, abs=0.08)
    assert loudest(heard.samples) == pytest.approx(440, abs=2)
    middle = heard.samples[SAMPLE_RATE // 2 : -SAMPLE_RATE // 2]
    like = 0.2 if "amr" in codec else 0.12  # AMR is for voices: it hardly keeps a sine's strength
    assert np.sqrt(2) * middle.std() == pytest.approx(0.4, rel=like), "several channels are no louder than one"


def test_plain_samples_come_out_as_they_went_in():
    wave = synthetic_audio.sine(1000, 1)
    np.testing.assert_allclose(audio.decode_audio(synthetic_audio.encode_audio(wave)).samples, wave, atol=1 / 2**14)


def test_a_sound_of_one_channel_of_two_is_heard_at_half_its_strength():
    wave = np.stack([synthetic_audio.sine(440, 1), np.zeros(SAMPLE_RATE, np.float32)])
    assert np.abs(
        audio.decode_audio(synthetic_audio.encode_audio(wave, layout="stereo")).samples
    ).max() == pytest.approx(0.2, abs=0.01)


def test_what_16_khz_cannot_hold_is_left_out_and_not_folded_down():
    assert (
        audio.decode_audio(synthetic_audio.encode_audio(synthetic_audio.sine(440, 1, rate=48_000) * 0, rate=48_000))
        is None
    )
    high = audio.decode_audio(synthetic_audio.encode_audio(synthetic_audio.sine(12_000, 1, rate=48_000), rate=48_000))
    assert high is None or np.abs(high.samples[1000:-1000]).max() < 0.001


def test_the_sound_of_a_clip_is_read_from_the_same_file_as_its_pictures():
    heard = audio.decode_audio(
        synthetic_audio.encode_clip(synthetic_frames.counter_frames(20), synthetic_audio.sine(500, 2, rate=48_000))
    )
    assert heard.duration == pytest.approx(2, abs=0.08)
    assert loudest(heard.samples) == pytest.approx(500, abs=2)


EMPTY_WAV = struct.pack(
    "<4sI4s4sIHHIIHH4sI", b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16, b"data", 0
)
NO_SOUND = {
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


@pytest.mark.parametrize("data", NO_SOUND.values(), ids=NO_SOUND.keys())
def test_no_sound_is_no_error(data):
    assert audio.decode_audio(data) is None


def test_a_muted_stretch_is_silence_of_its_length_so_that_pictures_and_sound_stay_together():
    data = synthetic_audio.encode_audio(
        synthetic_audio.sine(440, 2), container="matroska", codec="flac", pauses={1.0: 0.5}
    )
    heard = audio.decode_audio(data)
    assert heard.duration == pytest.approx(2.5, abs=0.15)
    assert np.abs(heard.samples[int(1.15 * SAMPLE_RATE) : int(1.4 * SAMPLE_RATE)]).max() < 0.001
    assert np.abs(heard.samples[int(1.7 * SAMPLE_RATE) :]).max() > 0.3


NINE = synthetic_audio.encode_audio(
    synthetic_audio.sine(440, 1)
)  # its header gets another number of channels, and of bytes of a sample of all
NOT_READ = {
    "nothing": b"",
    "text": b"hello, this is my diary",
    "a playlist": b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n",
    "a concat script": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "a picture": synthetic_image.encode_image(synthetic_frames.portrait()),
    "nine channels": NINE[:22] + struct.pack("<H", 9) + NINE[24:32] + struct.pack("<H", 18) + NINE[34:],
}


@pytest.mark.parametrize("data", NOT_READ.values(), ids=NOT_READ.keys())
def test_what_is_no_sound_read_here_is_refused_as_such(data):
    with pytest.raises(UnsupportedMedia):
        audio.decode_audio(data)


WAV = synthetic_audio.encode_audio(synthetic_audio.sine(440, 1))


@pytest.mark.parametrize("rate", [0, 1, 100, 4_000_000, 2**32 - 1])
def test_a_header_with_a_rate_that_nothing_records_costs_nothing(rate):
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
def test_what_is_broken_ends_in_an_error_of_ours_or_in_what_could_be_heard(data):
    try:
        heard = audio.decode_audio(data, AudioLimits(seconds=5))
    except (AudioCorrupt, AudioTooLong, UnsupportedMedia):
        return
    assert heard is None or np.isfinite(heard.samples).all()


def test_a_recording_that_was_cut_off_gives_what_it_holds():
    data = synthetic_audio.encode_audio(synthetic_audio.sine(440, 4), container="mp3", codec="libmp3lame")
    assert audio.decode_audio(data[: len(data) // 2]).duration == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("limits", [AudioLimits(seconds=0.5), AudioLimits(timeout_seconds=0.0)])
def test_limits_hold_for_what_is_decoded(limits):
    with pytest.raises(AudioTooLong):
        audio.decode_audio(WAV, limits)


def test_a_pause_counts_as_the_seconds_that_it_lasts():
    data = synthetic_audio.encode_audio(
        synthetic_audio.sine(440, 2), container="matroska", codec="flac", pauses={1.0: 1000.0}
    )
    with pytest.raises(AudioTooLong):
        audio.decode_audio(data)


def test_samples_that_are_no_numbers_stay_within_bounds():
    wave = synthetic_audio.sine(440, 1)
    wave[100], wave[200], wave[300] = np.nan, np.inf, -1e30
    heard = audio.decode_audio(synthetic_audio.encode_audio(wave, codec="pcm_f32le"))
    assert np.isfinite(heard.samples).all()
    assert np.abs(heard.samples).max() <= 1


# Windows


def test_an_excerpt_has_the_length_asked_for_and_silence_past_the_end():
    piece = AudioClip(np.ones(SAMPLE_RATE, np.float32)).slice(0.5, 3)
    assert piece.shape == (3 * SAMPLE_RATE,)
    assert piece[: SAMPLE_RATE // 2].all()
    assert not piece[SAMPLE_RATE // 2 :].any()


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
def test_windows_lie_side_by_side_from_the_start_to_the_end(seconds, expected):
    assert clip_sampler.window_starts(seconds) == pytest.approx(expected)


def test_pictures_are_taken_in_the_middle_of_eight_shares_of_what_there_is():
    assert clip_sampler.frame_times(3, 6) == pytest.approx(3 + 3 * (np.arange(8) + 0.5) / 8)
    assert clip_sampler.frame_times(0, 0.8) == pytest.approx(0.1 * np.arange(8) + 0.05)
