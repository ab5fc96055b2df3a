"""Generate pseudo-sequences: short sequences of face features, made from still images.

FER+ has one image of each person. A sequence of that person needs their other expressions, so these are synthesized.
A linear deformation model predicts how landmarks move when blendshapes change. With it a face goes to neutral and back,
talks, blinks, looks around and turns. The motion is simpler than real motion.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from moodreel.emotions import FIVE
from moodreel.faces.landmarker import BLENDSHAPES
from moodreel.training.data.face_cache import FaceTable

MAX_FRAMES = 64
"""Length of the longest sequence: at 5 frames a second about 13 seconds."""


class SequenceKind(IntEnum):
    """The course of a sequence. Its label is that of the still that it is made from."""

    STILL = 0  # one frame
    STEADY = 1  # the same face throughout
    BURST = 2  # neutral, with an expression in a part of the sequence
    TALK = 3  # a neutral face that talks, perhaps with a moment of another expression
    EXPRESSIVE_TALK = 4  # an expression throughout, while the mouth talks
    ONSET = 5  # neutral, then an expression that is strongest at the end


KIND_SHARES = {
    SequenceKind.STILL: 0.2,
    SequenceKind.STEADY: 0.15,
    SequenceKind.BURST: 0.3,
    SequenceKind.TALK: 0.2,
    SequenceKind.EXPRESSIVE_TALK: 0.15,
}
"""Fraction of each kind in training."""


def _indices(*starts: str) -> np.ndarray:
    return np.array([i for i, name in enumerate(BLENDSHAPES) if name.startswith(starts)])


# Coarse visemes: open jaw, rounded lips, spread lips (two of each), closed lips; as blendshapes, 0 to 1.
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
BLINK = _indices("eyeBlink")
BROWS_UP = _indices("browInnerUp", "browOuterUp")
GAZES = (_indices("eyeLookDown"), _indices("eyeLookUp"), _indices("eyeLookInLeft", "eyeLookOutRight"))


@dataclass(frozen=True, eq=False)
class DeformationModel:
    """Linear model of landmark offsets, fitted by ridge regression.

    Attributes:
        by_blendshape: float32 (52, 1434).
        by_pose: float32 (5, 1434), of the terms of `_pose_terms`.
    """

    by_blendshape: np.ndarray
    by_pose: np.ndarray


def fit_deformation(faces: FaceTable) -> DeformationModel:
    """Fit the model to the faces of stills."""
    landmarks = faces.normalized_landmarks[faces.found].reshape(faces.found.sum(), -1)
    predictors = np.concatenate([faces.blendshapes[faces.found], _pose_terms(faces.pose[faces.found])], axis=1)
    predictors = predictors - predictors.mean(axis=0)
    # Some blendshapes hardly vary: without the penalty, a small change of one would distort the face.
    gram = predictors.T @ predictors + len(predictors) * 0.03**2 * np.eye(predictors.shape[1])
    solution = np.linalg.solve(gram, predictors.T @ (landmarks - landmarks.mean(axis=0))).astype(np.float32)
    count = len(BLENDSHAPES)
    return DeformationModel(by_blendshape=solution[:count], by_pose=solution[count:])


@dataclass(frozen=True, eq=False)
class SequenceBatch:
    """B sequences of at most T frames.

    Attributes:
        features: float32 (B, T, 1486), normalized landmarks and blendshapes.
        face_mask: bool (B, T), which frames show the face.
        lengths: int64 (B,), frames of each sequence.
        targets: float32 (B, 5), of the stills.
    """

    features: np.ndarray
    face_mask: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray


class PseudoSequenceGenerator:
    """Generate pseudo-sequences of the people in a set of stills."""

    def __init__(self, faces: FaceTable, targets: np.ndarray, deformation: DeformationModel) -> None:
        """Select the stills with a face and a target.

        Args:
            faces: The faces of N stills.
            targets: float32 (N, 5), probabilities of `FIVE`; zeros for a still without a label.
            deformation: Deformation model of their landmarks.
        """
        usable = faces.found & (targets.sum(axis=1) > 0)
        self._faces = faces.select(usable)
        self._targets = targets[usable]
        self.deformation = deformation
        self._blendshape_std = self._faces.blendshapes.std(axis=0)
        neutral = self._targets[:, FIVE.index("Neutral")]
        self._neutral = np.flatnonzero(neutral > 0.7)
        clear = (neutral < 0.35) & (self._targets.max(axis=1) > 0.5)
        emotion = self._targets.argmax(axis=1)
        self._expressive = [np.flatnonzero(clear & (emotion == e)) for e in np.unique(emotion[clear])]

    def generate(self, count: int, rng: np.random.Generator, *, kind: SequenceKind | None = None) -> SequenceBatch:
        """Generate `count` sequences, of all kinds by their shares or of one kind."""
        shares = list(KIND_SHARES.values())
        kinds = rng.choice(list(KIND_SHARES), size=count, p=shares) if kind is None else np.full(count, kind)
        rows, clips = zip(*(self._generate_one(SequenceKind(k), rng) for k in kinds), strict=True)
        lengths = np.array([len(clip) for clip in clips])
        batch = np.zeros((count, lengths.max(), clips[0].shape[1]), np.float32)
        face_mask = np.zeros(batch.shape[:2], bool)
        for i, clip in enumerate(clips):
            batch[i, : len(clip)] = clip
            face_mask[i, : len(clip)] = _sample_face_mask(len(clip), rng)
        return SequenceBatch(
            features=batch,
            face_mask=face_mask,
            lengths=lengths,
            targets=self._targets[list(rows)],
        )

    def _generate_one(self, kind: SequenceKind, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        """Return the row of the still, and the features (T, 1486) of one sequence."""
        row = self._sample_row(kind, rng)
        own = self._faces.blendshapes[row]
        frames = 1 if kind is SequenceKind.STILL else int(np.exp(rng.uniform(np.log(2), np.log(MAX_FRAMES + 1))))
        neutral, strength = row, np.ones(frames, np.float32)
        talk = np.zeros((frames, len(own)), np.float32)
        if kind in (SequenceKind.BURST, SequenceKind.ONSET):
            neutral = int(rng.choice(self._neutral))
            strength = _expression_envelope(frames, rng, to_the_end=kind is SequenceKind.ONSET)
            if kind is SequenceKind.BURST and rng.random() < 0.5:
                talk = (1 - strength)[:, None] * _speech_motion(frames, rng)
        if kind in (SequenceKind.TALK, SequenceKind.EXPRESSIVE_TALK):
            talk = _speech_motion(frames, rng)
        calm = self._faces.blendshapes[neutral]
        blendshapes = calm + strength[:, None] * (own - calm) + talk
        if kind is SequenceKind.TALK and rng.random() < 0.5:
            self._add_other_expression(blendshapes, rng)
        if frames > 1:
            blendshapes += _idle_motion(frames, self._blendshape_std, rng)
        blendshapes = blendshapes.clip(0, 1)
        still = self._faces.normalized_landmarks[row].reshape(-1)
        landmarks = still + (blendshapes - own) @ self.deformation.by_blendshape
        if frames > 1:
            landmarks += self._head_turn(row, frames, rng)
            landmarks += rng.normal(0, 0.03, landmarks.shape)
        return row, np.concatenate([landmarks, blendshapes], axis=1).astype(np.float32)

    def _add_other_expression(self, blendshapes: np.ndarray, rng: np.random.Generator) -> None:
        """Replace the blendshapes of at most 6 % of the frames by another face's, in place; the label stays."""
        length = int(rng.random() * 0.06 * len(blendshapes))
        start = int(rng.integers(len(blendshapes)))
        other = rng.integers(len(self._targets))
        blendshapes[start : start + length] = self._faces.blendshapes[other]

    def _sample_row(self, kind: SequenceKind, rng: np.random.Generator) -> int:
        if kind is SequenceKind.TALK:
            return int(rng.choice(self._neutral))
        if kind in (SequenceKind.BURST, SequenceKind.ONSET, SequenceKind.EXPRESSIVE_TALK):
            # All emotions equally often: otherwise most expressions after a neutral face would be smiles.
            return int(rng.choice(self._expressive[rng.integers(len(self._expressive))]))
        return int(rng.integers(len(self._targets)))

    def _head_turn(self, row: int, frames: int, rng: np.random.Generator) -> np.ndarray:
        """Return the offsets (T, 1434) by which normalized landmarks still move when the head turns a few degrees."""
        pose = self._faces.pose[row]
        turned = pose + np.outer(_slow_wave(frames, rng), rng.normal(0, 6, 3))
        offsets: np.ndarray = (_pose_terms(turned) - _pose_terms(pose[None])).astype(
            np.float32
        ) @ self.deformation.by_pose
        return offsets


def _pose_terms(pose: np.ndarray) -> np.ndarray:
    """Return the terms (N, 5) of yaw and pitch, of poses (N, 3), on which landmarks depend linearly."""
    yaw, pitch = np.radians(pose[:, 0]), np.radians(pose[:, 1])
    return np.stack([yaw, pitch, yaw**2, pitch**2, yaw * pitch], axis=1)


def _expression_envelope(frames: int, rng: np.random.Generator, *, to_the_end: bool) -> np.ndarray:
    """Return the strength of an expression in each frame, (T,).

    It rises within three frames, stays, and falls again; or, with `to_the_end`, rises slowly or quickly and stays.
    """
    plateau = max(1, round(frames * rng.uniform(0.12, 0.7)))
    start = frames - plateau if to_the_end else int(rng.integers(0, frames - plateau + 1))
    strength = np.zeros(frames, np.float32)
    strength[start : start + plateau] = 1
    rise = int(rng.integers(0, max(4, start + 1) if to_the_end else 4))
    for step in range(1, rise + 1):
        level = 1 - step / (rise + 1)
        if start - step >= 0:
            strength[start - step] = level
        if start + plateau - 1 + step < frames:
            strength[start + plateau - 1 + step] = level
    return strength * rng.uniform(0.85, 1.0)


def _speech_motion(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return offsets (T, 52) of talking: visemes in an uneven rhythm, with pauses, and now and then raised brows.

    There are 3 to 6 syllables a second, about as many as sampled frames, so that neighboring frames are almost
    independent; but people also draw out a word, or keep their mouth open while they think.
    """
    mean_frames = rng.uniform(1, rng.choice([2, 12]))
    mouths = np.zeros((frames, len(VISEMES)), np.float32)
    brows = np.zeros(frames, np.float32)
    start = 0
    while start < frames:
        end = start + 1 + int(rng.exponential(mean_frames - 1))
        if rng.random() > 0.25:
            mouths[start:end, rng.choice(len(VISEMES), 2)] = rng.uniform(0.1, 0.9, 2)
            brows[start:end] = rng.uniform(0, 0.4) * (rng.random() < 0.2)
        start = end
    mouths *= rng.uniform(0.5, 1.4)
    change: np.ndarray = mouths @ np.stack(VISEMES)
    change[:, BROWS_UP] += brows[:, None]
    return change


def _idle_motion(frames: int, blendshape_std: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return offsets (T, 52) of blinks, a wandering gaze, and noise in proportion to `blendshape_std` (52,)."""
    change: np.ndarray = rng.normal(0, 0.15, (frames, len(BLENDSHAPES))).astype(np.float32) * blendshape_std
    change[np.ix_(rng.random(frames) < 0.08, BLINK)] += rng.uniform(0.3, 0.8)
    for gaze in GAZES:
        change[:, gaze] += (_slow_wave(frames, rng) * rng.uniform(0, 0.3))[:, None]
    return change


def _slow_wave(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Return a slow wave, (T,), between -1 and 1."""
    return np.sin(np.linspace(0, rng.uniform(0, 2) * np.pi, frames) + rng.uniform(0, 2 * np.pi)).astype(np.float32)


def _sample_face_mask(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Sample which frames show the face, bool (T,): in a third of the sequences some do not, but one always does."""
    visible = np.ones(frames, bool)
    if rng.random() < 0.33:
        visible = rng.random(frames) > rng.uniform(0, 0.4)
        visible[rng.integers(frames)] = True
    return visible
