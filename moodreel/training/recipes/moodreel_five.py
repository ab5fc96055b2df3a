"""Join a face-expression network and a compact EmotiMesh-Net, both trained before, over time. Reads from top to bottom.

1. Run both networks on every image; the training images are augmented, so that neither network is more confident of
   them than of new faces.
2. Fit the weights of the two streams on images that both networks have held out.
3. Train the GRU that pools frames on pseudo-sequences of both streams. Neutral faces of muxspace, many of them caught
   speaking, show what speech looks like to the networks.
4. Fit the temperatures on the images held out, and on sequences made from them.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from moodreel.emotions import FIVE
from moodreel.faces.features import CropKind
from moodreel.models.face_registry import load_face_model
from moodreel.models.model_store import model_folder
from moodreel.models.networks.two_stream import TwoStreamNet
from moodreel.models.predictor import FacePredictor
from moodreel.training.augmentation.image import augment_crop
from moodreel.training.augmentation.pseudo_sequences import (
    PseudoSequenceGenerator,
    SequenceKind,
    SpeechOffsets,
    fit_deformation,
    speech_offsets,
)
from moodreel.training.data.face_cache import FaceTable
from moodreel.training.data.muxspace import read_muxspace
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.trainer import TrainerConfig
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.evaluation.pseudo_sequences import appearance_logits, sequence_logits
from moodreel.training.experiment.options import MODEL, option
from moodreel.training.experiment.recipe import RunRequest
from moodreel.training.recipes.compact_emotimesh import flatten, select
from moodreel.training.recipes.face_recipe import (
    CROP_INPUTS,
    MUXSPACE,
    FaceRecipe,
    TrainedModel,
    TrainSplit,
    find_faces,
    read_train_split,
)
from moodreel.training.recipes.temporal_task import TIME, SequenceOptions, TemporalTask, sequence_log_prior

logger = logging.getLogger(__name__)

SEQUENCE_SHARES = {
    SequenceKind.STILL: 0.05,
    SequenceKind.STEADY: 0.15,
    SequenceKind.ONSET: 0.17,
    SequenceKind.BURST: 0.18,
    SequenceKind.TALK: 0.3,
    SequenceKind.EXPRESSIVE_TALK: 0.15,
}
"""Fractions of the kinds of sequences to train on. Stills need little training; clips that go from neutral to an
expression and clips of somebody who only talks are the hard ones."""


@dataclass(frozen=True)
class TwoStreamOptions(SequenceOptions):
    """Options of the two-stream network's recipe beside the shared ones."""

    appearance: str = option("face-expression", "the appearance network, by folder or name in the store", kind=MODEL)
    landmarks: str = option("compact-emotimesh", "the landmark network, by folder or name in the store", kind=MODEL)
    max_frames: int = option(96, "frames of the longest pseudo-sequence", "[2, inf)", old="longest")


class TwoStreamRecipe(FaceRecipe):
    """Trains the two-stream network."""

    options = TwoStreamOptions
    uses = frozenset({"seed", "val_fraction", "eval_every", "weights"})
    template = "moodreel_five.md.j2"

    def train(self, request: RunRequest[TwoStreamOptions]) -> TrainedModel:
        """Train the network, and fit its temperatures."""
        config, options = request.config, request.options
        torch.manual_seed(config.seed)
        rng = np.random.default_rng(config.seed)
        parts = [load_face_model(model_folder(model), fuse=False) for model in (options.appearance, options.landmarks)]
        network, arguments = assemble(*parts, **request.model)
        network.to(request.device)
        split = read_train_split(request, fer2013_weight=options.fer2013_weight)
        faces = find_faces(request, split.images.images)
        appearance = _appearance(network, faces.crops, split.train, rng)
        rows = split.held_out & (split.images.truth >= 0) & faces.found
        held_out, truth = select(faces, rows), torch.from_numpy(split.images.truth[rows])
        stream_logits = _mirrored_logits(network, held_out, appearance[rows])
        _fit_stream_weights(network, stream_logits, truth, options.tau)

        speech, neutral_faces = _speech(request, network, split, faces, appearance)
        generation: dict[str, Any] = {"speech": speech, "shares": SEQUENCE_SHARES, "max_frames": options.max_frames}
        train_faces, targets = select(faces, split.train), split.images.targets[split.train]
        deformation = fit_deformation(train_faces)
        generator = PseudoSequenceGenerator(train_faces, targets, deformation, appearance[split.train], **generation)
        prior = sequence_log_prior(generator, options.sequence_batch_size, options.tau, rng)
        task = TemporalTask(
            network, lambda net, clips: sequence_logits(net, clips)[0], generator, options.sequence_batch_size, prior
        )
        # Both networks were trained before, and the stream weights were fitted above.
        frozen = ("appearance.", "landmarks.", "trust")
        phase = Phase(TIME, options.sequence_steps, options.sequence_lr, frozen=frozen)
        examples = {"faces": int(split.train.sum()), "neutral_faces": neutral_faces}
        trainer_config = TrainerConfig(seed=config.seed, eval_every=config.eval_every)
        request.fit(task, [phase], trainer_config, arguments=arguments, examples=examples)

        targets = np.eye(len(FIVE), dtype=np.float32)[truth.numpy()]
        generator = PseudoSequenceGenerator(held_out, targets, deformation, appearance[rows], **generation)
        temperature = _fit_temperatures(network, generator, stream_logits, truth, options.calibration_clips, rng)
        return self._trained(request, network, arguments, temperature)

    def _trained(
        self,
        request: RunRequest[TwoStreamOptions],
        network: TwoStreamNet,
        arguments: dict[str, Any],
        temperature: float,
    ) -> TrainedModel:
        fields = request.model_fields(
            FIVE,
            {**arguments, "temperature": network.temperature},
            input=f"of each moment {CROP_INPUTS[CropKind.GRAY]}, 478 landmarks laid over MediaPipe's canonical face, "
            "in centimetres, and 52 blendshapes (moodreel.faces.features.extract_features); any number of moments from "
            f"1, trained on up to {request.options.max_frames} at about 5 a second; moments without a face are masked",
            normalization="that of the two networks joined, within them",
            temperature=temperature,
        )
        card = {
            "streams": dict(zip(("appearance", "landmarks"), network.trust.tolist(), strict=True)),
            "parts": [model_folder(part).name for part in (request.options.appearance, request.options.landmarks)],
            "clip_temperature": network.temperature,
        }
        return TrainedModel(network, fields, card)


def assemble(
    appearance: FacePredictor, landmarks: FacePredictor, *, hidden: int
) -> tuple[TwoStreamNet, dict[str, Any]]:
    """Build a two-stream network with the weights of two trained ones, frozen. Returns it and its arguments."""
    own = [
        {key: value for key, value in part.info.card.arguments.items() if key != "classes"}
        for part in (appearance, landmarks)
    ]
    arguments: dict[str, Any] = {"appearance": own[0], "landmarks": own[1], "hidden": hidden}
    network = TwoStreamNet(**arguments)
    network.appearance.load_state_dict(appearance.network.state_dict())
    # Not strict: its own temporal pooling is left out.
    network.landmarks.load_state_dict(landmarks.network.state_dict(), strict=False)
    network.appearance.eval().requires_grad_(False)
    network.landmarks.eval().requires_grad_(False)
    return network, arguments


def _appearance(network: TwoStreamNet, crops: np.ndarray, train: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the appearance network's output (N, A); crops to train on, bool (N,), are augmented."""
    crops = crops.copy()
    for row in np.flatnonzero(train):
        crops[row] = augment_crop(crops[row], rng)
    return appearance_logits(network, crops)


def _mirrored_logits(network: TwoStreamNet, faces: FaceTable, appearance: np.ndarray) -> torch.Tensor:
    """Return both streams' logits (M, 2, 5) of images held out, mirrored too, as a single image is served."""
    mirrored = appearance_logits(network, faces.crops[..., ::-1].copy())
    device = network.trust.device
    both, inputs = torch.from_numpy((appearance + mirrored) / 2), torch.from_numpy(flatten(faces))
    with torch.no_grad():
        return network.stream_log_probs(both.to(device), inputs.to(device))


def _speech(
    request: RunRequest[TwoStreamOptions],
    network: TwoStreamNet,
    split: TrainSplit,
    faces: FaceTable,
    appearance: np.ndarray,
) -> tuple[SpeechOffsets, int]:
    """Return what speech changes in neutral faces, of muxspace where it is given, and the number of those faces."""
    neutral = FIVE.index("Neutral")
    if MUXSPACE in request.data:
        images = read_muxspace(request.data[MUXSPACE], FIVE, split="train")
        faces = find_faces(request, images.images)
        rows = faces.found & (images.truth == neutral)
        appearance = appearance_logits(network, faces.crops[rows])
    else:
        rows = split.train & faces.found & (split.images.targets[:, neutral] > 0.7)
        appearance = appearance[rows]
    return speech_offsets(faces.blendshapes[rows], appearance), int(rows.sum())


def _fit_stream_weights(network: TwoStreamNet, logits: torch.Tensor, truth: torch.Tensor, tau: float) -> None:
    truth = truth.to(logits.device)
    prior = tau * F.one_hot(truth, len(FIVE)).float().mean(dim=0).clamp_min(1e-6).log()
    optimizer = torch.optim.LBFGS([network.trust], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(network.frame_logits(logits) + prior, truth)
        value.backward()
        return value

    optimizer.step(loss)
    logger.info("Stream weights: appearance %.3f, landmarks %.3f", *network.trust.tolist())


def _fit_temperatures(
    network: TwoStreamNet,
    generator: PseudoSequenceGenerator,
    logits: torch.Tensor,
    truth: torch.Tensor,
    count: int,
    rng: np.random.Generator,
) -> float:
    """Set the network's temperature of clips, relative to that of single frames, which is returned."""
    clips = generator.generate(count, rng)
    several = torch.from_numpy(clips.lengths > 1)
    with torch.inference_mode():
        clip_logits = sequence_logits(network, clips)[0].cpu()[several]
        frame_logits = network.frame_logits(logits).cpu()
    temperature = fit_temperature(frame_logits, truth)
    clip_temperature = fit_temperature(clip_logits, torch.from_numpy(clips.targets.argmax(axis=1))[several])
    network.temperature = round(clip_temperature / temperature, 4)
    return temperature
