"""Synthetic frames for the tests, as arrays. The face is NASA's public-domain portrait of Eileen Collins."""

from collections.abc import Iterator
from functools import cache

import cv2
import numpy as np
import skimage.data


@cache
def portrait() -> np.ndarray:
    """Return NASA's portrait of Eileen Collins, smiling: (512, 512, 3) uint8 RGB."""
    return skimage.data.astronaut()


def face_frames(count: int, width: int = 320, height: int = 240) -> list[np.ndarray]:
    """Make frames of a face that moves slowly to the right, (height, width, 3) uint8 RGB."""
    face = portrait()[:300, 60:400]
    scale = height / 300
    frames = []
    for index in range(count):
        shift = np.array([[scale, 0, (width - 340 * scale) / 2 + index], [0, scale, 0]], dtype=np.float32)
        frames.append(cv2.warpAffine(face, shift, (width, height), borderMode=cv2.BORDER_REPLICATE))
    return frames


def noise_frames(count: int, width: int = 320, height: int = 240) -> list[np.ndarray]:
    """Make frames of noise, without a face."""
    random = np.random.default_rng(7)
    return [
        random.integers(0, 255, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(count)
    ]


def counter_frames(count: int, width: int = 64, height: int = 64) -> list[np.ndarray]:
    """Make frames that encode their index as six white or black blocks, which survive any codec.

    It is a Gray code: one block changes from each frame to the next, so that no frame looks like a cut.
    """
    return [_counter_frame(index, width, height) for index in range(count)]


def _counter_frame(index: int, width: int, height: int) -> np.ndarray:
    bits = np.array([(index ^ index >> 1) >> bit & 1 for bit in range(6)], np.uint8).reshape(2, 3) * 255
    return cv2.resize(bits, (width, height), interpolation=cv2.INTER_NEAREST)[..., None].repeat(3, 2)


def read_counter(rgb: np.ndarray) -> int:
    """Read the index of a counter frame."""
    small = cv2.resize(rgb, (3, 2), interpolation=cv2.INTER_AREA).mean(axis=2)
    gray = sum(1 << bit for bit, value in enumerate(small.ravel()) if value > 127)
    return gray ^ gray >> 1 ^ gray >> 2 ^ gray >> 3 ^ gray >> 4 ^ gray >> 5


def corner_frames(count: int, width: int = 64, height: int = 48) -> list[np.ndarray]:
    """Make frames with a red top left, green top right, blue bottom left and white bottom right corner."""
    frame = np.zeros((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    frame[top, left], frame[top, right] = (255, 0, 0), (0, 255, 0)
    frame[bottom, left], frame[bottom, right] = (0, 0, 255), (255, 255, 255)
    return [frame] * count


def group_photo(width: int, height: int, faces: int, size: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Paste heads in rows onto a photo, every other one mirrored.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        faces: Number of heads.
        size: Width of a face in pixels.

    Returns:
        The image, (height, width, 3) uint8 RGB, and the center (x, y) of each face.
    """
    image = cv2.resize(skimage.data.coffee(), (width, height))
    head = cv2.resize(portrait()[20:240, 120:340], None, fx=size / 91, fy=size / 91, interpolation=cv2.INTER_AREA)
    side, per_row = len(head), width // (len(head) + 4)
    centers = []
    for index in range(faces):
        x, y = index % per_row * (side + 4), index // per_row * (side + 4)
        image[y : y + side, x : x + side] = head[:, ::-1] if index % 2 else head
        centers.append((x + (side - round(1.13 * size) if index % 2 else round(1.13 * size)), y + round(1.16 * size)))
    return image, centers


def two_heads(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Make two different heads, `size` pixels wide: the portrait's, and one mirrored, taller and in other colors."""
    head = cv2.resize(portrait()[20:240, 120:340], (size, size), interpolation=cv2.INTER_AREA)
    other = head[:, ::-1] @ np.array([[0.6, 0.1, 0.05], [0.1, 0.55, 0.1], [0.05, 0.1, 0.5]])
    return head, cv2.resize(other.clip(0, 255).astype(np.uint8), None, fx=0.95, fy=1.1)


def crossing_frames(
    fps: float, seconds: float, *, first_in_front: bool = True, turn_back: bool = False
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield times and frames, (360, 640, 3) uint8 RGB, of two people who pass, or meet and turn back.

    The first person comes from the left, and its head is higher: `FIRST_PERSON_MAX_Y` separates the two.
    """
    background = cv2.GaussianBlur(cv2.resize(skimage.data.coffee(), (640, 360)), (0, 0), 6)
    first, other = two_heads(270)
    for index in range(int(fps * seconds) + 1):
        progress = index / fps / seconds
        progress = min(progress, 1 - progress) if turn_back else progress
        people = [(other, 544 - 448 * progress, 187), (first, 96 + 448 * progress, 173)]
        frame = background.copy()
        for head, x, y in people if first_in_front else reversed(people):
            _paste(frame, head, x, y)
        yield index / fps, frame


FIRST_PERSON_MAX_Y = 173.5
"""The center of the first person's face is above this y in pixels, that of the other's below."""


def _paste(frame: np.ndarray, head: np.ndarray, x: float, y: float) -> None:
    """Blend a head onto a frame, centered at x, y, with a soft edge."""
    height, width = head.shape[:2]
    alpha = np.clip((1 - np.hypot(*np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j])) * 8, 0, 1)[..., None]
    left, top = round(x - width / 2), round(y - height / 2)
    rows = slice(max(0, top), min(frame.shape[0], top + height))
    columns = slice(max(0, left), min(frame.shape[1], left + width))
    part = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    frame[rows, columns] = frame[rows, columns] * (1 - alpha[part]) + head[part] * alpha[part]


def cartoon(width: int = 320, height: int = 240) -> np.ndarray:
    """Draw a smiling face, which MediaPipe takes for a person's: (height, width, 3) uint8 RGB."""
    frame = np.full((height, width, 3), (210, 225, 160), np.uint8)
    x, y, size, ink = width // 2, height // 2, height * 3 // 8, (40, 20, 20)
    cv2.ellipse(frame, (x, y), (size * 9 // 10, size), 0, 0, 360, (255, 225, 70), -1, cv2.LINE_AA)
    cv2.ellipse(frame, (x, y), (size * 9 // 10, size), 0, 0, 360, ink, 1, cv2.LINE_AA)
    for eye in (x - size * 2 // 5, x + size * 2 // 5):
        cv2.circle(frame, (eye, y - size // 5), size // 10, ink, -1, cv2.LINE_AA)
    cv2.ellipse(frame, (x, y + size // 4), (size * 2 // 5, size // 4), 0, 10, 170, ink, 2, cv2.LINE_AA)
    return frame
