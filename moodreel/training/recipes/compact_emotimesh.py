"""Train the compact EmotiMesh-Net: single faces of FER+, then time. Reads from top to bottom.

1. Find the face of every image: as it is, mirrored and augmented.
2. Train the encoder on single faces, on FER+'s votes mixed with FER2013's label.
3. Freeze it, and train the GRU that pools frames on pseudo-sequences.
4. Fit the temperatures on validation images, and on sequences made from them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from moodreel.emotions import FIVE
from moodreel.models.networks.compact_emotimesh import CompactEmotiMeshNet
from moodreel.training.augmentation.pseudo_sequences import PseudoSequenceGenerator, SequenceBatch, fit_deformation
from moodreel.training.data.face_cache import FaceTable, augment_still, hflip, identity
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.trainer import TrainerConfig
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.experiment.adapter import checked_build
from moodreel.training.experiment.options import option
from moodreel.training.experiment.recipe import RunRequest
from moodreel.training.recipes.face_recipe import FaceRecipe, TrainedModel, find_faces, read_train_split
from moodreel.training.recipes.temporal_task import FACES, TIME, SequenceOptions, TwoStageTask, sequence_log_prior

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompactEmotiMeshOptions(SequenceOptions):
    """Options of the compact EmotiMesh-Net's recipe beside the shared ones."""

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
        tables = [find_faces(request, split.images.images, change) for change in (identity, hflip, augment_still)]
        faces = [select(table, split.train) for table in tables]
        deformation = fit_deformation(faces[0])
        network, task = _build(request, faces, split.images.targets[split.train], rng)
        steps = max(1, config.epochs * len(task.inputs) // task.faces_in_batch)
        phases = (
            Phase(FACES, steps, config.lr, frozen=("absent", "time.", "weigh.", "adjust.")),
            Phase(TIME, options.sequence_steps, options.sequence_lr, frozen=("encoder.", "moment.")),
        )
        trainer_config = TrainerConfig(seed=config.seed, eval_every=config.eval_every)
        request.fit(task, phases, trainer_config, labels=FIVE, faces=len(task.inputs))

        rows = split.held_out & (split.images.truth >= 0) & tables[0].found
        truth, held_out = split.images.truth[rows], select(tables[0], rows)
        generator = PseudoSequenceGenerator(held_out, np.eye(len(FIVE), dtype=np.float32)[truth], deformation)
        clips = generator.generate(options.calibration_clips, rng)
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


def _build_network(request: RunRequest[CompactEmotiMeshOptions]) -> CompactEmotiMeshNet:
    return checked_build(request.architecture, CompactEmotiMeshNet, classes=len(FIVE), **request.model)


def _build(
    request: RunRequest[CompactEmotiMeshOptions], faces: list[FaceTable], targets: np.ndarray, rng: np.random.Generator
) -> tuple[CompactEmotiMeshNet, TwoStageTask]:
    """Build the network, normalized by the training faces, and its task."""
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
        sequence_logits,
        generator,
        options.sequence_batch_size,
        sequence_log_prior(generator, options.sequence_batch_size, options.tau, rng),
        inputs,
        face_targets,
        face_log_prior=options.tau * face_targets.mean(dim=0).clamp_min(1e-6).log(),
        faces_in_batch=min(request.config.batch_size, len(inputs)),
        mixup_max=options.mixup_max,
    )
    return network, task


def sequence_logits(network: CompactEmotiMeshNet, clips: SequenceBatch) -> torch.Tensor:
    """Return the logits (B, 5) of sequences."""
    device, mask = network.mean.device, torch.from_numpy(clips.face_mask)
    with torch.no_grad():
        faces = network.encode(torch.from_numpy(clips.features[clips.face_mask]).to(device))
    embeddings = torch.zeros(*mask.shape, faces.shape[-1], device=device)
    embeddings[mask.to(device)] = faces
    logits, _ = network.temporal_pool(embeddings, mask.to(device), torch.from_numpy(clips.lengths).to(device))
    return logits


def select(faces: FaceTable, rows: np.ndarray) -> FaceTable:
    """Return some faces of a table."""
    return FaceTable(**{name: array[rows] for name, array in vars(faces).items()})


def flatten(faces: FaceTable) -> np.ndarray:
    """Return the network's inputs, float32 (N, 1486): landmarks, then blendshapes, as `compact_emotimesh.read` does."""
    return np.concatenate([faces.normalized_landmarks.reshape(len(faces.found), -1), faces.blendshapes], axis=1)
