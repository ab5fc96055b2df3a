"""Pictures of faces as a phone sees them, and worse: the renderings that `bench.robustness` measures with.

Every effect takes a `Scene`, a strength and a random generator, and returns a frame, uint8 (640, 480, 3), red first.
Those that have to know where the face is leave the frame as it is where none was found in plain conditions.
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
"""Pixels of a frame: a phone held upright, as large as the service looks for faces in."""
CENTRE = WIDTH / 2, 0.45 * HEIGHT
"""Pixels: where the picture's middle is."""
FACE = 160
"""Pixels that a face is across, ear to ear: a phone at arm's length."""

_SHARE = 0.84
"""Share of its picture's width that a face of FER+ takes: the median of its landmarks' width."""
_GAMMA = 2.2
_FULL, _READ = 2000.0, 4.0
"""Electrons: a white pixel of a small sensor, and the noise of reading it (standard deviation)."""

_CORNERS = (33, 133), (362, 263)
"""Of the eyes, as landmarks, outer and inner, inner and outer."""
_JAW = (93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323)
_MASK = (*_JAW, 197)
"""What a surgical mask covers: from one ear along the jaw to the other, and the bridge of the nose."""
_MOUTH = (61, 291)
_TEMPLES = (234, 454)


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture as a phone sees it in plain conditions, and where its face is.

    picture: uint8 (S, S), grey; a face fills it, as FER+ has them.
    frame: uint8 (640, 480, 3), red first: `shoot(picture)`.
    landmarks: float64 (478, 3), in pixels of the frame, y down, z smaller nearer; None where no face was found.
    yaw: degrees the head is turned already, as `FaceFeatures.pose` has it; 0 where no face was found.
    """

    picture: np.ndarray
    frame: np.ndarray
    landmarks: np.ndarray | None
    yaw: float


Effect = Callable[[Scene, float, np.random.Generator], np.ndarray]


def scene(picture: np.ndarray, finder: FaceLandmarker) -> Scene:
    """Show a grey picture (S, S), uint8, in plain conditions, and find its face."""
    frame = shoot(picture)
    faces = finder.detect(frame)
    if not faces:
        return Scene(picture, frame, None, 0.0)
    _, pose = normalize_landmarks(faces[0].landmarks, width=WIDTH, height=HEIGHT)
    return Scene(picture, frame, faces[0].landmarks * np.float64((WIDTH, HEIGHT, WIDTH)), float(pose[0]))


def shoot(picture: np.ndarray, *, face: float = FACE, cast: float = 1.0) -> np.ndarray:
    """Set a grey picture (S, S), uint8, into a frame in colour, on a ground of itself, large and far out of focus.

    face: pixels that its face is across. cast: how warm the colours are: 1 skin in daylight, 0 grey, below 0 bluish.
    """
    side = round(face / _SHARE)
    sized = cv2.resize(picture, (side, side), interpolation=cv2.INTER_CUBIC if side > len(picture) else cv2.INTER_AREA)
    left, top = (int(middle - side / 2) for middle in CENTRE)
    edges = (top, HEIGHT - top - side, left, WIDTH - left - side)
    ramp = np.clip(np.minimum(np.arange(side) + 1, side - np.arange(side)) / (0.06 * side), 0, 1)
    matte = cv2.copyMakeBorder(np.outer(ramp, ramp), *edges, cv2.BORDER_CONSTANT, value=0)
    inside = cv2.copyMakeBorder(sized, *edges, cv2.BORDER_REPLICATE)
    cut = (HEIGHT - WIDTH) // 2
    ground = _blurred(cv2.resize(picture, (HEIGHT, HEIGHT))[:, cut : cut + WIDTH], 0.3 * FACE)
    return _over(_tinted(inside, cast), _tinted(ground, 0.3 * cast), matte)


def plain(scene: Scene, strength: float, rng: np.random.Generator) -> np.ndarray:
    return scene.frame


def sized(scene: Scene, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """Come nearer or go farther, to a face so many pixels across."""
    return shoot(scene.picture, face=pixels)


def coloured(scene: Scene, cast: float, rng: np.random.Generator) -> np.ndarray:
    """Change the light's colour; `cast` as in `shoot`."""
    return shoot(scene.picture, cast=cast)


def blurred(scene: Scene, percent: float, rng: np.random.Generator) -> np.ndarray:
    """Lose focus: a Gaussian of so many percent of the face's width (standard deviation)."""
    return cv2.GaussianBlur(scene.frame, (0, 0), percent / 100 * FACE)


def shaken(scene: Scene, percent: float, rng: np.random.Generator) -> np.ndarray:
    """Move in a straight line while the shutter is open, by so many percent of the face's width, anywhere to."""
    length, angle = percent / 100 * FACE, rng.uniform(0, np.pi)
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    reach = length / 2 * np.array([np.cos(angle), np.sin(angle)])
    ends = [np.round((side // 2 + sign * reach) * 16).astype(int).tolist() for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0, 1, cv2.LINE_AA, shift=4)
    return cv2.filter2D(scene.frame, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def darkened(scene: Scene, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Take light away, by so many stops, until the sensor counts few photons; nothing is made brighter again."""
    electrons = _linear(scene.frame) * 2.0**-stops * _FULL
    spread = np.sqrt(electrons + _READ**2)  # so many photons come nearly as a normal distribution has them
    return _displayed((electrons + spread * rng.standard_normal(spread.shape, np.float32)) / _FULL)


def overexposed(scene: Scene, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Take so many stops too much light; what is whiter than white is lost."""
    return _displayed(_linear(scene.frame) * 2.0**stops)


def noisy(scene: Scene, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Add normal noise of standard deviation `sigma`, in steps of 0 to 255."""
    noise = np.float32(sigma) * rng.standard_normal(scene.frame.shape, np.float32)
    return (scene.frame + noise).clip(0, 255).astype(np.uint8)


def as_jpeg(scene: Scene, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Write and read a JPEG of quality 0 to 100."""
    written = cv2.imencode(".jpg", scene.frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return np.ascontiguousarray(cv2.imdecode(written, cv2.IMREAD_COLOR)[..., ::-1])


def as_h264(scene: Scene, crf: float, rng: np.random.Generator) -> np.ndarray:
    """Give the last of five frames that drift by a pixel each, written and read as H.264 of constant rate factor."""
    frames = [
        cv2.warpAffine(
            scene.frame, np.float32([[1, 0, drift], [0, 1, 0]]), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REPLICATE
        )
        for drift in range(-4, 1)
    ]
    # x264's assembly, unlike its C, does not write the same twice in one process.
    options = {"crf": f"{crf:g}", "preset": "veryfast", "threads": "1", "x264-params": "asm=0"}
    return synthetic_video.decode_frames(synthetic_video.encode_video(frames, options=options))[-1]


def rolled(scene: Scene, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Lean the head, or the phone, by so many degrees, to a side at random."""
    around = cv2.getRotationMatrix2D(CENTRE, degrees * rng.choice((-1, 1)), 1.0)
    return cv2.warpAffine(scene.frame, around, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def yawed(scene: Scene, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Turn the head to so many degrees, towards the picture's right when positive; one turned farther stays.

    It turns to where it looks already, and the frame is mirrored where that is the other side: the half of a face
    that the picture hides would have to be made up.
    """
    if scene.landmarks is None:
        return scene.frame
    farther = np.copysign(max(abs(degrees) - abs(scene.yaw), 0), scene.yaw)
    frame = turn(scene.frame, scene.landmarks, yaw=farther)
    return frame if scene.yaw * degrees > 0 else np.ascontiguousarray(frame[:, ::-1])


def pitched(scene: Scene, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Raise the head by so many degrees from where it is, or lower the phone."""
    return scene.frame if scene.landmarks is None else turn(scene.frame, scene.landmarks, pitch=degrees)


def masked(scene: Scene, share: float, rng: np.random.Generator) -> np.ndarray:
    """Cover the mouth: 1 as a surgical mask does, less as much smaller about the mouth, as a hand or a cup does."""
    if scene.landmarks is None:
        return scene.frame
    points = scene.landmarks[:, :2]
    mouth = points[list(_MOUTH)].mean(axis=0)
    matte = _filled([mouth + share * (cv2.convexHull(np.float32(points[list(_MASK)]))[:, 0] - mouth)])
    # Lit as the face is, or it would be a hole in the dark and a lamp in the light.
    light = _blurred(cv2.cvtColor(scene.frame, cv2.COLOR_RGB2GRAY), 0.15 * FACE)[..., None] / 255
    return _over(light**0.5 * (165, 195, 210), scene.frame, matte)


def with_glasses(scene: Scene, opacity: float, rng: np.random.Generator) -> np.ndarray:
    """Put dark glasses on that let 1 - `opacity` of the light through."""
    if scene.landmarks is None:
        return scene.frame
    right, left = (scene.landmarks[list(corners)].mean(axis=0) for corners in _CORNERS)
    across, apart = (left - right)[:2], float(np.linalg.norm(left - right))
    # As a head turns, glasses get narrower, but no lower.
    axes = round(0.42 * float(np.hypot(*across))), round(0.33 * apart)
    below = 0.06 * np.array([-across[1], across[0]])
    angle = round(float(np.degrees(np.arctan2(across[1], across[0]))))
    lenses = [cv2.ellipse2Poly(np.int32(eye[:2] + below).tolist(), axes, angle, 0, 360, 10) for eye in (right, left)]
    frame = _over(np.full_like(scene.frame, 30), scene.frame, opacity * _filled(lenses))
    rims = np.zeros(frame.shape[:2], np.float32)
    thick = max(2, round(0.05 * apart))
    bridge = np.int32([scene.landmarks[168, :2] + side * across for side in (-0.12, 0.12)])
    cv2.polylines(rims, [*lenses, bridge], False, 1.0, thick, cv2.LINE_AA)
    return _over(np.full_like(frame, 20), frame, rims)


def lit_from_side(scene: Scene, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Leave one half of the face, at random, so many stops darker than the other."""
    across = (np.arange(WIDTH) - CENTRE[0]) / (0.2 * FACE) * rng.choice((-1, 1))
    return _displayed(_linear(scene.frame) * 2.0 ** (-stops * (1 + np.tanh(across)) / 2)[:, None])


def lit_from_behind(scene: Scene, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Stand before a bright window: the ground white, the head so many stops darker, a veil of stray light over it."""
    if scene.landmarks is None:
        return scene.frame
    points = scene.landmarks[:, :2]
    middle = points[list(_TEMPLES)].mean(axis=0)
    head = middle + 1.25 * (cv2.convexHull(np.float32(points))[:, 0] - middle)
    chin, broad = head[:, 1].max(), np.ptp(head[:, 0])
    body = middle[0] + broad * np.array([-0.3, 0.3, 0.4, 1.1, 1.1, -1.1, -1.1, -0.4])
    level = np.array([-0.3, -0.3, 0.1, 0.4, 9, 9, 0.4, 0.1]) * broad + chin
    matte = cv2.GaussianBlur(_filled([head, np.column_stack([body, level])]), (0, 0), 0.03 * FACE)[..., None]
    return _displayed(matte * _linear(scene.frame) * 2.0**-stops + (1 - matte) * 1.0 + 0.02)


def turn(frame: np.ndarray, landmarks: np.ndarray, *, yaw: float = 0.0, pitch: float = 0.0) -> np.ndarray:
    """Turn the head in a frame, as a mesh with the frame as its texture.

    frame: uint8 (H, W, 3). landmarks: (478, 3), in its pixels. yaw, pitch: degrees, signs as in `landmarker.Face`.
    Around the face, where MediaPipe's mesh ends, what the frame has there is carried on to the back of the head, and
    from there stretched to the ground that stays. The camera is far away: nothing grows by coming nearer.
    """
    triangles, oval = _mesh()
    points = np.concatenate([landmarks[:468], *_rings(landmarks, oval)])
    pivot = landmarks[list(_TEMPLES)].mean(axis=0)
    across, up = np.radians((yaw, pitch))
    about_y = np.array([[np.cos(across), 0, -np.sin(across)], [0, 1, 0], [np.sin(across), 0, np.cos(across)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(up), np.sin(up)], [0, -np.sin(up), np.cos(up)]])
    turned = points.copy()
    head = slice(0, -len(oval))
    turned[head] = (points[head] - pivot) @ (about_y @ about_x).T + pivot

    corners = turned[triangles]
    ahead, aside = corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2]
    # MediaPipe's triangles run one way round, seen from the front: the others show their back.
    facing = np.flatnonzero(ahead[:, 0] * aside[:, 1] - ahead[:, 1] * aside[:, 0] < -1e-3)
    facing = facing[np.argsort(-corners[facing, :, 2].mean(axis=1))]
    which = np.full(frame.shape[:2], -1, np.int32)
    for index, corner in zip(facing, np.round(corners[facing, :, :2] * 16).astype(np.int32), strict=True):
        cv2.fillConvexPoly(which, corner, int(index), shift=4)

    # For each triangle, the affine map from where it is shown to where its texture is.
    shown = np.concatenate([corners[facing, :, :2], np.ones((len(facing), 3, 1))], axis=2)
    back = np.zeros((len(triangles), 3, 2))
    back[facing] = np.linalg.solve(shown, points[triangles[facing], :2])
    source = np.dstack(np.meshgrid(np.arange(frame.shape[1]), np.arange(frame.shape[0]))).astype(np.float32)
    y, x = np.nonzero(which >= 0)
    source[y, x] = np.einsum("ni,nij->nj", np.column_stack([x, y, np.ones(len(x))]), back[which[y, x]])
    return cv2.remap(frame, source, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


@cache
def _mesh() -> tuple[np.ndarray, np.ndarray]:
    """Triangles (T, 3) of the face, eyes and mouth closed, then of the rings around; and the oval (36,) they start at.

    Three edges of MediaPipe's tessellation make a triangle.
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
    return np.concatenate([triangles, *lids, *skirt]), oval


_RINGS = (1.1, 0.1), (1.3, 0.35), (1.4, 0.6), (2.4, 0.6)
"""The head around the face, and the ground: how much wider than the face's oval, and how far behind it in widths of
the face. The last does not turn with the head."""


def _rings(landmarks: np.ndarray, oval: np.ndarray) -> list[np.ndarray]:
    edge, middle = landmarks[oval], landmarks[oval].mean(axis=0)
    width = np.ptp(edge[:, 0])
    return [
        np.column_stack([middle[:2] + grow * (edge[:, :2] - middle[:2]), edge[:, 2] + behind * width])
        for grow, behind in _RINGS
    ]


def _tinted(grey: np.ndarray, cast: float) -> np.ndarray:
    """Colour grey (H, W): float32 (H, W, 3). Black stays black, white white, and brightness nearly what it was."""
    levels = np.linspace(0, 1, 256)[:, None] ** np.exp(cast * np.array([-0.22, 0.04, 0.26]))
    return (255 * levels).astype(np.float32)[grey]


def _blurred(picture: np.ndarray, sigma: float) -> np.ndarray:
    """Blur far more than a few pixels, `sigma` of them, at an eighth of the size."""
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (width // 8, height // 8), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(sigma / 8, 0.3), borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _over(top: np.ndarray, bottom: np.ndarray, matte: np.ndarray) -> np.ndarray:
    """Lay one picture (H, W, 3) over another where `matte` (H, W) is 1."""
    share = np.float32(matte)[..., None]
    return (share * top + (1 - share) * bottom + 0.5).clip(0, 255).astype(np.uint8)


def _filled(polygons: list[np.ndarray]) -> np.ndarray:
    """A matte (H, W), float32, that is 1 within the polygons (each (N, 2), in pixels), with smooth edges."""
    matte = np.zeros((HEIGHT, WIDTH), np.float32)
    for polygon in polygons:
        cv2.fillPoly(matte, [np.round(np.asarray(polygon) * 16).astype(np.int32)], 1.0, cv2.LINE_AA, shift=4)
    return cv2.GaussianBlur(matte, (0, 0), 1.0)


def _linear(frame: np.ndarray) -> np.ndarray:
    """Light, 0 to 1, of what a display shows, 0 to 255."""
    return (np.linspace(0, 1, 256) ** _GAMMA).astype(np.float32)[frame]


def _displayed(light: np.ndarray) -> np.ndarray:
    return (255 * light.clip(0, 1) ** (1 / _GAMMA) + 0.5).astype(np.uint8)
