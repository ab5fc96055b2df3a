"""Make the example clip: a woman is calm, blinks, and smiles.

    python -m bench.smile examples/smile.mp4

README's loop was made from it by `/thumbnail` with duration=2.4, size=240 and output=webp.

It is NASA's public-domain portrait of Eileen Collins, who smiles in it. The calm face is a warp of the same picture by
MediaPipe's mesh: the lips are closed over the teeth, and the folds beside the mouth are inpainted.
"""

import argparse
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import RBFInterpolator

from bench import render
from bench.command import run_command
from moodreel.faces.landmarker import FaceLandmarker
from tests.support import synthetic_frames, synthetic_video
from tests.support.server import STORE

SIDE, FPS, SECONDS = 480, 30, 4.0
BLINK_AT = 0.75
"""Seconds."""
CALM_WIDTH, CALM_LINE, CALM_DROOP = 0.83, 266.5, 3.5
"""The closed mouth: its width, as a fraction of the smile's; the height of the line between the lips, and how much
lower its ends are, in pixels."""
CALM_UPPER, CALM_LOWER = 1.7, 1.12
"""Thickness of the closed lips, in units of that in the smile."""

UPPER_LIP = (
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
    (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306),
    (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292),
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
)
LOWER_LIP = (
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
    (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306),
    (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
)
"""Landmarks of the lips in rows from the outer edge to the inner one, each from the right corner to the left one."""
UPPER_LIDS = (33, 246, 161, 160, 159, 158, 157, 173, 133), (263, 466, 388, 387, 386, 385, 384, 398, 362)
LOWER_LIDS = (33, 7, 163, 144, 145, 153, 154, 155, 133), (263, 249, 390, 373, 374, 380, 381, 382, 362)
FOLDS = (203, 206, 216, 212, 202), (423, 426, 436, 432, 422)
"""Nasolabial folds, from the nose past the corners of the mouth."""
CALM_SHIFTS = {
    **dict.fromkeys((205, 425, 187, 411, 50, 280), (0, 3)),  # cheeks
    **dict.fromkeys((145, 374), (0, 0.8)),  # lower lids
    **dict.fromkeys((199, 175, 152, 18), (0, -3)),  # chin
    129: (1.5, 0.5),  # wings of the nose
    358: (-1.5, 0.5),
}
"""By how many pixels, x and y, other landmarks move from the smile to the calm face."""
STILL = (
    168,
    6,
    197,
    195,
    5,
    4,
    1,
    105,
    334,
    66,
    296,
    107,
    336,
    159,
    386,
    33,
    133,
    362,
    263,
    144,
    153,
    373,
    380,
    9,
    151,
)
"""Landmarks that do not move: brows, eyes and the bridge of the nose. Nor does the face's oval, except the chin."""


class SmileRenderer:
    """Render the face at any stage between calm and smiling."""

    def __init__(self) -> None:
        move = np.array([[1.9, 0, SIDE / 2 - 224 * 1.9], [0, 1.9, 0.47 * SIDE - 125 * 1.9]])
        self._smile = cv2.warpAffine(
            synthetic_frames.portrait(), move, (SIDE, SIDE), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT
        )
        landmarker = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task")
        [face] = landmarker.detect(self._smile)
        landmarker.close()
        self._smiling = face.landmarks[:468].astype(np.float64) * SIDE
        self._calm = _calm_landmarks(self._smiling)
        self._smooth = _without_folds(self._smile, self._smiling)

    def render(self, smile: float, blink: float) -> tuple[np.ndarray, np.ndarray]:
        """Render a stage.

        Args:
            smile: 0 (calm) to 1 (as in the portrait).
            blink: 0 (open eyes) to 1 (closed eyes).

        Returns:
            uint8 (SIDE, SIDE, 3) RGB, and the landmarks, float64 (468, 3), in pixels.
        """
        points = self._calm + (self._smiling - self._calm) * smile
        opening = _ease(smile, 0.25, 1.0)  # the lips part after the corners of the mouth have begun to move
        for upper, lower in zip(UPPER_LIP[-1], LOWER_LIP[-1], strict=True):
            middle, gap = points[[upper, lower], 1].mean(), self._smiling[lower, 1] - self._smiling[upper, 1]
            points[[upper, lower], 1] = middle - opening * gap / 2, middle + opening * gap / 2
        for upper_lid, lower_lid in zip(map(list, UPPER_LIDS), map(list, LOWER_LIDS), strict=True):
            closed = 0.15 * points[upper_lid] + 0.85 * points[lower_lid]
            points[upper_lid] += blink * (closed - points[upper_lid])
            points[lower_lid] += blink * (closed - points[lower_lid])
        texture = cv2.addWeighted(self._smooth, 1 - smile, self._smile, smile, 0)
        frame = self._warp(texture, points)
        lips = [points[list(row[-1])] for row in (UPPER_LIP, LOWER_LIP)]
        frame = _draw_lines(frame, [sum(lips) / 2], (105, 52, 48), 0.75 * (1 - opening))
        lashes = [points[list(lid)] for lid in UPPER_LIDS]
        return _draw_lines(frame, lashes, (70, 45, 35), 0.7 * blink), points

    def _warp(self, texture: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Move the landmarks of the smile to `points`. Teeth and eyeballs stay where they are, and are covered."""
        triangles, oval, holes = render.face_mesh()
        rings = render.head_rings(self._smiling, oval)
        source, target = (np.concatenate([each, *rings])[triangles, :2] for each in (self._smiling, points))
        source[holes] = target[holes]
        order = np.r_[holes, 0 : holes.start, holes.stop : len(triangles)]
        return render.render_mesh(texture, source[order], target[order])


def _calm_landmarks(smiling: np.ndarray) -> np.ndarray:
    """Return the landmarks (468, 3) of the calm face: the lips closed, and everything else by a thin-plate spline."""
    _, oval, _ = render.face_mesh()
    shifts = {index: (0.0, 0.0) for index in (*STILL, *oval.tolist())} | CALM_SHIFTS
    middle = smiling[[13, 14], 0].mean()
    slope = np.subtract(*smiling[[291, 61], 1]) / np.subtract(*smiling[[291, 61], 0])
    for lip, side, thickness in ((UPPER_LIP, -1, CALM_UPPER), (LOWER_LIP, 1, CALM_LOWER)):
        outer, inner = smiling[list(lip[0]), :2], smiling[list(lip[-1]), :2]
        across = (inner[:, 0] - middle) / (inner[-1, 0] - middle)
        depth = thickness * np.abs(outer[:, 1] - inner[:, 1])
        depth[[0, -1]] = 0
        x = middle + CALM_WIDTH * (np.array([outer[:, 0], inner[:, 0]]) - middle)
        y = CALM_LINE + slope * (x - middle) + CALM_DROOP * across**2
        y[0] += side * depth
        for row, share in zip(lip, (0, 1 / 3, 2 / 3, 1), strict=True):
            place = np.column_stack([x[0] + share * (x[1] - x[0]), y[0] + share * (y[1] - y[0])])
            shifts |= dict(zip(row, place - smiling[list(row), :2], strict=True))
    lips = np.unique(UPPER_LIP + LOWER_LIP)
    spline = RBFInterpolator(smiling[list(shifts), :2], np.array(list(shifts.values())), smoothing=1.0)
    calm = smiling.copy()
    calm[:, :2] += spline(smiling[:, :2])
    calm[lips, :2] = [smiling[index, :2] + shifts[index] for index in lips]
    still = np.setdiff1d(oval, [152, 377, 148, 176, 400])
    calm[still] = smiling[still]
    return calm


def _without_folds(frame: np.ndarray, smiling: np.ndarray) -> np.ndarray:
    """Inpaint the folds beside the mouth, and the shadows at its corners."""
    folds = np.zeros((SIDE, SIDE), np.uint8)
    for fold in FOLDS:
        cv2.polylines(folds, [np.round(smiling[list(fold), :2]).astype(np.int32)], False, 1, 19)
    for corner, aside in ((61, -6), (291, 6)):
        cv2.circle(folds, np.round(smiling[corner, :2] + (aside, 0)).astype(int).tolist(), 9, 1, -1)
    outline = smiling[[*UPPER_LIP[0], *reversed(LOWER_LIP[0])], :2]
    lips = cv2.fillPoly(np.zeros_like(folds), [np.round(outline).astype(np.int32)], 1)
    folds[cv2.dilate(lips, np.ones((3, 3))) > 0] = 0
    # Nothing may be inpainted in the color of the lips.
    skin = cv2.inpaint(frame, np.maximum(folds, cv2.dilate(lips, np.ones((5, 5)))), 9, cv2.INPAINT_TELEA)
    alpha = (1.3 * cv2.GaussianBlur(folds.astype(np.float32), (0, 0), 5)).clip(0, 1)
    alpha[lips > 0] = 0
    return _blend(frame, cv2.GaussianBlur(skin, (0, 0), 4), cv2.GaussianBlur(alpha, (0, 0), 1))


def _draw_lines(frame: np.ndarray, lines: list[np.ndarray], color: tuple[int, int, int], opacity: float) -> np.ndarray:
    alpha = np.zeros(frame.shape[:2], np.float32)
    for line in lines:
        cv2.polylines(alpha, [np.round(line[:, :2] * 16).astype(np.int32)], False, 1.0, 2, cv2.LINE_AA, shift=4)
    return _blend(frame, np.full_like(frame, color), opacity * cv2.GaussianBlur(alpha, (0, 0), 1))


def _blend(bottom: np.ndarray, top: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return (bottom + (top.astype(np.float32) - bottom) * alpha[..., None]).clip(0, 255).astype(np.uint8)


def _ease(value: float, start: float, end: float) -> float:
    """Rise smoothly from 0 at `start` to 1 at `end`."""
    share = float(np.clip((value - start) / (end - start), 0, 1))
    return share**3 * (share * (6 * share - 15) + 10)


@cache
def _renderer() -> SmileRenderer:
    return SmileRenderer()


def smile_frame(time: float) -> np.ndarray:
    """Render the frame at a time in seconds, as from a hand-held phone: uint8 (SIDE, SIDE, 3) RGB."""
    smile = _ease(time, 1.5, 2.3) - 0.12 * _ease(time, 2.6, 3.2)
    frame, points = _renderer().render(smile, max(0.0, 1 - abs(time - BLINK_AT) / 0.1))
    yaw = 3.0 * np.sin(2 * np.pi * (time - 0.4) / 4.6)
    pitch = 2.5 * _ease(time, 1.4, 2.2) + np.sin(2 * np.pi * time / 3.1) - 1.5
    frame = render.turn(frame, points, yaw=yaw, pitch=pitch)
    move = cv2.getRotationMatrix2D(
        (SIDE / 2, SIDE / 2), 1.5 * np.sin(2 * np.pi * time / 3.7), 1 + 0.05 * _ease(time, 1.1, 2.6)
    )
    move[:, 2] += 3 * np.sin(2 * np.pi * time / 1.9), 2.5 * np.cos(2 * np.pi * time / 2.3)
    frame = cv2.warpAffine(frame, move, (SIDE, SIDE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    noise = np.random.default_rng(round(time * 1000)).normal(0, 1.0, (SIDE, SIDE, 1))
    return (frame + noise).clip(0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.smile", description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    path = parser.parse_args().path
    frames = [smile_frame(index / FPS) for index in range(round(SECONDS * FPS))]
    path.write_bytes(synthetic_video.encode_video(frames, fps=FPS, options={"crf": "23", "preset": "slow"}))


if __name__ == "__main__":
    run_command(main)
