"""Bytes of a clip or of a sound file -> its sound as models hear it: mono, 16 kHz, within limits.

Read as `video` reads pictures: `container` opens the file and nothing else, limits count what is decoded, and what a
header claims (seconds, rate, channels) is never more than a claim. A clip without sound is no error: many are.
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
"""Samples a second: voices have little above the 8 kHz that this holds."""

_RECORDED = ("aac", "aac_latm", "opus", "vorbis", "mp3", "mp2", "mp1", "flac", "alac", "amr_nb", "amr_wb")
_OTHER = ("ac3", "eac3", "dts", "speex", "wavpack", "wmav1", "wmav2", "gsm", "gsm_ms")
_ADPCM = ("adpcm_ms", "adpcm_ima_wav", "adpcm_ima_qt", "adpcm_yamaha")
CODECS = frozenset((*_RECORDED, *_OTHER, *_ADPCM))
"""Canonical FFmpeg names of the codecs that are decoded, beside plain samples (`pcm_…`)."""

SAMPLE_RATE_RANGE = 4_000, 400_000
"""Samples a second that a recording may have. A resampler's filter grows with the rate that a header claims: one for
four billion would take gigabytes."""
MAX_CHANNELS = 8
"""Of 7.1, the most that has a layout that can be mixed down."""

_LEAST_GAP = 0.1
"""Seconds without a sample that are silence: a muted stretch of a recording. Less is rounding, or a lost packet."""
_SILENCE = 2 / 2**15
"""Two steps of 16 bits: what a muted microphone and a codec's rounding leave."""


@dataclass(frozen=True)
class AudioLimits:
    """What the sound of one file may cost; each is enforced on what is decoded."""

    seconds: float = 60.0
    timeout_seconds: float = 30.0


@dataclass(frozen=True, eq=False)
class AudioClip:
    """samples: float32 (N,), N > 0, from -1 to 1, mono, `RATE` a second; the first is the file's first.
    start: when that one is to be heard, in seconds by the file's own clock; 0 where it has none.
    """

    samples: np.ndarray
    start: float = 0.0

    @property
    def duration(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    def slice(self, start: float, duration: float) -> np.ndarray:
        """Give so many seconds, float32 (seconds * RATE,), the first of them `start` seconds after the first sample, or
        before it where that is below 0. Before the sound and after it there is silence."""
        first, count = round(start * SAMPLE_RATE), round(duration * SAMPLE_RATE)
        piece = self.samples[max(0, first) : max(0, first + count)]
        before = min(count, max(0, -first))
        return np.pad(piece, (before, count - before - len(piece)))


def decode_audio(data: bytes, limits: AudioLimits | None = None) -> AudioClip | None:
    """Read the sound of a clip or of a sound file, whatever its codec, rate and channels.

    Several channels are mixed as a player with one loudspeaker mixes them, never louder than the loudest.
    Returns None where there is no sound in it: no such stream, nothing in the stream, or silence all through, which is
    what a muted microphone records.

    Raises:
        UnsupportedMedia: the first bytes are of no format in the list, or the codec, rate or channels are not read.
        AudioCorrupt: there is sound, but none of it can be decoded.
        AudioTooLong: a limit was reached.
    """
    decoder = _AudioDecoder(data, limits or AudioLimits())
    samples = decoder.decode()
    return None if is_silent(samples) else AudioClip(samples, decoder.began or 0.0)


def is_silent(samples: np.ndarray) -> bool:
    """Tell whether samples (N,) have nothing to be heard, as those of a muted microphone."""
    return not len(samples) or float(np.abs(samples).max()) <= _SILENCE


class _AudioDecoder:
    """Decodes one file, once."""

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
        self._pieces: list[np.ndarray] = []
        self._count = 0
        self._resampler: av.AudioResampler | None = None
        self._setup: tuple | None = None  # what the resampler was made for
        self.began: float | None = None  # by the file's clock; None where it has none

    def decode(self) -> np.ndarray:
        """Give all samples, float32 (N,)."""
        for frame in self._frames():
            if frame.time is not None:
                self.began = frame.time - self._count / SAMPLE_RATE if self.began is None else self.began
                self._mind_gap(frame.time - self.began)
            self._resample(frame)
        self._flush()
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.float32)

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decode the main sound; a damaged packet is passed over as long as others decode."""
        decoded = damaged = 0
        try:
            with open_container(self._data, self._demuxer, self._check_deadline) as container:
                stream = _main_sound(container)
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
        except av.error.FFmpegError as error:  # the file breaks off here: what came before still counts
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
        setup = frame.format.name, frame.layout.name, rate
        if setup != self._setup:  # a stream may change in the middle, as when a broadcast goes from stereo to 5.1
            self._flush()
            # Whole numbers, not floats: to floats FFmpeg mixes two equal channels to one that is 1.4 times as loud.
            self._resampler = av.AudioResampler(format="s32p", layout="mono", rate=SAMPLE_RATE)
            self._setup = setup
        assert self._resampler is not None
        frame.pts = None  # the gaps are minded here; the resampler would stretch and squeeze
        try:
            self._keep(self._resampler.resample(frame))
        except (av.error.FFmpegError, ValueError) as error:
            _refuse_corrupt(error)

    def _flush(self) -> None:
        if self._resampler is not None:
            self._keep(self._resampler.resample(None))
            self._resampler = None

    def _keep(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._append(frame.to_ndarray()[0].astype(np.float32) / 2**31)

    def _mind_gap(self, time: float) -> None:
        """Put silence where nothing was recorded up to `time`, so that sound and pictures stay together."""
        missing = time - self._count / SAMPLE_RATE
        if missing > _LEAST_GAP:
            self._check_seconds(time)
            self._append(np.zeros(round(missing * SAMPLE_RATE), np.float32))

    def _append(self, samples: np.ndarray) -> None:
        self._pieces.append(samples)
        self._count += len(samples)
        self._check_seconds(self._count / SAMPLE_RATE)

    def _check_seconds(self, seconds: float) -> None:
        # A codec works in blocks, so that its last may reach a little further than what was recorded.
        if seconds > self._limits.seconds + _LEAST_GAP:
            raise AudioTooLong(f"The sound runs longer than {self._limits.seconds:g} seconds. Send a shorter one.")

    def _check_deadline(self) -> None:
        if clock.monotonic() > self._deadline:
            raise AudioTooLong(
                f"Reading the sound took more than {self._limits.timeout_seconds:g} seconds. Send a shorter one."
            )


def _main_sound(container: InputContainer) -> AudioStream | None:
    """Pick the sound that a player would play; None where there is none."""
    # What is best goes by rate and channels, which some formats first tell while they are decoded.
    stream = container.streams.best("audio") or next(iter(container.streams.audio), None)
    if not isinstance(stream, AudioStream):
        return None
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else ""
    if codec not in CODECS and not codec.startswith("pcm_"):
        raise UnsupportedMedia("This sound's codec is not read here. Send AAC, Opus, Vorbis, MP3, FLAC or plain WAV.")
    return stream


def _refuse_corrupt(error: Exception | None) -> NoReturn:
    raise AudioCorrupt("The sound is damaged or incomplete: none of it can be decoded. Send it again.") from error
