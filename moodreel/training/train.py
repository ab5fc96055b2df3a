"""Train the compact EmotiMesh-Net: faces of FER+, then time. Reads from top to bottom.

1. Find the faces of every picture, as it is, mirrored and disturbed.
2. Train the encoder on single faces, against the votes of FER+ with a share of FER2013's label.
3. Freeze it and train the GRU that joins moments, on pseudo-sequences.
4. Fit the temperatures on pictures held out from training, and on sequences made from those.
5. Write the model's folder.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.emotions import FIVE
from moodreel.models.compact_emotimesh import CompactEmotiMeshNet
from moodreel.training.data.ferplus import hold_out, read_split
from moodreel.training.faces import Found, as_is, disturbed, find_all, mirrored
from moodreel.training.sequences import Sequences, Studio, fit_deformation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out, besides the data.

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


def train(data: Path, landmarker: Path, cache: Path, recipe: Recipe, *, workers: int = 1) -> Trained:
    """Train on `train.npz` and `train_fer2013.npz` of the folder `data`. The same recipe gives the same network."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)

    split = read_split(data, "train", fer2013=recipe.fer2013)
    plain, mirror, rough = (
        find_all(split.images, landmarker, cache, disturb, seed=recipe.seed, workers=workers)
        for disturb in (as_is, mirrored, disturbed)
    )
    held_out = hold_out(len(split.images), recipe.held_out, recipe.seed)
    learnt = ~held_out & (split.targets.sum(axis=1) > 0)

    seen = [only(faces, learnt) for faces in (plain, mirror, rough)]
    inputs = torch.from_numpy(np.concatenate([flat(faces)[faces.found] for faces in seen]))
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
    _learn_faces(net, inputs, targets, recipe)

    both = Found(**{name: np.concatenate([getattr(f, name) for f in seen[:2]]) for name in vars(plain)})
    studio = Studio(both, np.concatenate([split.targets[learnt]] * 2), fit_deformation(seen[0]))
    _learn_time(net, studio, recipe, rng)

    net.eval()
    judged = held_out & (split.truth >= 0) & plain.found
    truth = split.truth[judged]
    kept = only(plain, judged)
    kept_targets = np.eye(len(FIVE), dtype=np.float32)[truth]
    clips = Studio(kept, kept_targets, fit_deformation(seen[0])).make(recipe.calibration_clips, rng)
    with torch.inference_mode():
        by_moment = net.moment(net.encode(torch.from_numpy(flat(kept))))
        by_clip = join(net, clips)
    return Trained(
        net=net,
        temperature=fit_temperature(by_clip, torch.from_numpy(clips.targets.argmax(axis=1))),
        moment_temperature=fit_temperature(by_moment, torch.from_numpy(truth)),
        found=float(plain.found.mean()),
    )


def _learn_faces(net: CompactEmotiMeshNet, inputs: torch.Tensor, targets: torch.Tensor, recipe: Recipe) -> None:
    """Train the encoder and the head that reads one moment."""
    prior = recipe.tau * targets.mean(dim=0).clamp_min(1e-6).log()
    batch = min(recipe.faces_batch, len(inputs))

    def loss() -> torch.Tensor:
        rows = torch.randint(len(inputs), (batch,))
        other = torch.randint(len(inputs), (batch,))
        share = recipe.mix * torch.rand(batch, 1)
        mixed = torch.lerp(inputs[rows], inputs[other], share)
        return F.cross_entropy(net.moment(net.encode(mixed)) + prior, torch.lerp(targets[rows], targets[other], share))

    steps = max(1, recipe.faces_epochs * len(inputs) // batch)
    descend("faces", [*net.encoder.parameters(), *net.moment.parameters()], loss, steps, recipe.faces_rate)


def _learn_time(net: CompactEmotiMeshNet, studio: Studio, recipe: Recipe, rng: np.random.Generator) -> None:
    """Train what joins moments, on embeddings of the encoder as it will serve."""
    some = np.concatenate([studio.make(recipe.time_batch, rng).targets for _ in range(8)])
    prior = recipe.tau * torch.from_numpy(some).mean(dim=0).clamp_min(1e-6).log()
    net.encoder.eval()
    for parameter in [*net.encoder.parameters(), *net.moment.parameters()]:
        parameter.requires_grad_(False)

    def loss() -> torch.Tensor:
        clips = studio.make(recipe.time_batch, rng)
        return F.cross_entropy(join(net, clips) + prior, torch.from_numpy(clips.targets))

    parameters = [p for p in net.parameters() if p.requires_grad]
    descend("time", parameters, loss, recipe.time_steps, recipe.time_rate)


def join(net: CompactEmotiMeshNet, clips: Sequences) -> torch.Tensor:
    """Logits (B, 5) of whole sequences."""
    seen = torch.from_numpy(clips.seen)
    with torch.no_grad():
        faces = net.encode(torch.from_numpy(clips.faces[clips.seen]))
    embeddings = torch.zeros(*seen.shape, faces.shape[-1])
    embeddings[seen] = faces
    logits, _ = net.join(embeddings, seen, torch.from_numpy(clips.lengths))
    return logits


def descend(
    what: str, parameters: list[nn.Parameter], loss: Callable[[], torch.Tensor], steps: int, rate: float
) -> None:
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=max(steps, 2))
    running = 0.0
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        running += value.item()
        if step % 250 == 0:
            log.info("%s: step %d of %d, loss %.4f", what, step, steps, running / 250)
            running = 0.0


def fit_temperature(logits: torch.Tensor, truth: torch.Tensor) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017), of logits (N, C) and labels (N,)."""
    candidates = torch.logspace(-1, 1, 401, base=4.0)
    losses = torch.stack([F.cross_entropy(logits / temperature, truth) for temperature in candidates])
    return float(candidates[losses.argmin()])


def only(faces: Found, rows: np.ndarray) -> Found:
    return Found(**{name: array[rows] for name, array in vars(faces).items()})


def flat(faces: Found) -> np.ndarray:
    """(N, 1486), as `compact_emotimesh.read` lays out one face."""
    return np.concatenate([faces.shape.reshape(len(faces.shape), -1), faces.blendshapes], axis=1)
