"""Synthetic clips for the tests, encoded in memory."""

import io
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction

import av
import numpy as np


def encode_video(
    frames: Iterable[np.ndarray],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    fps: int = 25,
    times: Sequence[float] | None = None,
    rotation: int | None = None,
    mirrored: bool = False,
    audio_codec: str | None = None,
    audio_first: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    color: dict[str, int] | None = None,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """Encode frames, (H, W, 3) uint8 RGB, as a video file.

    Args:
        times: Presentation time of each frame in seconds, for a variable frame rate.
        rotation: Degrees counter-clockwise that a player turns the video, written as a display matrix.
        audio_codec: Codec of a second stream with a sine wave.
        audio_first: Whether that stream comes before the video stream.
        color: Attributes of the codec context, such as `color_trc`.
        metadata: Tags of the container.
    """
    frames = list(frames)
    times = times or [index / fps for index in range(len(frames))]
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=container_options or {}) as output:
        output.metadata.update(metadata or {})
        sound = output.add_stream(audio_codec, rate=48000, layout="mono") if audio_codec and audio_first else None
        stream = output.add_stream(codec, rate=fps, options=options or {})
        if audio_codec and not audio_first:
            sound = output.add_stream(audio_codec, rate=48000, layout="mono")
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1  # with more, libx264 does not always give the same frames twice
        for name, value in (color or {}).items():
            setattr(stream.codec_context, name, value)
        if times != [index / fps for index in range(len(frames))]:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None or mirrored:
            stream.set_display_rotation(rotation or 0, hflip=mirrored)
        time_base = stream.codec_context.time_base or Fraction(1, fps)
        if sound is not None:
            output.mux(_sine(sound, times[-1] + 1 / fps))
        for time, rgb in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = round(time / time_base), time_base
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # Run by root, SVT-AV1 gives the calling thread real-time priority. Every service that a test starts afterwards
        # would inherit it, and threads that wait actively would then stop the whole machine.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return file.getvalue()


def add_sample_entry_box(data: bytes, box: bytes) -> bytes:
    """Add a box (type and body) to the end of the sample entry of the only track of an MP4 whose index comes last."""
    changed = bytearray(data)
    path, start, end = [b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"], 0, len(data)
    parents = []
    for kind in [*path, None]:
        while kind is not None and data[start + 4 : start + 8] != kind:
            start += int.from_bytes(data[start : start + 4])
        parents.append(start)
        end = start + int.from_bytes(data[start : start + 4])
        start += 16 if kind == b"stsd" else 8
    for at in parents:
        changed[at : at + 4] = (int.from_bytes(data[at : at + 4]) + len(box) + 4).to_bytes(4)
    changed[end:end] = (len(box) + 4).to_bytes(4) + box
    return bytes(changed)


def encode_audio_only(container: str = "mp4", codec: str = "aac") -> bytes:
    """Encode one second of a sine wave, without video."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        output.mux(_sine(output.add_stream(codec, rate=48000, layout="mono"), 1.0))
    return file.getvalue()


def _sine(stream: av.AudioStream, seconds: float) -> list[av.Packet]:
    wave = np.sin(2 * np.pi * 440 * np.arange(int(seconds * 48000)) / 48000).astype(np.float32)
    if stream.codec_context.name == "pcm_s16le":
        frame = av.AudioFrame.from_ndarray((wave * 20000).astype(np.int16)[None], format="s16", layout="mono")
    else:
        frame = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    packets = []
    resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48000)
    for resampled in resampler.resample(frame):
        packets += stream.encode(resampled)
    return packets + stream.encode(None)


def decode_frames(data: bytes) -> list[np.ndarray]:
    """Decode every frame of a file as (H, W, 3) uint8 RGB, without applying its display matrix."""
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def encode_sizes(*parts: Sequence[np.ndarray]) -> bytes:
    """Encode a VP8 recording that changes its size: frames of each size, at 25 frames per second."""
    file, count = io.BytesIO(), 0
    with av.open(file, "w", format="webm") as output:
        stream = output.add_stream("libvpx", rate=25)
        stream.height, stream.width = parts[0][0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frames in parts:
            with av.open(io.BytesIO(encode_video(frames, container="webm", codec="libvpx"))) as part:
                for packet in part.demux(video=0):
                    if packet.pts is not None:
                        packet.stream = stream
                        packet.pts = packet.dts = packet.pts + 40 * count
                        output.mux(packet)
            count += len(frames)
    return file.getvalue()
