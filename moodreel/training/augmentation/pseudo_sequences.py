"""Pseudo-sequences: short clips of features made from stills, for what no still can teach.

FER+ has one picture a person. A clip of that person needs their other faces, so these are made: a linear deformation
model says how landmarks move when blendshapes change, and takes a face to calm and back, makes it talk, blink, look
about and turn. What is made moves as faces do, but is simpler than they are.

There is no such model of pictures. Where a sequence needs what a network says of a face's appearance, it goes from what
the network says of the calm still to what it says of the expressive one; and while the mouth talks, it is led astray
towards the opinion of faces whose expression is not there, as far as the mouth moves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from moodreel.emotions import FIVE
from moodreel.faces.landmarker import BLENDSHAPES
from moodreel.training.data.face_cache import FaceTable

MAX_FRAMES = 64
"""Moments of the longest sequence; at 5 a second about 13 seconds."""


class SequenceKind(IntEnum):
    """What happens in a sequence; its label is that of the still it is made from."""

    STILL = 0  # one moment
    STEADY = 1  # the same face throughout
    BURST = 2  # calm, then an expression for a part of the clip
    TALK = 3  # a calm face that talks, gapes, or shows another face for a moment too short to count: Neutral
    EXPRESSIVE_TALK = 4  # an expression that stays while the mouth talks
    ONSET = 5  # calm, then an expression that is at its height when the clip ends


KIND_SHARES = {
    SequenceKind.STILL: 0.2,
    SequenceKind.STEADY: 0.15,
    SequenceKind.BURST: 0.3,
    SequenceKind.TALK: 0.2,
    SequenceKind.EXPRESSIVE_TALK: 0.15,
}
"""How much of each kind to train on, unless something else is asked for."""


def _indices(*starts: str) -> np.ndarray:
    return np.array([i for i, name in enumerate(BLENDSHAPES) if name.startswith(starts)])


# Visemes in the large: open jaw, rounded lips, spread lips (two of each), closed lips. Each is blendshapes and how far
# they go.
VISEMES = tuple(
    np.array([shape.get(name.removesuffix("Left").removesuffix("Right"), 0.0) for name in BLENDSHAPES], np.float32)
    for shape in (
        {"jawOpen": 0.5, "mouthLowerDown": 0.4, "mouthUpperUp": 0.2},
        {"jawOpen": 0.4, "mouthFunnel": 0.3},
        {"jawOpen": 0.25, "mouthFunnel": 0.4, "mouthPucker": 0.3},
        {"mouthPucker": 0.7, "mouthFunnel": 0.2},
        {"jawOpen": 0.15, "mouthStretch": 0.3, "mouthLowerDown": 0.5, "mouthUpperUp": 0.15},
        {"jawOpen": 0.1, "mouthSmile": 0.3, "mouthStretch": 0.2, "mouthLowerDown": 0.5, "mouthUpperUp": 0.3},
        {"mouthPress": 0.3, "mouthRollLower": 0.3, "mouthRollUpper": 0.15},
    )
)
MOUTH = _indices("mouth", "jaw")
JAW_OPEN = BLENDSHAPES.index("jawOpen")
BLINK = _indices("eyeBlink")
BROWS_UP = _indices("browInnerUp", "browOuterUp")
GAZES = (_indices("eyeLookDown"), _indices("eyeLookUp"), _indices("eyeLookInLeft", "eyeLookOutRight"))


@dataclass(frozen=True, eq=False)
class DeformationModel:
    """How the landmarks (1434) follow the blendshapes (52) and the head's pose: ridge regression over stills."""

    by_blendshape: np.ndarray
    by_pose: np.ndarray


def fit_deformation(faces: FaceTable) -> DeformationModel:
    shape = faces.normalized_landmarks[faces.found].reshape(faces.found.sum(), -1)
    driver = np.concatenate([faces.blendshapes[faces.found], _pose_terms(faces.pose[faces.found])], axis=1)
    driver = driver - driver.mean(axis=0)
    # Some blendshapes hardly ever stir; without a penalty in their own unit a small change would throw the face about.
    gram = driver.T @ driver + len(driver) * 0.03**2 * np.eye(driver.shape[1])
    solution = np.linalg.solve(gram, driver.T @ (shape - shape.mean(axis=0))).astype(np.float32)
    count = len(BLENDSHAPES)
    return DeformationModel(by_blendshape=solution[:count], by_pose=solution[count:])


@dataclass(frozen=True, eq=False)
class SpeechOffsets:
    """What M mouths that speak add to one that is calm and closed: to its blendshapes, float32 (M, 52), and to what a
    network says of the appearance, float32 (M, A)."""

    blendshapes: np.ndarray
    appearance: np.ndarray


def speech_offsets(blendshapes: np.ndarray, appearance: np.ndarray) -> SpeechOffsets:
    """Take speech from stills of calm people (M, 52), (M, A): many were caught speaking. What a network makes of them
    is what it makes of speech."""
    quiet = np.argsort(blendshapes[:, MOUTH].sum(axis=1))[: max(1, len(blendshapes) // 4)]
    change = np.zeros_like(blendshapes)
    change[:, MOUTH] = blendshapes[:, MOUTH] - blendshapes[np.ix_(quiet, MOUTH)].mean(axis=0)
    return SpeechOffsets(change, appearance - appearance[quiet].mean(axis=0))


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """B sequences. faces: float32 (B, T, 1486), as `compact_emotimesh.read` lays them out; appearance: float32
    (B, T, A), what a network says of the faces' appearance; seen: bool (B, T); lengths: int64 (B,); targets: float32
    (B, 5); kinds: int64 (B,)."""

    faces: np.ndarray
    appearance: np.ndarray
    seen: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray
    kinds: np.ndarray


class PseudoSequenceGenerator:
    """Makes pseudo-sequences of the people in a set of stills.

    faces, targets: stills with a face, and float32 (N, 5) of what they show.
    appearance: float32 (N, A), what a network says of their appearance, where sequences shall have it.
    speech: how mouths speak; visemes that nobody's appearance goes with, when not given.
    shares: how much of each kind to make. longest: moments at most.
    """

    def __init__(
        self,
        faces: FaceTable,
        targets: np.ndarray,
        deformation: DeformationModel,
        appearance: np.ndarray | None = None,
        *,
        speech: SpeechOffsets | None = None,
        shares: Mapping[SequenceKind, float] = KIND_SHARES,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        usable = faces.found & (targets.sum(axis=1) > 0)
        appearance = np.zeros((len(targets), 0), np.float32) if appearance is None else appearance
        self._appearance = appearance[usable]
        self._speech = speech or SpeechOffsets(
            np.stack(VISEMES), np.zeros((len(VISEMES), appearance.shape[1]), np.float32)
        )
        self._shares = shares
        self._longest = max_frames
        self._faces = FaceTable(**{name: array[usable] for name, array in vars(faces).items()})
        self._targets = targets[usable]
        self._deformation = deformation
        self._spread = self._faces.blendshapes.std(axis=0)
        calm = self._targets[:, FIVE.index("Neutral")]
        self._calm = np.flatnonzero(calm > 0.7)
        clear = (calm < 0.35) & (self._targets.max(axis=1) > 0.5)
        emotion = self._targets.argmax(axis=1)
        jaw = self._faces.blendshapes[:, JAW_OPEN]
        # Without an appearance to lead astray, an open mouth is but a viseme.
        self._gaping = np.flatnonzero((speech is not None) & (emotion == FIVE.index("Shock")) & (jaw > 0.25))
        self._expressive = [np.flatnonzero(clear & (emotion == e)) for e in np.unique(emotion[clear])]

    def generate(self, count: int, rng: np.random.Generator, *, kind: SequenceKind | None = None) -> SequenceBatch:
        """Make `count` sequences, of all kinds by their shares or of one."""
        likely = list(self._shares.values())
        kinds = rng.choice(list(self._shares), size=count, p=likely) if kind is None else np.full(count, kind)
        rows, faces, looks = zip(*(self._one(SequenceKind(k), rng) for k in kinds), strict=True)
        lengths = np.array([len(clip) for clip in faces])
        batch = np.zeros((count, lengths.max(), faces[0].shape[1]), np.float32)
        appearance = np.zeros((*batch.shape[:2], self._appearance.shape[1]), np.float32)
        seen = np.zeros(batch.shape[:2], bool)
        for i, (clip, look) in enumerate(zip(faces, looks, strict=True)):
            batch[i, : len(clip)], appearance[i, : len(clip)] = clip, look
            seen[i, : len(clip)] = _visible(len(clip), rng)
        return SequenceBatch(
            faces=batch,
            appearance=appearance,
            seen=seen,
            lengths=lengths,
            targets=self._targets[list(rows)],
            kinds=kinds,
        )

    def _one(self, kind: SequenceKind, rng: np.random.Generator) -> tuple[int, np.ndarray, np.ndarray]:
        """The still a sequence is made from, its faces (T, 1486) and their appearance (T, A)."""
        row = self._pick(kind, rng)
        own = self._faces.blendshapes[row]
        moments = 1 if kind is SequenceKind.STILL else int(np.exp(rng.uniform(np.log(2), np.log(self._longest + 1))))
        calm, strength = row, np.ones(moments, np.float32)
        talk, heard = np.zeros((moments, len(own)), np.float32), np.zeros((moments, self._appearance.shape[1]))
        if kind in (SequenceKind.BURST, SequenceKind.ONSET):
            calm, strength = int(rng.choice(self._calm)), _burst(moments, rng, to_the_end=kind is SequenceKind.ONSET)
            if kind is SequenceKind.BURST and rng.random() < 0.5:
                talk, heard = ((1 - strength)[:, None] * said for said in _talk(self._speech, moments, rng))
        if kind in (SequenceKind.TALK, SequenceKind.EXPRESSIVE_TALK):
            talk, heard = _talk(self._speech, moments, rng)
        if kind is SequenceKind.TALK and len(self._gaping) and rng.random() < 0.5:
            gape, seen = self._gape(row, moments, rng)
            talk, heard = talk + gape, heard + seen
        blendshapes = _between(self._faces.blendshapes[calm], own, strength) + talk
        appearance = _between(self._appearance[calm], self._appearance[row], strength) + heard
        if appearance.size and moments > 1:
            # The network's own unsteadiness: all along, and from moment to moment.
            count = appearance.shape[1]
            unsteady = rng.normal(0, 0.2, count) + rng.normal(0, 0.3, (moments, count))
            appearance += unsteady * self._appearance.std(axis=0)
        if kind is SequenceKind.TALK and rng.random() < 0.5:
            lapse = rng.random() * 0.06 * moments
            start = int(rng.integers(moments))
            other = rng.integers(len(self._targets))
            blendshapes[start : start + int(lapse)] = self._faces.blendshapes[other]
            appearance[start : start + int(lapse)] = self._appearance[other]
        if moments > 1:
            blendshapes += _fidget(moments, self._spread, rng)
        blendshapes = blendshapes.clip(0, 1)
        shape = (
            self._faces.normalized_landmarks[row].reshape(-1) + (blendshapes - own) @ self._deformation.by_blendshape
        )
        if moments > 1:
            shape += self._turn(row, moments, rng)
            shape += rng.normal(0, 0.03, shape.shape)
        return row, np.concatenate([shape, blendshapes], axis=1).astype(np.float32), appearance.astype(np.float32)

    def _pick(self, kind: SequenceKind, rng: np.random.Generator) -> int:
        if kind is SequenceKind.TALK:
            return int(rng.choice(self._calm))
        if kind in (SequenceKind.BURST, SequenceKind.ONSET, SequenceKind.EXPRESSIVE_TALK):
            # Every emotion as often: what follows calm should not be a smile just because smiles are common.
            return int(rng.choice(self._expressive[rng.integers(len(self._expressive))]))
        return int(rng.integers(len(self._targets)))

    def _gape(self, row: int, moments: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What to add to blendshapes (T, 52) and appearance (T, A) of a still while the mouth is held open now and
        then, in thought or at a vowel: mouth and appearance are those of somebody surprised, eyes and brows are not."""
        strength = np.zeros((moments, 1))
        for _ in range(rng.integers(1, 5)):
            start = rng.integers(moments)
            strength[start : start + 1 + int(rng.exponential(3))] = rng.uniform(0.4, 1)
        other = rng.choice(self._gaping)
        mouth = np.zeros(len(BLENDSHAPES), np.float32)
        mouth[MOUTH] = (self._faces.blendshapes[other] - self._faces.blendshapes[row])[MOUTH]
        return strength * mouth, strength * (self._appearance[other] - self._appearance[row])

    def _turn(self, row: int, moments: int, rng: np.random.Generator) -> np.ndarray:
        """What is left in the normalised landmarks when the head turns a few degrees, (T, 1434)."""
        pose = self._faces.pose[row]
        turned = pose + np.outer(_drift(moments, rng), rng.normal(0, 6, 3))
        return (_pose_terms(turned) - _pose_terms(pose[None])).astype(np.float32) @ self._deformation.by_pose


def _pose_terms(pose: np.ndarray) -> np.ndarray:
    """Yaw and pitch (N, 3 with roll) in degrees to terms that landmarks follow linearly."""
    yaw, pitch = np.radians(pose[:, 0]), np.radians(pose[:, 1])
    return np.stack([yaw, pitch, yaw**2, pitch**2, yaw * pitch], axis=1)


def _between(calm: np.ndarray, own: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """From one row of numbers (K,) to another by `strength` (T,): (T, K)."""
    return calm + strength[:, None] * (own - calm)


def _burst(moments: int, rng: np.random.Generator, *, to_the_end: bool) -> np.ndarray:
    """How far the expression has come at each moment (T,): up within three moments, a while at its height, and down
    again; or, slowly or quickly, up to the end."""
    height = max(1, round(moments * rng.uniform(0.12, 0.7)))
    start = moments - height if to_the_end else int(rng.integers(0, moments - height + 1))
    strength = np.zeros(moments, np.float32)
    strength[start : start + height] = 1
    rise = int(rng.integers(0, max(4, start + 1) if to_the_end else 4))
    for step in range(1, rise + 1):
        level = 1 - step / (rise + 1)
        if start - step >= 0:
            strength[start - step] = level
        if start + height - 1 + step < moments:
            strength[start + height - 1 + step] = level
    return strength * rng.uniform(0.85, 1.0)


def _talk(speech: SpeechOffsets, moments: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What to add to blendshapes (T, 52) and appearance (T, A) while somebody talks: mouths in an uneven rhythm, with
    pauses, the eyes still.

    Syllables come at 3 to 6 a second, faster than clips are sampled, so that neighbouring moments are next to
    independent; but people also draw out a word, or keep their mouth open while they think. Brows lift now and then.
    """
    pace = rng.uniform(1, rng.choice([2, 12]))
    spoken = np.zeros((moments, len(speech.blendshapes)), np.float32)
    brows = np.zeros(moments, np.float32)
    start = 0
    while start < moments:
        end = start + 1 + int(rng.exponential(pace - 1))
        if rng.random() > 0.25:
            spoken[start:end, rng.choice(len(speech.blendshapes), 2)] = rng.uniform(0.1, 0.9, 2)
            brows[start:end] = rng.uniform(0, 0.4) * (rng.random() < 0.2)
        start = end
    spoken *= rng.uniform(0.5, 1.4)
    change = spoken @ speech.blendshapes
    change[:, BROWS_UP] += brows[:, None]
    return change, spoken @ speech.appearance


def _fidget(moments: int, spread: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blinks, a wandering gaze and the landmarker's own noise, a share of the `spread` of each blendshape (52,); to be
    added, (T, 52)."""
    change = rng.normal(0, 0.15, (moments, len(BLENDSHAPES))).astype(np.float32) * spread
    change[np.ix_(rng.random(moments) < 0.08, BLINK)] += rng.uniform(0.3, 0.8)
    for gaze in GAZES:
        change[:, gaze] += (_drift(moments, rng) * rng.uniform(0, 0.3))[:, None]
    return change


def _drift(moments: int, rng: np.random.Generator) -> np.ndarray:
    """A slow wave (T,) between -1 and 1."""
    return np.sin(np.linspace(0, rng.uniform(0, 2) * np.pi, moments) + rng.uniform(0, 2 * np.pi)).astype(np.float32)


def _visible(moments: int, rng: np.random.Generator) -> np.ndarray:
    """Which moments show the face (T,): in a third of the sequences some do not, but one always does."""
    visible = np.ones(moments, bool)
    if rng.random() < 0.33:
        visible = rng.random(moments) > rng.uniform(0, 0.4)
        visible[rng.integers(moments)] = True
    return visible
