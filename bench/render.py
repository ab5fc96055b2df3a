"""Render face images as frames of a phone camera, under conditions that make them harder to read.

`bench.robustness` uses them. Every effect takes a `Scene`, a strength and a random generator, and returns a frame,
uint8 (640, 480, 3) RGB. Effects that need the place of the face return the frame unchanged if no face was found in it.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from mediapipe.tasks.python.vision.face_landmarker import FaceLandmarksConnections

from moodreel.faces.features import normalize_landmarks
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.pipelines.engine import DETECTION_SIDE
from tests.support import synthetic_video

WIDTH, HEIGHT = DETECTION_SIDE * 3 // 4, DETECTION_SIDE
"""Size of a frame in pixels: a phone held upright, at the size in which the service detects faces."""
CENTER = WIDTH / 2, 0.45 * HEIGHT
"""Pixels: where the center of the face image is placed."""
FACE = 160
"""Width of a face in pixels, ear to ear: a phone at arm's length."""

_SHARE = 0.84
"""Median share of the width of a FER+ image that the face's landmarks take."""
_GAMMA = 2.2
_FULL, _READ = 2000.0, 4.0
"""Electrons: full-well capacity of a small sensor, and its read noise (standard deviation)."""

_CORNERS = (33, 133), (362, 263)
"""Landmarks of the corners of the eyes: outer and inner, inner and outer."""
_JAW = (93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323)
_MASK = (*_JAW, 197)
"""Landmarks around a surgical mask: along the jaw from ear to ear, and the bridge of the nose."""
_MOUTH = (61, 291)
_TEMPLES = (234, 454)


@dataclass(frozen=True, eq=False)
class Scene:
    """A face image as a frame in plain conditions, and where its face is.

    Attributes:
        image: uint8 (S, S), grayscale, filled by a face as in FER+.
        frame: uint8 (640, 480, 3) RGB: `render_frame(image)`.
        landmarks: float64 (478, 3), in pixels of the frame, y down, smaller z nearer; None without a face.
        yaw: Degrees that the head is turned in the image, as in `FaceFeatures.pose`; 0 without a face.
    """

    image: np.ndarray
    frame: np.ndarray
    landmarks: np.ndarray | None
    yaw: float


Effect = Callable[[Scene, float, np.random.Generator], np.ndarray]


def make_scene(image: np.ndarray, landmarker: FaceLandmarker) -> Scene:
    """Render a grayscale image, uint8 (S, S), in plain conditions, and detect its face."""
    frame = render_frame(image)
    faces = landmarker.detect(frame)
    if not faces:
        return Scene(image, frame, None, 0.0)
    _, pose = normalize_landmarks(faces[0].landmarks, width=WIDTH, height=HEIGHT)
    return Scene(image, frame, faces[0].landmarks * np.float64((WIDTH, HEIGHT, WIDTH)), float(pose[0]))


def render_frame(image: np.ndarray, *, face: float = FACE, cast: float = 1.0) -> np.ndarray:
    """Place a grayscale image, uint8 (S, S), in a color frame, on a strongly blurred copy of itself as background.

    Args:
        image: uint8 (S, S), grayscale.
        face: Width of the face in pixels.
        cast: Warmth of the colors: 1 is skin in daylight, 0 gray, below 0 bluish.
    """
    side = round(face / _SHARE)
    sized = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC if side > len(image) else cv2.INTER_AREA)
    left, top = (int(middle - side / 2) for middle in CENTER)
    edges = (top, HEIGHT - top - side, left, WIDTH - left - side)
    ramp = np.clip(np.minimum(np.arange(side) + 1, side - np.arange(side)) / (0.06 * side), 0, 1)
    mask = cv2.copyMakeBorder(np.outer(ramp, ramp), *edges, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.copyMakeBorder(sized, *edges, cv2.BORDER_REPLICATE)
    cut = (HEIGHT - WIDTH) // 2
    ground = _blur_strongly(cv2.resize(image, (HEIGHT, HEIGHT))[:, cut : cut + WIDTH], 0.3 * FACE)
    return _composite(_colorize(inside, cast), _colorize(ground, 0.3 * cast), mask)


def plain(scene: Scene, strength: float, rng: np.random.Generator) -> np.ndarray:
    return scene.frame


def sized(scene: Scene, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """Change the distance: the face is `pixels` wide."""
    return render_frame(scene.image, face=pixels)


def recolored(scene: Scene, cast: float, rng: np.random.Generator) -> np.ndarray:
    """Change the color of the light; `cast` as in `render_frame`."""
    return render_frame(scene.image, cast=cast)


def blurred(scene: Scene, percent: float, rng: np.random.Generator) -> np.ndarray:
    """Defocus: a Gaussian blur whose sigma is `percent` of the face's width."""
    return cv2.GaussianBlur(scene.frame, (0, 0), percent / 100 * FACE)


def shaken(scene: Scene, percent: float, rng: np.random.Generator) -> np.ndarray:
    """Motion blur along a line of `percent` of the face's width, in a random direction."""
    length, angle = percent / 100 * FACE, rng.uniform(0, np.pi)
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    reach = length / 2 * np.array([np.cos(angle), np.sin(angle)])
    ends = [np.round((side // 2 + sign * reach) * 16).astype(int).tolist() for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0, 1, cv2.LINE_AA, shift=4)
    return cv2.filter2D(scene.frame, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def darkened(scene: Scene, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Underexpose by `stops`, with the shot noise and read noise of the sensor. The frame is not brightened again."""
    electrons = _to_linear(scene.frame) * 2.0**-stops * _FULL
    spread = np.sqrt(electrons + _READ**2)  # shot noise, close to normal at these counts
    return _to_srgb((electrons + spread * rng.standard_normal(spread.shape, np.float32)) / _FULL)


def overexposed(scene: Scene, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Overexpose by `stops`, and clip."""
    return _to_srgb(_to_linear(scene.frame) * 2.0**stops)


def noisy(scene: Scene, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of standard deviation `sigma`, on the scale 0 to 255."""
    noise = np.float32(sigma) * rng.standard_normal(scene.frame.shape, np.float32)
    return (scene.frame + noise).clip(0, 255).astype(np.uint8)


def as_jpeg(scene: Scene, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Compress as a JPEG of quality 0 to 100."""
    written = cv2.imencode(".jpg", scene.frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return np.ascontiguousarray(cv2.imdecode(written, cv2.IMREAD_COLOR)[..., ::-1])


def as_h264(scene: Scene, crf: float, rng: np.random.Generator) -> np.ndarray:
    """Compress as H.264 at a constant rate factor: the last of five frames that drift by a pixel each."""
    frames = [
        cv2.warpAffine(
            scene.frame, np.float32([[1, 0, drift], [0, 1, 0]]), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE
        )
        for drift in range(-4, 1)
    ]
    # The assembly code of x264, unlike its C code, is not deterministic within one process.
    options = {"crf": f"{crf:g}", "preset": "veryfast", "threads": "1", "x264-params": "asm=0"}
    return synthetic_video.decode_frames(synthetic_video.encode_video(frames, options=options))[-1]


def rolled(scene: Scene, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Roll the head by `degrees`, to a random side."""
    around = cv2.getRotationMatrix2D(CENTER, degrees * rng.choice((-1, 1)), 1.0)
    return cv2.warpAffine(scene.frame, around, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def yawed(scene: Scene, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Turn the head to `degrees`, positive towards the right of the image. A head that is turned farther stays.

    The head is turned farther to its own side, and the frame is mirrored if that is the wrong one: turning it back
    would need the half of the face that the image does not show.
    """
    if scene.landmarks is None:
        return scene.frame
    farther = np.copysign(max(abs(degrees) - abs(scene.yaw), 0), scene.yaw)
    frame = turn(scene.frame, scene.landmarks, yaw=farther)
    return frame if scene.yaw * degrees > 0 else np.ascontiguousarray(frame[:, ::-1])


def pitched(scene: Scene, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Raise the head by `degrees` from where it is."""
    return scene.frame if scene.landmarks is None else turn(scene.frame, scene.landmarks, pitch=degrees)


def masked(scene: Scene, share: float, rng: np.random.Generator) -> np.ndarray:
    """Cover the mouth: at 1 as a surgical mask does, below 1 a smaller area, as a hand or a cup does."""
    if scene.landmarks is None:
        return scene.frame
    points = scene.landmarks[:, :2]
    mouth = points[list(_MOUTH)].mean(axis=0)
    mask = _fill_polygons([mouth + share * (cv2.convexHull(np.float32(points[list(_MASK)]))[:, 0] - mouth)])
    # The cover is lit like the face, or it would be too bright in dark images.
    light = _blur_strongly(cv2.cvtColor(scene.frame, cv2.COLOR_RGB2GRAY), 0.15 * FACE)[..., None] / 255
    return _composite(light**0.5 * (165, 195, 210), scene.frame, mask)


def with_glasses(scene: Scene, opacity: float, rng: np.random.Generator) -> np.ndarray:
    """Put on dark glasses that let 1 - `opacity` of the light through."""
    if scene.landmarks is None:
        return scene.frame
    right, left = (scene.landmarks[list(corners)].mean(axis=0) for corners in _CORNERS)
    across, apart = (left - right)[:2], float(np.linalg.norm(left - right))
    # In a turned head the lenses are narrower, but as high.
    axes = round(0.42 * float(np.hypot(*across))), round(0.33 * apart)
    below = 0.06 * np.array([-across[1], across[0]])
    angle = round(float(np.degrees(np.arctan2(across[1], across[0]))))
    lenses = [cv2.ellipse2Poly(np.int32(eye[:2] + below).tolist(), axes, angle, 0, 360, 10) for eye in (right, left)]
    frame = _composite(np.full_like(scene.frame, 30), scene.frame, opacity * _fill_polygons(lenses))
    rims = np.zeros(frame.shape[:2], np.float32)
    thick = max(2, round(0.05 * apart))
    bridge = np.int32([scene.landmarks[168, :2] + side * across for side in (-0.12, 0.12)])
    cv2.polylines(rims, [*lenses, bridge], False, 1.0, thick, cv2.LINE_AA)
    return _composite(np.full_like(frame, 20), frame, rims)


def lit_from_side(scene: Scene, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Darken a random half of the face by `stops`."""
    across = (np.arange(WIDTH) - CENTER[0]) / (0.2 * FACE) * rng.choice((-1, 1))
    return _to_srgb(_to_linear(scene.frame) * 2.0 ** (-stops * (1 + np.tanh(across)) / 2)[:, None])


def lit_from_behind(scene: Scene, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Light from behind: a white background, the head `stops` darker, and stray light over it."""
    if scene.landmarks is None:
        return scene.frame
    points = scene.landmarks[:, :2]
    middle = points[list(_TEMPLES)].mean(axis=0)
    head = middle + 1.25 * (cv2.convexHull(np.float32(points))[:, 0] - middle)
    chin, broad = head[:, 1].max(), np.ptp(head[:, 0])
    body = middle[0] + broad * np.array([-0.3, 0.3, 0.4, 1.1, 1.1, -1.1, -1.1, -0.4])
    level = np.array([-0.3, -0.3, 0.1, 0.4, 9, 9, 0.4, 0.1]) * broad + chin
    mask = cv2.GaussianBlur(_fill_polygons([head, np.column_stack([body, level])]), (0, 0), 0.03 * FACE)[..., None]
    return _to_srgb(mask * _to_linear(scene.frame) * 2.0**-stops + (1 - mask) * 1.0 + 0.02)


def turn(frame: np.ndarray, landmarks: np.ndarray, *, yaw: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    """Turn the head in a frame, rendered as a mesh with the frame as its texture.

    Beyond the edge of MediaPipe's mesh, the frame is continued to the back of the head, and stretched from there to the
    background, which stays. The projection is orthographic.

    Args:
        frame: uint8 (H, W, 3).
        landmarks: (478, 3), in pixels of the frame.
        yaw: Degrees, sign as in `landmarker.Face`.
        pitch: Degrees, sign as in `landmarker.Face`.
    """
    triangles, oval, _ = face_mesh()
    points = np.concatenate([landmarks[:468], *head_rings(landmarks, oval)])
    pivot = landmarks[list(_TEMPLES)].mean(axis=0)
    across, up = np.radians((yaw, pitch))
    about_y = np.array([[np.cos(across), 0, -np.sin(across)], [0, 1, 0], [np.sin(across), 0, np.cos(across)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(up), np.sin(up)], [0, -np.sin(up), np.cos(up)]])
    turned = points.copy()
    head = slice(0, -len(oval))
    turned[head] = (points[head] - pivot) @ (about_y @ about_x).T + pivot
    triangles = triangles[np.argsort(-turned[triangles, 2].mean(axis=1))]
    return render_mesh(frame, points[triangles, :2], turned[triangles, :2])


def render_mesh(frame: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Render triangles over a frame, with the frame as their texture.

    Args:
        frame: uint8 (H, W, 3).
        source: (T, 3, 2), corners of each triangle in the frame, in pixels.
        target: (T, 3, 2), where they are rendered, the nearest last. One that shows its back is left out.
    """
    ahead, aside = target[:, 1] - target[:, 0], target[:, 2] - target[:, 0]
    # Back-face culling: MediaPipe's triangles have one winding order, seen from the front.
    facing = np.flatnonzero(ahead[:, 0] * aside[:, 1] - ahead[:, 1] * aside[:, 0] < -1e-3)
    which = np.full(frame.shape[:2], -1, np.int32)
    for index, corner in enumerate(np.round(target[facing] * 16).astype(np.int32)):
        cv2.fillConvexPoly(which, corner, index, shift=4)
    # For each triangle, the affine map from the rendered frame to the texture.
    shown = np.concatenate([target[facing], np.ones((len(facing), 3, 1))], axis=2)
    back = np.linalg.solve(shown, source[facing])
    place = np.dstack(np.meshgrid(np.arange(frame.shape[1]), np.arange(frame.shape[0]))).astype(np.float32)
    y, x = np.nonzero(which >= 0)
    place[y, x] = np.einsum("ni,nij->nj", np.column_stack([x, y, np.ones(len(x))]), back[which[y, x]])
    return cv2.remap(frame, place, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@cache
def face_mesh() -> tuple[np.ndarray, np.ndarray, slice]:
    """Return the triangles of a head, the oval of its face, and which triangles fill the eyes and the mouth.

    Three edges of MediaPipe's tessellation make a triangle.

    Returns:
        int (T, 3), landmarks and points of `head_rings`; int (36,), landmarks; and a slice of the triangles.
    """
    starts = [edge.start for edge in FaceLandmarksConnections.FACE_LANDMARKS_TESSELATION]
    triangles = np.array(starts).reshape(-1, 3)
    edges = {(int(a), int(b)) for t in triangles for a, b in zip(t, np.roll(t, -1), strict=True)}
    following = {b: a for a, b in edges if (b, a) not in edges}
    loops = []
    while following:
        loop = [next(iter(following))]
        while loop[-1] in following:
            loop.append(following.pop(loop[-1]))
        loops.append(np.array(loop[1:]))
    oval = max(loops, key=len)
    lids = [np.column_stack([np.full(len(r) - 2, r[0]), r[1:-1], r[2:]]) for r in loops if r is not oval]
    rows = [oval, *(468 + len(oval) * ring + np.arange(len(oval)) for ring in range(len(_RINGS)))]
    skirt = []
    for inner, outer in itertools.pairwise(rows):
        skirt.append(np.column_stack([inner, np.roll(inner, -1), outer]))
        skirt.append(np.column_stack([np.roll(inner, -1), np.roll(outer, -1), outer]))
    holes = slice(len(triangles), len(triangles) + sum(map(len, lids)))
    return np.concatenate([triangles, *lids, *skirt]), oval, holes


_RINGS = (1.1, 0.1), (1.3, 0.35), (1.4, 0.6), (2.4, 0.6)
"""Rings around the face for the rest of the head and the background: scale of the face's oval, and distance behind it
in face widths. The last ring does not turn with the head."""


def head_rings(landmarks: np.ndarray, oval: np.ndarray) -> list[np.ndarray]:
    """Return the rings around a face, each float (36, 3), see `_RINGS`."""
    edge, middle = landmarks[oval], landmarks[oval].mean(axis=0)
    width = np.ptp(edge[:, 0])
    return [
        np.column_stack([middle[:2] + grow * (edge[:, :2] - middle[:2]), edge[:, 2] + behind * width])
        for grow, behind in _RINGS
    ]


def _colorize(gray: np.ndarray, cast: float) -> np.ndarray:
    """Colorize grayscale (H, W): float32 (H, W, 3). Black and white stay, brightness hardly changes."""
    levels = np.linspace(0, 1, 256)[:, None] ** np.exp(cast * np.array([-0.22, 0.04, 0.26]))
    return (255 * levels).astype(np.float32)[gray]


def _blur_strongly(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with a large `sigma` in pixels, computed at an eighth of the size."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (width // 8, height // 8), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(sigma / 8, 0.3), borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _composite(top: np.ndarray, bottom: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Composite `top` over `bottom`, both (H, W, 3), by the alpha `mask` (H, W)."""
    share = np.float32(mask)[..., None]
    return (share * top + (1 - share) * bottom + 0.5).clip(0, 255).astype(np.uint8)


def _fill_polygons(polygons: list[np.ndarray]) -> np.ndarray:
    """Return an alpha mask, float32 (H, W), of polygons, each (N, 2) in pixels, with smooth edges."""
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    for polygon in polygons:
        cv2.fillPoly(mask, [np.round(np.asarray(polygon) * 16).astype(np.int32)], 1.0, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), 1.0)


def _to_linear(frame: np.ndarray) -> np.ndarray:
    """Convert display values, 0 to 255, to linear light, 0 to 1."""
    return (np.linspace(0, 1, 256) ** _GAMMA).astype(np.float32)[frame]


def _to_srgb(light: np.ndarray) -> np.ndarray:
    return (255 * light.clip(0, 1) ** (1 / _GAMMA) + 0.5).astype(np.uint8)
