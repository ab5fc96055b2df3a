"""Every face of a picture, the small ones too.

MediaPipe's detector shrinks what it is shown to 128 pixels and answers with four faces at most: of a group, a look at
the whole picture shows the nearest. So squares of a half and a quarter of its longer side are looked at as well, which
overlap so far that every face only they can show lies whole in one of them. Faces found are painted over before a
closer look, and a face that a square shows must show again in a portrait of its own: patterns seldom do.

`python -m bench.pictures --faces` measures it on groups of one face at 1920 × 1440: found are all from 96 pixels, a
twentieth of the width, 18 of 20 at 67, 2 at 48, none at 35; one look finds all from 400, 4 of 6 at 250 and none at 192.
Of nine other faces, of four people, pasted apart into photos, 99 % were found at 67 pixels and 69 % at 48. In 91 stills
of video nothing but faces was found; without the portrait, four patterns were.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from moodreel.faces.landmarker import Face, FaceLandmarker, to_full_image

MAX_FACES = 32
MIN_TILE_SIDE = 256
"""Pixels of the smallest square worth a look: it shows faces from about an eighth of its side, and what is smaller than
32 pixels has no expression to be sure of."""
TILE_OVERLAP = 0.4
"""Of two neighbouring squares: a face that a square twice as large misses takes a quarter of this one, its head less
than this."""
MATCH_OVERLAP = 0.5
"""Share of the smaller of two boxes that lies in the larger, from which on they are one face."""
CONTEXT_SCALE = 2.0
"""Side of the square in which a face found in a part is looked at once more, in longer sides of its box."""

Tile = tuple[int, int, int]
"""Left, top and side, in pixels."""
Box = tuple[float, float, float, float]


def detect_tiled(
    landmarker: FaceLandmarker,
    rgb: np.ndarray,
    *,
    map_fn: Callable[..., Iterable[Any]] = map,
    max_faces: int = MAX_FACES,
) -> tuple[Face, ...]:
    """Return the faces of a picture, the one with the largest box first.

    rgb: uint8 (H, W, 3), red first.
    each: as `map`: that of a pool looks at the squares in several threads, and the answer stays the same.
    most: how many faces to return at most.
    """
    height, width = rgb.shape[:2]

    def look(picture: np.ndarray, square: Tile) -> list[Face]:
        left, top, side = square
        part = picture[top : top + side, left : left + side]
        whole = [face for face in landmarker.detect_once(part) if not _truncated_by_tile(face, square, width, height)]
        return to_full_image(whole, part, picture, left, top)

    def confirm(face: Face) -> list[Face]:
        return [
            again for again in look(rgb, _context_square(face, width, height)) if _is_same_face(face.box, again.box)
        ][:1]

    found = _deduplicate([landmarker.detect(rgb)])
    for side in _tile_sides(width, height):
        if len(found) >= max_faces:
            break
        rest = _mask_out(rgb, found)
        seen = _deduplicate(map_fn(partial(look, rest), _tiles(width, height, side)))
        found = _deduplicate([found, *map_fn(confirm, _largest_first(seen)[: max_faces - len(found)])])
    return tuple(_largest_first(found)[:max_faces])


def _tile_sides(width: int, height: int) -> list[int]:
    """Give the sides of the squares to look at, the largest first."""
    longer = max(width, height)
    sides = {min(max(longer // part, MIN_TILE_SIDE), width, height) for part in (2, 4)}
    return sorted((side for side in sides if MIN_TILE_SIDE <= side < longer), reverse=True)


def _tiles(width: int, height: int, side: int) -> list[Tile]:
    return [(left, top, side) for top in _starts(height, side) for left in _starts(width, side)]


def _starts(length: int, side: int) -> list[int]:
    steps = -(-(length - side) // int(side * (1 - TILE_OVERLAP)))
    return [round(start) for start in np.linspace(0, length - side, 1 + steps)]


def _context_square(face: Face, width: int, height: int) -> Tile:
    """Give the square around a face that a portrait would show."""
    x, y, w, h = face.box
    side = max(1, min(round(CONTEXT_SCALE * max(w * width, h * height)), width, height))
    left = round((x + w / 2) * width - side / 2)
    top = round((y + h / 2) * height - side / 2)
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side


def _deduplicate(looks: Iterable[Iterable[Face]]) -> list[Face]:
    """Take each face of several looks once, as it was seen first."""
    distinct: list[Face] = []
    for face in itertools.chain.from_iterable(looks):
        if not any(_is_same_face(face.box, other.box) for other in distinct):
            distinct.append(face)
    return distinct


def _mask_out(rgb: np.ndarray, faces: Iterable[Face]) -> np.ndarray:
    """Paint faces over: to find them in every square again would cost as much as all the rest."""
    rgb = rgb.copy()
    height, width = rgb.shape[:2]
    for face in faces:
        x, y, w, h = face.box
        part = rgb[int(y * height) : int((y + h) * height) + 1, int(x * width) : int((x + w) * width) + 1]
        part[:] = part.mean(axis=(0, 1))
    return rgb


def _truncated_by_tile(face: Face, square: Tile, width: int, height: int) -> bool:
    """Tell whether a face reaches out of its square where the picture goes on: another square shows it whole."""
    left, top, side = square
    (x0, y0), (x1, y1) = face.landmarks[:, :2].min(axis=0), face.landmarks[:, :2].max(axis=0)
    across = (x0 < 0 and left > 0) or (x1 > 1 and left + side < width)
    down = (y0 < 0 and top > 0) or (y1 > 1 and top + side < height)
    return bool(across or down)


def _is_same_face(a: Box, b: Box) -> bool:
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return across > 0 and down > 0 and across * down > MATCH_OVERLAP * min(a[2] * a[3], b[2] * b[3])


def _largest_first(faces: Iterable[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: face.box[2] * face.box[3], reverse=True)
