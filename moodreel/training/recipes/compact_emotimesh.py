"""Train the compact EmotiMesh-Net, first on single faces of FER+, then on pseudo-sequences.

1. Find the face of every image, and of its mirrored and augmented copies.
2. Train the encoder on single faces, on FER+'s votes mixed with FER2013's label.
3. Freeze the encoder, and train the GRU that pools frames on pseudo-sequences.
4. Fit the temperatures on validation images, and on sequences made from them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from moodreel.emotions import FIVE
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.training.augmentation.pseudo_sequences import PseudoSequenceGenerator, SequenceBatch, fit_deformation
from moodreel.training.data.face_cache import FaceTable, augment_still, hflip, identity
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.task import Task
from moodreel.training.engine.trainer import TrainerConfig
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.experiment.adapter import checked_build
from moodreel.training.experiment.options import Options, option
from moodreel.training.experiment.recipe import RunRequest
from moodreel.training.recipes.face_recipe import FaceRecipe, TrainedModel, read_train_split

logger = logging.getLogger(__name__)

FACES, TIME = "faces", "time"
"""Names of the phases."""


@dataclass(frozen=True)
class CompactEmotiMeshOptions(Options):
    """Options of the compact EmotiMesh-Net's recipe besides the shared ones."""

    fer2013_weight: float = option(
        0.1, "fraction of each target that FER2013's label makes up", "[0, 1]", old="fer2013"
    )
    tau: float = option(0.5, "strength of the logit adjustment for the label frequencies", "[0, 1]")
    sequence_steps: int = option(1000, "weight updates on pseudo-sequences", "[1, inf)", old="time-steps")
    sequence_batch_size: int = option(128, "pseudo-sequences in a batch", "[1, inf)", old="time-batch")
    sequence_lr: float = option(3e-3, "the highest learning rate on pseudo-sequences", "(0, inf)", old="time-rate")
    calibration_clips: int = option(2000, "pseudo-sequences to fit the temperature on", "[1, inf)")
    mixup_max: float = option(0.3, "each face is mixed with up to this fraction of another one", "[0, 1]", old="mix")


class CompactEmotiMeshRecipe(FaceRecipe):
    """Trains the compact EmotiMesh-Net."""

    options = CompactEmotiMeshOptions
    uses = frozenset({"seed", "epochs", "batch_size", "lr", "val_fraction", "eval_every", "weights"})
    template = "compact_emotimesh.md.j2"

    def prepare(self, request: RunRequest[CompactEmotiMeshOptions]) -> Callable[[], str]:
        """Check the data and the arguments of the network."""
        _build_network(request)
        return super().prepare(request)

    def train(self, request: RunRequest[CompactEmotiMeshOptions]) -> TrainedModel:
        """Train the network, and fit its temperatures."""
        config, options = request.config, request.options
        torch.manual_seed(config.seed)
        rng = np.random.default_rng(config.seed)
        split = read_train_split(request, fer2013_weight=options.fer2013_weight)
        changes, images = (identity, hflip, augment_still), split.images.images
        tables = [request.context.extract_faces(images, change) for change in changes]
        faces = [table.select(split.train) for table in tables]
        network, task = _build(request, faces, split.images.targets[split.train], rng)
        steps = max(1, config.epochs * len(task.inputs) // task.faces_in_batch)
        phases = (
            Phase(FACES, steps, config.lr, frozen=("absent", "time.", "weigh.", "adjust.")),
            Phase(TIME, options.sequence_steps, options.sequence_lr, frozen=("encoder.", "moment.")),
        )
        trainer_config = TrainerConfig(seed=config.seed, eval_every=config.eval_every)
        request.fit(task, phases, trainer_config, labels=FIVE, faces=len(task.inputs))

        rows = split.held_out & (split.images.truth >= 0) & tables[0].found
        truth, held_out = split.images.truth[rows], tables[0].select(rows)
        targets = np.eye(len(FIVE), dtype=np.float32)[truth]
        clips = PseudoSequenceGenerator(held_out, targets, task.generator.deformation).generate(
            options.calibration_clips, rng
        )
        with torch.inference_mode():
            inputs = torch.from_numpy(flatten(held_out)).to(network.mean.device)
            frame_logits = network.moment(network.encode(inputs)).cpu()
            clip_logits = sequence_logits(network, clips).cpu()
        fields = request.model_fields(
            FIVE,
            request.model,
            input="of each moment 478 landmarks laid over MediaPipe's canonical face, in centimetres, and 52 "
            "blendshapes (moodreel.faces.features.extract_features); any number of moments from 1, trained on up to 64 "
            "at about 5 a second; moments without a face are masked",
            normalization="mean and standard deviation of the training faces, buffers of the network",
            temperature=fit_temperature(clip_logits, torch.from_numpy(clips.targets.argmax(axis=1))),
            frame_temperature=fit_temperature(frame_logits, torch.from_numpy(truth)),
        )
        return TrainedModel(network, fields, {"train_found": float(tables[0].found.mean())})


@dataclass(eq=False)
class TwoStageTask(Task):
    """Train the encoder on single faces, then the temporal pooling on pseudo-sequences, new ones for each step.

    Attributes:
        network: The network: an encoder, a head for single frames and a temporal pooling.
        inputs: float32 (N, 1486), landmarks and blendshapes of single faces.
        targets: float32 (N, 5), probabilities of the labels.
        face_log_prior: float32 (5,), added to the logits of single faces (logit adjustment, Menon et al. 2021).
        faces_in_batch: Number of faces in a batch.
        mixup_max: Each face is mixed with up to this fraction of another one.
        generator: Generates the pseudo-sequences.
        sequences_in_batch: Number of pseudo-sequences in a batch.
        sequence_log_prior: The same as `face_log_prior` for sequences.
    """

    network: CompactEmotiMeshNet
    inputs: torch.Tensor
    targets: torch.Tensor
    face_log_prior: torch.Tensor
    faces_in_batch: int
    mixup_max: float
    generator: PseudoSequenceGenerator
    sequences_in_batch: int
    sequence_log_prior: torch.Tensor

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> Any:
        """Return a batch."""
        if phase.name == TIME:
            return self.generator.generate(self.sequences_in_batch, rng)
        rows, other = torch.from_numpy(rng.integers(len(self.inputs), size=(2, self.faces_in_batch)))
        weight = self.mixup_max * torch.from_numpy(rng.random((self.faces_in_batch, 1), np.float32))
        return tuple(torch.lerp(values[rows], values[other], weight) for values in (self.inputs, self.targets))

    def loss(self, batch: Any, phase: Phase) -> torch.Tensor:
        """Return the loss of a batch."""
        if phase.name == TIME:
            logits, targets = sequence_logits(self.network, batch), torch.from_numpy(batch.targets).to(self.device)
            return F.cross_entropy(logits + self.sequence_log_prior.to(self.device), targets)
        inputs, targets = (tensor.to(self.device) for tensor in batch)
        logits = self.network.moment(self.network.encode(inputs))
        return F.cross_entropy(logits + self.face_log_prior.to(self.device), targets)


def _build_network(request: RunRequest[CompactEmotiMeshOptions]) -> CompactEmotiMeshNet:
    return checked_build(request.architecture, CompactEmotiMeshNet, classes=len(FIVE), **request.model)


def _build(
    request: RunRequest[CompactEmotiMeshOptions], faces: list[FaceTable], targets: np.ndarray, rng: np.random.Generator
) -> tuple[CompactEmotiMeshNet, TwoStageTask]:
    """Build the network, with the input normalization of the training faces, and its task."""
    options = request.options
    inputs = torch.from_numpy(np.concatenate([flatten(table)[table.found] for table in faces]))
    face_targets = torch.from_numpy(np.concatenate([targets[table.found] for table in faces]))
    network = _build_network(request)
    network.mean.copy_(inputs.mean(dim=0))
    network.std.copy_(inputs.std(dim=0).clamp_min(1e-3))
    network.to(request.device)
    logger.info("%d faces of %d images.", len(inputs), len(targets))
    both = FaceTable(**{name: np.concatenate([getattr(f, name) for f in faces[:2]]) for name in vars(faces[0])})
    generator = PseudoSequenceGenerator(both, np.concatenate([targets] * 2), fit_deformation(faces[0]))
    task = TwoStageTask(
        network,
        inputs,
        face_targets,
        face_log_prior=options.tau * face_targets.mean(dim=0).clamp_min(1e-6).log(),
        faces_in_batch=min(request.config.batch_size, len(inputs)),
        mixup_max=options.mixup_max,
        generator=generator,
        sequences_in_batch=options.sequence_batch_size,
        sequence_log_prior=_sequence_log_prior(generator, options, rng),
    )
    return network, task


def _sequence_log_prior(
    generator: PseudoSequenceGenerator, options: CompactEmotiMeshOptions, rng: np.random.Generator
) -> torch.Tensor:
    """Return tau times the log frequency of each label in pseudo-sequences, float32 (5,)."""
    targets = np.concatenate([generator.generate(options.sequence_batch_size, rng).targets for _ in range(8)])
    return options.tau * torch.from_numpy(targets).mean(dim=0).clamp_min(1e-6).log()


def sequence_logits(network: CompactEmotiMeshNet, clips: SequenceBatch) -> torch.Tensor:
    """Compute the logits (B, 5) of sequences; the encoder gets no gradients."""
    device, mask = network.mean.device, torch.from_numpy(clips.face_mask)
    with torch.no_grad():
        faces = network.encode(torch.from_numpy(clips.features[clips.face_mask]).to(device))
    embeddings = torch.zeros(*mask.shape, faces.shape[-1], device=device)
    embeddings[mask.to(device)] = faces
    logits, _ = network.temporal_pool(embeddings, mask.to(device), torch.from_numpy(clips.lengths).to(device))
    return logits


def flatten(faces: FaceTable) -> np.ndarray:
    """Return the network's inputs, float32 (N, 1486): landmarks, then blendshapes, as `to_input` does."""
    return np.concatenate([faces.normalized_landmarks.reshape(len(faces.found), -1), faces.blendshapes], axis=1)
