"""Synthetic audio, and clips with audio, for the tests, encoded in memory."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from tests.support import synthetic_frames, synthetic_video


def sine(hertz: float, seconds: float, *, amplitude: float = 0.4, rate: int = 16_000) -> np.ndarray:
    """Make a sine wave, float32 (N,)."""
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode_audio(
    samples: np.ndarray,
    *,
    rate: int = 16_000,
    container: str = "wav",
    codec: str = "pcm_s16le",
    layout: str = "mono",
    pauses: dict[float, float] | None = None,
) -> bytes:
    """Encode samples as an audio file.

    Args:
        samples: float32 (N,), the same in every channel, or (channels, N).
        pauses: Duration of each pause in seconds, by its start: timestamps jump there, and nothing is written.
    """
    channels = av.AudioLayout(layout).nb_channels
    wave = np.repeat(samples[None], channels, axis=0) if samples.ndim == 1 else samples
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        output.mux(encode_packets(output.add_stream(codec, rate=rate, layout=layout), wave, rate, pauses or {}))
    return file.getvalue()


def encode_packets(stream: av.AudioStream, wave: np.ndarray, rate: int, pauses: dict[float, float]) -> list[av.Packet]:
    layout = stream.layout.name
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
    position, delay, packets = 0, 0.0, []
    while position < wave.shape[1]:
        piece = np.ascontiguousarray(wave[:, position : position + size], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
        delay += sum(pauses.pop(start) for start in [start for start in pauses if start * rate <= position])
        frame.sample_rate, frame.pts = rate, position + round(delay * rate)
        for resampled in resampler.resample(frame):
            resampled.pts = frame.pts
            packets += stream.encode(resampled)
        position += size
    return packets + stream.encode(None)


def encode_clip(frames: list[np.ndarray], samples: np.ndarray, *, rate: int = 48_000, fps: int = 10) -> bytes:
    """Encode an MP4 with H.264 and AAC, as RAVDESS has them, of samples, float32 (N,), `rate` per second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        video_stream = output.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        video_stream.height, video_stream.width = frames[0].shape[:2]
        video_stream.pix_fmt = "yuv420p"
        audio_stream = output.add_stream("aac", rate=rate, layout="mono")
        output.mux(encode_packets(audio_stream, samples[None], rate, {}))
        for rgb in frames:
            output.mux(video_stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
        output.mux(video_stream.encode(None))
    return file.getvalue()


def encode_sine_clip(
    frames: Sequence[np.ndarray],
    seconds: float,
    *,
    container: str = "mp4",
    video: str = "libx264",
    codec: str = "aac",
    rate: int = 48_000,
    layout: str = "mono",
    hertz: float = 500,
    fps: int = 10,
    later: float = 0.0,
    shift: float = 0.0,
    silent: bool = False,
) -> bytes:
    """Encode a clip with a sine wave that starts `later` seconds after the video; timestamps start at `shift`."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        video_stream = output.add_stream(video, rate=fps)
        video_stream.height, video_stream.width = frames[0].shape[:2]
        video_stream.pix_fmt = "yuv420p"
        audio_stream = output.add_stream(codec, rate=rate, layout=layout)
        wave = sine(hertz, seconds, rate=rate) * (0 if silent else 1)
        wave = np.repeat(wave[None], av.AudioLayout(layout).nb_channels, axis=0)
        packets = encode_packets(audio_stream, wave, rate, {})
        for packet in packets:
            ticks = round((later + shift) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        for index, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = index + round(shift * fps), Fraction(1, fps)
            output.mux(video_stream.encode(frame))
        output.mux(video_stream.encode(None))
        output.mux(packets)
    return file.getvalue()


SILENT_CLIP = synthetic_video.encode_video(synthetic_frames.counter_frames(10))
