"""Sound for the tests, made in memory."""

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np

from tests.support import synthetic_frames, synthetic_video


def sine(hertz: float, seconds: float, *, amplitude: float = 0.4, rate: int = 16_000) -> np.ndarray:
    """A sine wave, float32 (N,)."""
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
    """Encode float32 (N,), the same in every channel, or (channels, N).

    pauses: seconds at which the recording stops, and for how many: its times jump there, and nothing is written.
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
    done, late, made = 0, 0.0, []
    while done < wave.shape[1]:
        piece = np.ascontiguousarray(wave[:, done : done + size], dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
        late += sum(pauses.pop(at) for at in [at for at in pauses if at * rate <= done])
        frame.sample_rate, frame.pts = rate, done + round(late * rate)
        for resampled in resampler.resample(frame):
            resampled.pts = frame.pts
            made += stream.encode(resampled)
        done += size
    return made + stream.encode(None)


def encode_clip(frames: list[np.ndarray], samples: np.ndarray, *, rate: int = 48_000, fps: int = 10) -> bytes:
    """An MP4 as RAVDESS has them: H.264 beside AAC of 48 kHz. samples: float32 (N,), `rate` a second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        pictures = output.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        pictures.height, pictures.width = frames[0].shape[:2]
        pictures.pix_fmt = "yuv420p"
        sound = output.add_stream("aac", rate=rate, layout="mono")
        output.mux(encode_packets(sound, samples[None], rate, {}))
        for rgb in frames:
            output.mux(pictures.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")))
        output.mux(pictures.encode(None))
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
    """A clip with sound that begins `later` seconds after its pictures; both begin `shift` seconds into its clock."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        pictures = output.add_stream(video, rate=fps)
        pictures.height, pictures.width = frames[0].shape[:2]
        pictures.pix_fmt = "yuv420p"
        voice = output.add_stream(codec, rate=rate, layout=layout)
        wave = sine(hertz, seconds, rate=rate) * (0 if silent else 1)
        wave = np.repeat(wave[None], av.AudioLayout(layout).nb_channels, axis=0)
        made = encode_packets(voice, wave, rate, {})
        for packet in made:
            ticks = round((later + shift) / packet.time_base)
            packet.pts, packet.dts = packet.pts + ticks, packet.dts + ticks
        for number, rgb in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.pts, frame.time_base = number + round(shift * fps), Fraction(1, fps)
            output.mux(pictures.encode(frame))
        output.mux(pictures.encode(None))
        output.mux(made)
    return file.getvalue()


SILENT_CLIP = synthetic_video.encode_video(synthetic_frames.counter_frames(10))
