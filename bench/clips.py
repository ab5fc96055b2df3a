"""Make the clips of the benchmarks and of the README, from NASA's public-domain portrait.

python -m bench.clips examples/smile.mp4 --seconds 4 --size 480x480
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from tests.support import synthetic_frames, synthetic_video


def phone_clip(width: int = 1280, height: int = 720, seconds: float = 6.0, fps: int = 30, crf: int = 23) -> bytes:
    """Encode a video as from a hand-held phone: the face comes nearer, the camera sways, the sensor has some noise."""
    return synthetic_video.encode_video(
        [_handheld_frame(index / fps, seconds, width, height) for index in range(round(seconds * fps))],
        fps=fps,
        options={"crf": str(crf), "preset": "medium"},
    )


def _handheld_frame(time: float, seconds: float, width: int, height: int) -> np.ndarray:
    face = synthetic_frames.portrait()
    scale = height / 400 * (1.0 + 0.3 * time / seconds)
    tilt = 4 * np.sin(2 * np.pi * time / 3.1)
    sway = 0.01 * width * np.array([np.sin(2 * np.pi * time / 1.7), np.cos(2 * np.pi * time / 2.3)])
    move = cv2.getRotationMatrix2D((225.0, 130.0), tilt, scale)
    move[:, 2] += np.array([width / 2, height * 0.45]) - (225.0, 130.0) + sway
    image = cv2.warpAffine(face, move, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    noise = np.random.default_rng(round(time * 1000)).normal(0, 2.0, (height, width, 1))
    return (image + noise).clip(0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.clips", description="Make a clip of a face.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--size", default="1280x720", help="WIDTHxHEIGHT")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    options.path.write_bytes(phone_clip(width, height, options.seconds))


if __name__ == "__main__":
    main()
