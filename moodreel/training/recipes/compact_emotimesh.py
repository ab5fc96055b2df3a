"""Train the compact EmotiMesh-Net: faces of FER+, then time. Reads from top to bottom.

1. Find the faces of every picture, as it is, mirrored and disturbed.
2. In the first phase train the encoder on single faces, against the votes of FER+ with a share of FER2013's label.
3. In the second freeze it and train the GRU that joins moments, on pseudo-sequences.
4. Fit the temperatures on pictures held out from training, and on sequences made from those.
5. Write the model's folder.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from moodreel.emotions import FIVE
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.training.augmentation.pseudo_sequences import PseudoSequenceGenerator, SequenceBatch, fit_deformation
from moodreel.training.data.face_cache import FaceTable, augment_still, extract_faces, hflip, identity
from moodreel.training.data.ferplus import holdout_mask, read_split
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.trainer import TrainerConfig, TrainingHistory, fit
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.recipes.temporal_task import FACES, TIME, TwoStageTask, time_prior

log = logging.getLogger(__name__)

EVERY = 250
"""Steps from one checkpoint to the next."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out, besides the data.

    Weights decay by 0.05, biases and normalisations not at all, and the rates rise and fall as one cycle.

    fer2013: share of the targets that the FER2013 label makes up.
    tau: strength of the logit adjustment for the training prior (Menon et al. 2021): 0 none, 1 all of it.
    held_out: share of the training pictures that only the temperatures are fitted on.
    mix: up to this share of another face is blended into each (mixup).
    """

    seed: int = 0
    fer2013: float = 0.1
    tau: float = 0.5
    held_out: float = 0.1
    mix: float = 0.3
    width: int = 320
    embedding: int = 96
    hidden: int = 64
    dropout: float = 0.3
    faces_epochs: int = 15
    faces_batch: int = 256
    faces_rate: float = 2e-3
    time_steps: int = 1000
    time_batch: int = 128
    time_rate: float = 3e-3
    calibration_clips: int = 2000


@dataclass(frozen=True, eq=False)
class Trained:
    """A network in eval mode, its temperatures, and the share of training pictures with a face."""

    net: CompactEmotiMeshNet
    temperature: float
    moment_temperature: float
    found: float


def train(
    data: Path,
    landmarker: Path,
    cache: Path,
    recipe: Recipe,
    *,
    workers: int = 1,
    loop: Callable[..., TrainingHistory] = fit,
) -> Trained:
    """Train on `train.npz` and `train_fer2013.npz` of the folder `data`. The same recipe gives the same network.

    loop: `fit`, told where to keep its checkpoints.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)

    split = read_split(data, "train", fer2013_weight=recipe.fer2013)
    plain, mirror, rough = (
        extract_faces(split.images, landmarker, cache, disturb, seed=recipe.seed, workers=workers)
        for disturb in (identity, hflip, augment_still)
    )
    held_out = holdout_mask(len(split.images), recipe.held_out, recipe.seed)
    learnt = ~held_out & (split.targets.sum(axis=1) > 0)

    seen = [select(faces, learnt) for faces in (plain, mirror, rough)]
    inputs = torch.from_numpy(np.concatenate([flatten(faces)[faces.found] for faces in seen]))
    targets = torch.from_numpy(np.concatenate([split.targets[learnt][faces.found] for faces in seen]))
    net = CompactEmotiMeshNet(
        classes=len(FIVE),
        width=recipe.width,
        embedding=recipe.embedding,
        hidden=recipe.hidden,
        dropout=recipe.dropout,
    )
    net.mean.copy_(inputs.mean(dim=0))
    net.std.copy_(inputs.std(dim=0).clamp_min(1e-3))
    log.info("%d faces of %d pictures.", len(inputs), learnt.sum())
    both = FaceTable(**{name: np.concatenate([getattr(f, name) for f in seen[:2]]) for name in vars(plain)})
    studio = PseudoSequenceGenerator(both, np.concatenate([split.targets[learnt]] * 2), fit_deformation(seen[0]))
    prior = time_prior(studio, recipe.time_batch, recipe.tau, rng)
    faces_prior = recipe.tau * targets.mean(dim=0).clamp_min(1e-6).log()
    batch = min(recipe.faces_batch, len(inputs))
    task = TwoStageTask(
        net,
        sequence_logits,
        studio,
        recipe.time_batch,
        prior,
        inputs,
        targets,
        faces_prior,
        at_once=batch,
        mix=recipe.mix,
    )
    steps = max(1, recipe.faces_epochs * len(inputs) // batch)
    phases = (
        Phase(FACES, steps, recipe.faces_rate, frozen=("absent", "time.", "weigh.", "adjust.")),
        Phase(TIME, recipe.time_steps, recipe.time_rate, frozen=("encoder.", "moment.")),
    )
    about = {"architecture": "compact-emotimesh", "labels": FIVE, "recipe": asdict(recipe), "faces": len(inputs)}
    loop(task, phases, TrainerConfig(seed=recipe.seed, eval_every=EVERY), metadata=about)

    judged = held_out & (split.truth >= 0) & plain.found
    truth = split.truth[judged]
    kept = select(plain, judged)
    kept_targets = np.eye(len(FIVE), dtype=np.float32)[truth]
    clips = PseudoSequenceGenerator(kept, kept_targets, fit_deformation(seen[0])).generate(
        recipe.calibration_clips, rng
    )
    with torch.inference_mode():
        by_moment = net.moment(net.encode(torch.from_numpy(flatten(kept))))
        by_clip = sequence_logits(net, clips)
    return Trained(
        net=net,
        temperature=fit_temperature(by_clip, torch.from_numpy(clips.targets.argmax(axis=1))),
        moment_temperature=fit_temperature(by_moment, torch.from_numpy(truth)),
        found=float(plain.found.mean()),
    )


def sequence_logits(net: CompactEmotiMeshNet, clips: SequenceBatch) -> torch.Tensor:
    """Logits (B, 5) of whole sequences."""
    seen = torch.from_numpy(clips.seen)
    with torch.no_grad():
        faces = net.encode(torch.from_numpy(clips.faces[clips.seen]))
    embeddings = torch.zeros(*seen.shape, faces.shape[-1])
    embeddings[seen] = faces
    logits, _ = net.temporal_pool(embeddings, seen, torch.from_numpy(clips.lengths))
    return logits


def select(faces: FaceTable, rows: np.ndarray) -> FaceTable:
    return FaceTable(**{name: array[rows] for name, array in vars(faces).items()})


def flatten(faces: FaceTable) -> np.ndarray:
    """(N, 1486), as `compact_emotimesh.read` lays out one face."""
    return np.concatenate(
        [faces.normalized_landmarks.reshape(len(faces.normalized_landmarks), -1), faces.blendshapes], axis=1
    )
