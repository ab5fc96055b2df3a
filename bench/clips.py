"""Make the clips of the benchmarks from NASA's public-domain portrait."""

import io

import av
import cv2
import numpy as np

from tests.support import synthetic_frames, synthetic_video


def phone_clip(width: int = 1280, height: int = 720, seconds: float = 6.0, fps: int = 30, **options: str) -> bytes:
    """Encode a video as from a hand-held phone: the face comes nearer, the camera sways, the sensor has some noise.

    Args:
        width: Pixels.
        height: Pixels.
        seconds: Duration.
        fps: Frames a second.
        options: Of libx264; by default three B-frames in a row, one of them a reference.
    """
    return synthetic_video.encode_video(
        [_handheld_frame(index / fps, seconds, width, height) for index in range(round(seconds * fps))],
        fps=fps,
        options={"crf": "23", "preset": "medium", **options},
    )


def repeat_clip(data: bytes, times: int) -> bytes:
    """Append a clip to itself without encoding it again: a longer one of the same cost a second."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output, av.open(io.BytesIO(data)) as source:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        for round_number in range(times):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.pts += round_number * stream.duration
                    packet.dts += round_number * stream.duration
                    packet.stream = copy
                    output.mux(packet)
    return file.getvalue()


def _handheld_frame(time: float, seconds: float, width: int, height: int) -> np.ndarray:
    face = synthetic_frames.portrait()
    scale = height / 400 * (1.0 + 0.3 * time / seconds)
    tilt = 4 * np.sin(2 * np.pi * time / 3.1)
    sway = 0.01 * width * np.array([np.sin(2 * np.pi * time / 1.7), np.cos(2 * np.pi * time / 2.3)])
    move = cv2.getRotationMatrix2D((225.0, 130.0), tilt, scale)
    move[:, 2] += np.array([width / 2, height * 0.45]) - (225.0, 130.0) + sway
    image = cv2.warpAffine(face, move, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    noise = np.random.default_rng(round(time * 1000)).standard_normal((height, width, 1), np.float32)
    return (image + 2 * noise).clip(0, 255).astype(np.uint8)
