"""Decode the main video stream of a file in memory, within limits.

Durations, frame counts and sizes of a header are not trusted: limits count what is decoded.
"""

import math
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import NamedTuple, NoReturn, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from moodreel.errors import (
    NoVideoStream,
    UnsupportedMedia,
    VideoCorrupt,
    VideoTooBig,
    VideoTooLong,
)
from moodreel.media.container import MediaFile, typed_errors, video_demuxer
from moodreel.media.crop import Cropper, find_crop
from moodreel.media.timestamps import FrameTimes, correct_timestamps

CODECS = {
    "h264": "H.264",
    "hevc": "HEVC",
    "vp8": "VP8",
    "vp9": "VP9",
    "av1": "AV1",
    "mpeg4": "MPEG-4",
    "h263": "H.263",
    "mjpeg": "MJPEG",
    "gif": "GIF",
    "mpeg1video": "MPEG-1",
    "mpeg2video": "MPEG-2",
    "msmpeg4v3": "MS-MPEG-4 v3",
    "prores": "ProRes",
    "dvvideo": "DV",
}
"""The codecs that are decoded, by FFmpeg's canonical name; a test decodes each, and docs/app.md lists them. All others
are refused, to keep the attack surface small."""
_SIZED_BY_CONTAINER = ("msmpeg4v3",)
"""Codecs whose frames do not state their size."""
_SKIPPING_CODECS = ("h264", "hevc")
"""Codecs whose decoders in FFmpeg skip frames that no other frame refers to, when told to."""
_ONE_THREAD_PIXELS = 1920 * 1080
"""Largest frames that one thread decodes in a first pass. More threads cost 8 to 10 % more CPU time and gain nothing:
faces are detected in two other threads meanwhile, which takes longer."""
_BT601_CODECS = ("vp8", "mjpeg", "gif")
"""Codecs whose YUV is BT.601 whatever the size (RFC 6386, 9.2; JFIF 1.02)."""
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that decode alpha, too; FFmpeg's own do not. By codec."""
_UNSPECIFIED = {"color_range": (0,), "color_primaries": (0, 2), "color_trc": (0, 2)}
_UNSPECIFIED_MATRIX, _BT709_MATRIX = 2, 1
_FALLBACK_FPS = 30.0
"""Frames per second of a clip whose header gives no plausible rate."""


@dataclass(frozen=True)
class VideoLimits:
    """Limit the cost of one clip; each limit is enforced on what is decoded. Its sound has the two limits of time.

    Attributes:
        seconds: Duration in seconds.
        frames: Number of frames.
        frame_pixels: Pixels of one frame.
        total_pixels: Pixels of all frames together.
        timeout_seconds: Wall-clock time for reading the clip, in seconds.
    """

    seconds: float = 60.0
    frames: int = 3600
    frame_pixels: int = 3840 * 2160
    total_pixels: int = 1920 * 1080 * 3600
    timeout_seconds: float = 30.0


class MediaSpan(NamedTuple):
    """Start of a stream in seconds, by the file's own clock, and its duration in seconds."""

    start: float
    duration: float


class VideoDecoder:
    """Decode the main video stream of one file, any number of times.

    Attributes:
        file: Enforces the timeout.
        limits: Enforced here: frame size. The reader enforces duration, frame count and total pixels.
        pixel_aspect: Width of a pixel by its height; known once decoding has started.
        can_skip: Whether the timestamps tell the order of the frames, there are B-frames, and the codec's decoder can
            skip those that no other frame refers to; known after `frame_times`.
        key_interval: Mean seconds from one key frame to the next; known after `frame_times`.
    """

    def __init__(self, data: bytes, limits: VideoLimits, *, fps: float | None) -> None:
        """Prepare to decode a file; the timeout starts here.

        Args:
            data: Bytes of the file.
            limits: What it may cost.
            fps: Frame rate to assume where the container has no timing; ignored if no camera has it.

        Raises:
            UnsupportedMedia: The first bytes are of no known video format.
        """
        demuxer = video_demuxer(data)
        if demuxer is None:
            raise UnsupportedMedia(
                "This is not a video that moodreel reads. Send MP4, MOV, WebM, MKV, AVI, 3GP or GIF."
            )
        too_slow = VideoTooLong(
            f"Reading the video took more than {limits.timeout_seconds:g} seconds. "
            "Send a shorter one or record at a lower size."
        )
        self.file = MediaFile(data, demuxer, limits.timeout_seconds, too_slow)
        self._default_fps = _plausible_fps(fps) or _FALLBACK_FPS
        self._times: FrameTimes | None = None
        self._order: list[tuple[int, bool]] = []  # timestamp of each frame, and whether it is a key frame, as decoded
        self.limits = limits
        self.pixel_aspect = 1.0
        self.can_skip = False
        self.key_interval = math.inf

    def frames(
        self, seek_to: float | None = None, *, needed: Collection[int] | None = None, rough: bool = False
    ) -> Iterator[av.VideoFrame]:
        """Yield the decoded frames; a damaged packet is skipped as long as others decode.

        Args:
            seek_to: Seek to the keyframe before this container time in seconds first.
            needed: Frames to decode, by their timestamps (pts); None for all. Other frames are skipped where it is
                known that no needed one refers to them: those after the last needed one before a key frame, and where
                `can_skip` those that no frame refers to. The pixels of the decoded ones are the same either way.
            rough: Whether to skip the loop filter of `_SKIPPING_CODECS`: blocks have visible edges then.

        Raises:
            UnsupportedMedia: The codec is not decoded here.
            NoVideoStream: There is no video stream.
            VideoTooBig, VideoTooLong: A limit was reached.
            Exception: What a library raised for the container, or for the last frame if none can be decoded; see
                `video_errors`.
        """
        decoded, damage = 0, None
        with self.file.open() as container:
            stream = _main_stream(container)
            codec = _alpha_decoder(stream) or stream.codec_context
            colors = _StreamColors(stream.codec_context)
            crop = find_crop(self.file.data, self.file.demuxer, stream.index)
            cropper = Cropper(crop) if crop else None
            header_size = self._start(stream, codec)
            if seek_to is None and header_size[0] * header_size[1] <= _ONE_THREAD_PIXELS:
                codec.thread_count = 1
            if rough and codec.codec.canonical_name in _SKIPPING_CODECS:
                codec.options |= {"skip_loop_filter": "all"}
            if seek_to is not None:
                container.seek(math.floor(seek_to / (stream.time_base or 1)), stream=stream)
            unneeded = self._before_key_frames(needed) if needed is not None else set[int]()
            for packet in self.file.packets(container, stream):
                if packet.pts in unneeded:
                    continue
                frames = self._decode_packet(codec, packet, needed)
                if isinstance(frames, Exception):
                    damage = frames
                    continue
                for frame in frames:
                    self._check_frame_size(frame.width, frame.height)
                    decoded += 1
                    cropped = cropper.crop(frame) if cropper else frame
                    colors.complete(cropped)
                    yield cropped
            if damage and not decoded:
                self._check_frame_size(*header_size)  # a decoder that refused a huge frame may not have kept its size
                raise damage

    def _decode_packet(
        self, codec: av.VideoCodecContext, packet: "Packet[Stream]", needed: Collection[int] | None
    ) -> list[av.VideoFrame] | Exception:
        """Decode a packet; return what was raised if it is damaged."""
        if needed is not None and self.can_skip:
            codec.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
        try:
            own = packet.stream.codec_context is codec
            return cast(list[av.VideoFrame], packet.decode() if own else codec.decode(packet))
        except Exception as error:  # not only PyAV's own: see `typed_errors`
            if type(error) is MemoryError:
                raise
            self._check_frame_size(codec.width, codec.height)
            return error

    def _before_key_frames(self, needed: Collection[int]) -> set[int]:
        """Return the timestamps of the frames between the last needed one, in order of decoding, and a key frame."""
        unneeded: set[int] = set()
        earliest, is_referred = math.inf, False
        for pts, is_key in reversed(self._order):
            if pts in needed:
                earliest, is_referred = min(earliest, pts), True
            if not is_referred:
                unneeded.add(pts)
            if is_key:
                # Frames that are decoded after a key frame, but shown before it, refer to frames before it.
                earliest, is_referred = math.inf, earliest < pts
        return unneeded

    def probe_span(self) -> MediaSpan:
        """Measure start and duration by the timestamps of the packets, without decoding.

        Raises:
            UnsupportedMedia, NoVideoStream, VideoTooLong, Exception: As `frames` does.
        """
        times = self.frame_times()
        if times.duration - times.usual_gap > self.limits.seconds:
            self.refuse_long()
        return MediaSpan(times.start, times.duration)

    def frame_times(self) -> FrameTimes:
        """Read the timestamps of all packets, without decoding, and compute the time of each frame.

        Raises:
            UnsupportedMedia, NoVideoStream, VideoTooLong, Exception: As `frames` does.
        """
        if self._times is None:
            with self.file.open() as container:
                stream = _main_stream(container)
                shown = (
                    packet for packet in self.file.packets(container, stream) if packet.size and not packet.is_discard
                )
                order = [(packet.pts, packet.is_keyframe) for packet in shown]
                codec = stream.codec_context.codec.canonical_name
                fps = _plausible_fps(stream.average_rate) or self._default_fps
                time_base = float(stream.time_base or 0)
            timestamps = [pts for pts, _ in order]
            has_sound = partial(self.file.fills_gap, "audio")
            self._times = correct_timestamps(timestamps, time_base, fps=fps, has_sound=has_sound)
            # Frames in order of decoding are no B-frames, and then nearly all encoders refer to every frame.
            self.can_skip = codec in _SKIPPING_CODECS and list(self._times.by_pts) not in ([], timestamps)
            self._order = [(pts, is_key) for pts, is_key in order if pts is not None and pts in self._times.by_pts]
            self.key_interval = self._times.duration / max(1, sum(is_key for _, is_key in order))
        return self._times

    def refuse_long(self) -> NoReturn:
        """Raise VideoTooLong for the limits of duration and frame count."""
        raise VideoTooLong(
            f"The video runs longer than {self.limits.seconds:g} seconds or {self.limits.frames} frames. "
            "Send a shorter one."
        )

    def _start(self, stream: VideoStream, context: av.VideoCodecContext) -> tuple[int, int]:
        """Set the decoder up; return the frame size that the header gives."""
        self.pixel_aspect = float(stream.sample_aspect_ratio or 1)
        header_size = stream.codec_context.width, stream.codec_context.height
        if context.codec.canonical_name not in _SIZED_BY_CONTAINER:
            context.width = context.height = 0  # have the decoder take the size from the stream, not the container
        context.thread_type = "AUTO"
        # FFmpeg rounds both sides up before it compares; `_check_frame_size` is exact.
        context.options = {"max_pixels": str(2 * self.limits.frame_pixels + 2**16)}
        return header_size

    def _check_frame_size(self, width: int, height: int) -> None:
        if width * height > self.limits.frame_pixels:
            raise VideoTooBig(
                f"A frame has more than {self.limits.frame_pixels} pixels. Record at a lower size and send it again."
            )


class _StreamColors:
    """The color properties of a stream by its container (`colr` of MP4 and MOV, `Colour` of Matroska).

    The numbers are those of ISO/IEC 23091-2.
    """

    def __init__(self, codec: av.VideoCodecContext) -> None:
        """Read them from a codec that has not decoded anything yet."""
        self._codec = codec.codec.canonical_name
        self._values = {name: getattr(codec, name) for name in ("color_range", "color_primaries", "color_trc")}
        self._matrix = codec.colorspace

    def complete(self, frame: av.VideoFrame) -> None:
        """Set the color properties that a frame leaves unspecified. As in players, HD without a matrix is BT.709."""
        for name, value in self._values.items():
            if getattr(frame, name) in _UNSPECIFIED[name] and value not in _UNSPECIFIED[name]:
                setattr(frame, name, value)
        if frame.colorspace != _UNSPECIFIED_MATRIX or self._codec in _BT601_CODECS:
            return
        is_hd = max(frame.width, frame.height) >= 1280 or min(frame.width, frame.height) > 576
        frame.colorspace = _BT709_MATRIX if self._matrix == _UNSPECIFIED_MATRIX and is_hd else self._matrix


def _alpha_decoder(stream: VideoStream) -> av.VideoCodecContext | None:
    """Create a decoder of VP8 or VP9 with alpha, if the container says that there is alpha."""
    decoder = _ALPHA_DECODERS.get(stream.codec_context.codec.canonical_name)
    if decoder is None or stream.metadata.get("alpha_mode") != "1":
        return None
    return cast(av.VideoCodecContext, av.CodecContext.create(decoder, "r"))


def _main_stream(container: InputContainer) -> VideoStream:
    """Select the stream that a player would show; the cover image of an audio file is not one."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        raise NoVideoStream("There is no video in this file, only sound or other data. Send a clip with pictures.")
    if stream.codec_context is None or stream.codec_context.codec.canonical_name not in CODECS:
        raise UnsupportedMedia("This video's codec is not supported. Send H.264, HEVC, VP8, VP9, AV1 or MPEG-4.")
    return stream


def _plausible_fps(fps: Fraction | float | None) -> float | None:
    """Return a frame rate from a header or a caller; None if no camera has it."""
    return float(fps) if fps and 0.1 <= fps <= 1000 else None


def video_errors() -> AbstractContextManager[None]:
    """Raise VideoCorrupt or VideoTooBig during a `with` block for what a library raises; see `typed_errors`."""
    return typed_errors(
        VideoCorrupt("The video is damaged or incomplete: nothing in it can be decoded. Send it again."),
        VideoTooBig("The video needs more memory than there is. Record at a lower size and send it again."),
    )
