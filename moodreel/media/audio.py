"""Decode the audio of a clip or an audio file to mono samples at 16 kHz, within limits.

As for video, `container` opens the file, and limits are enforced on what is decoded: the duration, rate and channels of
a header are not trusted. A clip without audio is not an error: many have none.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from moodreel.errors import AudioCorrupt, AudioTooLong, MoodreelError, UnsupportedMedia
from moodreel.media.container import MediaFile, audio_demuxer, typed_errors, video_demuxer
from moodreel.media.timestamps import MAX_GAP
from moodreel.media.video_decoder import VideoLimits

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
"""Gap between samples, in seconds, that is filled with silence, as in a muted part of a recording. A shorter one is a
rounding error or a lost packet."""
_SILENCE = 2 / 2**15
"""Amplitude up to which audio is silent: two steps of 16-bit samples, the noise of a muted microphone and a codec."""
_BLOCK = SAMPLE_RATE // 50
"""Samples of a block of 20 ms; each block is silent or audible."""
_MIN_AUDIBLE_BLOCKS = 5
"""Audible blocks, 0.1 s in all, that make audio not silent. No syllable is shorter; a click is, and so is the artifact
that a codec makes where a DC offset begins or ends."""


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


def decode_audio(data: bytes, limits: VideoLimits | None = None) -> AudioClip | None:
    """Decode the audio of a clip or an audio file.

    Channels are mixed to mono as a player with one loudspeaker does, never louder than the loudest channel. Of several
    tracks the best one that can be decoded and is not silent is taken, whatever flags another has: phones record a
    second one for their own players.

    Returns:
        The audio; None where the file has none: no audio stream, an empty one, or one of which `is_silent` holds, as
        a muted microphone records.

    Raises:
        UnsupportedMedia: The first bytes are of no known format, or the codec, rate or channels are not supported.
        AudioCorrupt: There is audio, but none of it can be decoded.
        AudioTooLong: A limit was reached.
    """
    with audio_errors():
        limits = limits or VideoLimits()
        return _decode_best_track(open_file(data, limits), limits.seconds)


def audio_errors() -> AbstractContextManager[None]:
    """Raise AudioCorrupt or AudioTooLong during a `with` block for what a library raises; see `typed_errors`."""
    return typed_errors(
        _audio_corrupt(), AudioTooLong("The sound needs more memory than there is. Send a shorter one.")
    )


def is_silent(samples: np.ndarray) -> bool:
    """Return whether samples (N,), from -1 to 1, hold only silence or a DC offset, or too little sound for a voice."""
    blocks = samples[: len(samples) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    audible = np.ptp(blocks, axis=1) > 2 * _SILENCE
    return int(audible.sum()) < _MIN_AUDIBLE_BLOCKS


def open_file(data: bytes, limits: VideoLimits) -> MediaFile:
    """Prepare to read the audio of a file; the timeout starts here.

    Raises:
        UnsupportedMedia: The first bytes are of no known format.
    """
    demuxer = audio_demuxer(data) or video_demuxer(data)
    if demuxer is None:
        raise UnsupportedMedia(
            "This file has no sound that moodreel can read. Send WAV, FLAC, OGG, MP3, M4A or AAC, or a clip."
        )
    too_slow = AudioTooLong(f"Reading the sound took more than {limits.timeout_seconds:g} seconds. Send a shorter one.")
    return MediaFile(data, demuxer, limits.timeout_seconds, too_slow)


def _decode_best_track(file: MediaFile, max_seconds: float) -> AudioClip | None:
    with file.open() as container:
        tracks = _tracks_by_quality(container)
    first_error: MoodreelError | None = None
    for track in tracks:
        decoder = _TrackDecoder(file, track, max_seconds)
        try:
            samples = decoder.decode()
        except (UnsupportedMedia, AudioCorrupt) as error:
            first_error = first_error or error
            continue
        if not is_silent(samples):
            return AudioClip(samples, decoder.start or 0.0)
    if first_error:
        raise first_error
    return None


class _TrackDecoder:
    """Decode one track of a file, once.

    Attributes:
        start: Time of the first sample in seconds by the file's clock; None where it has none.
    """

    def __init__(self, file: MediaFile, track: int, max_seconds: float) -> None:
        self._file = file
        self._track = track
        self._max_seconds = max_seconds
        self._chunks: list[np.ndarray] = []
        self._count = 0
        self._resampler: av.AudioResampler | None = None
        self._resampler_input: tuple[str, str, int] | None = None  # sample format, layout and rate it was made for
        self._skipped = 0.0  # seconds of gaps that are faults of the timestamps
        self.start: float | None = None

    def decode(self) -> np.ndarray:
        """Return all samples, float32 (N,)."""
        for frame in self._frames():
            if frame.time is not None:
                if self.start is None:
                    self.start = frame.time - self._count / SAMPLE_RATE
                self._fill_gap(frame.time)
            self._resample(frame)
        self._flush()
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.float32)

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decode the track; a damaged packet is skipped as long as others decode."""
        decoded = damaged = 0
        with self._file.open() as container:
            stream = container.streams[self._track]
            assert isinstance(stream, AudioStream)
            _check_codec(stream)
            packets = container.demux(stream)
            while True:
                self._file.check_deadline()
                try:
                    packet = next(packets, None)
                    if packet is None:
                        break
                    frames = packet.decode()
                except MoodreelError:
                    raise
                except Exception as error:
                    if type(error) is MemoryError:
                        raise
                    # Whatever FFmpeg or PyAV raises. An abrupt end of the file ends the loop at the next turn.
                    damaged += 1
                    continue
                for frame in frames:
                    decoded += 1
                    yield frame
        if damaged and not decoded:
            raise _audio_corrupt()

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
        self._append_frames(self._resampler.resample(frame))

    def _flush(self) -> None:
        if self._resampler is not None:
            self._append_frames(self._resampler.resample(None))
            self._resampler = None

    def _append_frames(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._append(frame.to_ndarray()[0].astype(np.float32) / 2**31)

    def _fill_gap(self, time: float) -> None:
        """Append silence up to a container time where nothing was recorded, so that audio and video stay in sync."""
        assert self.start is not None
        missing = time - self.start - self._skipped - self._count / SAMPLE_RATE
        if missing > MAX_GAP and not self._file.fills_gap("video", time - missing, time):
            self._skipped += missing
        elif missing > _MIN_GAP:
            self._check_duration(self._count / SAMPLE_RATE + missing)
            self._append(np.zeros(round(missing * SAMPLE_RATE), np.float32))

    def _append(self, samples: np.ndarray) -> None:
        self._chunks.append(samples)
        self._count += len(samples)
        self._check_duration(self._count / SAMPLE_RATE)

    def _check_duration(self, seconds: float) -> None:
        # Codecs work in blocks, so the last one may reach beyond the recording.
        if seconds > self._max_seconds + _MIN_GAP:
            raise AudioTooLong(f"The sound runs longer than {self._max_seconds:g} seconds. Send a shorter one.")


def _tracks_by_quality(container: InputContainer) -> list[int]:
    """Return the indices of the audio streams, first the one that a player would play, last those of unknown codecs."""
    # FFmpeg selects by flags, rate and channels, which in some formats are unknown until the stream is decoded.
    best = container.streams.best("audio")

    def quality(stream: AudioStream) -> tuple[bool, bool, int]:
        return _is_supported(stream), stream is best, stream.codec_context.bit_rate or 0 if stream.codec_context else 0

    return [stream.index for stream in sorted(container.streams.audio, key=quality, reverse=True)]


def _is_supported(stream: AudioStream) -> bool:
    codec = stream.codec_context.codec.canonical_name if stream.codec_context else ""
    return codec in CODECS or codec.startswith("pcm_")


def _check_codec(stream: AudioStream) -> None:
    if not _is_supported(stream):
        raise UnsupportedMedia("This sound's codec is not supported. Send AAC, Opus, Vorbis, MP3, FLAC or plain WAV.")


def _audio_corrupt() -> AudioCorrupt:
    return AudioCorrupt("The sound is damaged or incomplete: none of it can be decoded. Send it again.")
