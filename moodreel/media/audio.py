"""Decode the audio of a clip or an audio file to mono samples at 16 kHz, within limits.

As for video, `container` opens the file, limits count what is decoded, and duration, rate and channels of a header are
not trusted. A clip without audio is not an error: many have none.
"""

import time as clock
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from moodreel.errors import AudioCorrupt, AudioTooLong, UnsupportedMedia
from moodreel.media.container import audio_demuxer, open_container, video_demuxer

SAMPLE_RATE = 16_000
"""Samples per second of decoded audio; voices have little above 8 kHz, the highest frequency this rate can hold."""

_COMMON_CODECS = ("aac", "aac_latm", "opus", "vorbis", "mp3", "mp2", "mp1", "flac", "alac", "amr_nb", "amr_wb")
_OTHER_CODECS = ("ac3", "eac3", "dts", "speex", "wavpack", "wmav1", "wmav2", "gsm", "gsm_ms")
_ADPCM_CODECS = ("adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_yamaha")
CODECS = frozenset((*_COMMON_CODECS, *_OTHER_CODECS, *_ADPCM_CODECS))
"""FFmpeg's canonical names of the codecs that are decoded, besides PCM (`pcm_…`)."""

SAMPLE_RATE_RANGE = 4_000, 400_000
"""Accepted samples per second. A resampler's filter grows with the rate in the header: one for four billion samples per
second would take gigabytes."""
MAX_CHANNELS = 8
"""Channels of 7.1, the most for which FFmpeg has a layout to mix down."""

_MIN_GAP = 0.1
"""Seconds without a sample that count as silence, such as a muted part of a recording. Less is a rounding error or a
lost packet."""
_SILENCE = 2 / 2**15
"""Amplitude up to which audio is silent: two steps of 16 bits, what a muted microphone and a codec's rounding leave."""


@dataclass(frozen=True)
class AudioLimits:
    """Limit the cost of the audio of one file; each limit is enforced on what is decoded.

    Attributes:
        seconds: Duration in seconds.
        timeout_seconds: Wall-clock time for decoding, in seconds.
    """

    seconds: float = 60.0
    timeout_seconds: float = 30.0


@dataclass(frozen=True, eq=False)
class AudioClip:
    """Decoded audio.

    Attributes:
        samples: float32 (N,), N > 0, from -1 to 1, mono, `SAMPLE_RATE` per second.
        start: Time of the first sample in seconds by the file's own clock; 0 where it has none.
    """

    samples: np.ndarray
    start: float = 0.0

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / SAMPLE_RATE

    def slice(self, start: float, duration: float) -> np.ndarray:
        """Cut a part out; it is padded with silence where it reaches beyond the audio.

        Args:
            start: Seconds after the first sample; below 0 is before it.
            duration: Seconds.

        Returns:
            float32 (duration * SAMPLE_RATE,).
        """
        first, count = round(start * SAMPLE_RATE), round(duration * SAMPLE_RATE)
        part = self.samples[max(0, first) : max(0, first + count)]
        before = min(count, max(0, -first))
        return np.pad(part, (before, count - before - len(part)))


def decode_audio(data: bytes, limits: AudioLimits | None = None) -> AudioClip | None:
    """Decode the audio of a clip or an audio file.

    Channels are mixed to mono as a player with one loudspeaker does, never louder than the loudest channel.

    Returns:
        The audio; None where the file has none: no audio stream, an empty one, or only silence, as a muted microphone
        records.

    Raises:
        UnsupportedMedia: The first bytes are of no known format, or the codec, rate or channels are not supported.
        AudioCorrupt: There is audio, but none of it can be decoded.
        AudioTooLong: A limit was reached.
    """
    decoder = _AudioDecoder(data, limits or AudioLimits())
    samples = decoder.decode()
    return None if is_silent(samples) else AudioClip(samples, decoder.start or 0.0)


def is_silent(samples: np.ndarray) -> bool:
    """Return whether samples (N,), from -1 to 1, are only silence."""
    return not len(samples) or float(np.abs(samples).max()) <= _SILENCE


class _AudioDecoder:
    """Decode one file, once.

    Attributes:
        start: Time of the first sample in seconds by the file's clock; None where it has none.
    """

    def __init__(self, data: bytes, limits: AudioLimits) -> None:
        demuxer = audio_demuxer(data) or video_demuxer(data)
        if demuxer is None:
            raise UnsupportedMedia(
                "This holds no sound that moodreel reads. Send WAV, FLAC, OGG, MP3, M4A or AAC, or a clip."
            )
        self._data = data
        self._demuxer = demuxer
        self._limits = limits
        self._deadline = clock.monotonic() + limits.timeout_seconds
        self._chunks: list[np.ndarray] = []
        self._count = 0
        self._resampler: av.AudioResampler | None = None
        self._resampler_input: tuple[str, str, int] | None = None  # sample format, layout and rate it was made for
        self.start: float | None = None

    def decode(self) -> np.ndarray:
        """Return all samples, float32 (N,)."""
        for frame in self._frames():
            if frame.time is not None:
                if self.start is None:
                    self.start = frame.time - self._count / SAMPLE_RATE
                self._fill_gap(frame.time - self.start)
            self._resample(frame)
        self._flush()
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.float32)

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decode the main stream; a damaged packet is skipped as long as others decode."""
        decoded = damaged = 0
        try:
            with open_container(self._data, self._demuxer, self._check_deadline) as container:
                stream = _main_stream(container)
                if stream is None:
                    return
                for packet in container.demux(stream):
                    self._check_deadline()
                    try:
                        frames = packet.decode()
                    except av.error.FFmpegError:
                        damaged += 1
                        continue
                    for frame in frames:
                        decoded += 1
                        yield frame
        except av.error.FFmpegError as error:  # the container ends abruptly: the frames before still count
            if not decoded:
                _refuse_corrupt(error)
        if damaged and not decoded:
            _refuse_corrupt(None)

    def _resample(self, frame: av.AudioFrame) -> None:
        rate, channels = frame.sample_rate, frame.layout.nb_channels
        if not SAMPLE_RATE_RANGE[0] <= rate <= SAMPLE_RATE_RANGE[1] or channels > MAX_CHANNELS:
            raise UnsupportedMedia(
                f"This sound has {channels} channels of {rate} samples a second. Send it with at most {MAX_CHANNELS} "
                f"channels of {SAMPLE_RATE_RANGE[0]} to {SAMPLE_RATE_RANGE[1]}."
            )
        resampler_input = frame.format.name, frame.layout.name, rate
        if resampler_input != self._resampler_input:  # a stream may change, as a broadcast from stereo to 5.1
            self._flush()
            # Integers, not floats: FFmpeg mixes two equal channels of floats to one that is 1.4 times as loud.
            self._resampler = av.AudioResampler(format="s32p", layout="mono", rate=SAMPLE_RATE)
            self._resampler_input = resampler_input
        assert self._resampler is not None
        frame.pts = None  # `_fill_gap` handles gaps; by timestamps the resampler would stretch the audio
        try:
            self._append_frames(self._resampler.resample(frame))
        except (av.error.FFmpegError, ValueError) as error:
            _refuse_corrupt(error)

    def _flush(self) -> None:
        if self._resampler is not None:
            self._append_frames(self._resampler.resample(None))
            self._resampler = None

    def _append_frames(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._append(frame.to_ndarray()[0].astype(np.float32) / 2**31)

    def _fill_gap(self, time: float) -> None:
        """Append silence up to `time` where nothing was recorded, so that audio and video stay in sync."""
        missing = time - self._count / SAMPLE_RATE
        if missing > _MIN_GAP:
            self._check_duration(time)
            self._append(np.zeros(round(missing * SAMPLE_RATE), np.float32))

    def _append(self, samples: np.ndarray) -> None:
        self._chunks.append(samples)
        self._count += len(samples)
        self._check_duration(self._count / SAMPLE_RATE)

    def _check_duration(self, seconds: float) -> None:
        # Codecs work in blocks, so the last one may reach beyond the recording.
        if seconds > self._limits.seconds + _MIN_GAP:
            raise AudioTooLong(f"The sound runs longer than {self._limits.seconds:g} seconds. Send a shorter one.")

    def _check_deadline(self) -> None:
        if clock.monotonic() > self._deadline:
            raise AudioTooLong(
                f"Reading the sound took more than {self._limits.timeout_seconds:g} seconds. Send a shorter one."
            )


def _main_stream(container: InputContainer) -> AudioStream | None:
    """Select the stream that a player would play; None where there is none."""
    # FFmpeg selects by rate and channels, which in some formats are unknown until the stream is decoded.
    stream = container.streams.best("audio") or next(iter(container.streams.audio), None)
    if not isinstance(stream, AudioStream):
        return None
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else ""
    if codec not in CODECS and not codec.startswith("pcm_"):
        raise UnsupportedMedia("This sound's codec is not read here. Send AAC, Opus, Vorbis, MP3, FLAC or plain WAV.")
    return stream


def _refuse_corrupt(error: Exception | None) -> NoReturn:
    raise AudioCorrupt("The sound is damaged or incomplete: none of it can be decoded. Send it again.") from error
