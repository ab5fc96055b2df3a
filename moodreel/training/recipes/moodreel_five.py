"""Join a face-expression network and a compact EmotiMesh-Net, both trained before, over time. Top to bottom:

1. Ask both networks about every picture; the appearance of those it was trained on is shown disturbed, so that it is
   no surer of them than of faces never seen.
2. Fit how far to trust either, on pictures that both have held out.
3. Train the GRU that joins moments, on pseudo-sequences of opinions; calm faces of muxspace, many of them caught
   speaking, tell what speech looks like to the networks.
4. Fit the temperatures, on pictures held out and on sequences made from them.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from moodreel.emotions import FIVE
from moodreel.models.face_registry import load_face_model
from moodreel.models.model_store import model_folder
from moodreel.models.networks.two_stream import TwoStreamNet
from moodreel.models.predictor import FacePredictor
from moodreel.training.augmentation.image import augment_crop
from moodreel.training.augmentation.pseudo_sequences import (
    PseudoSequenceGenerator,
    SequenceKind,
    fit_deformation,
    speech_offsets,
)
from moodreel.training.data.face_cache import extract_faces
from moodreel.training.data.ferplus import holdout_mask, read_split
from moodreel.training.data.muxspace import read_muxspace
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.trainer import TrainerConfig, TrainingHistory, fit
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.evaluation.pseudo_sequences import appearance_logits, sequence_logits
from moodreel.training.recipes.compact_emotimesh import EVERY, flatten, select
from moodreel.training.recipes.temporal_task import TIME, TemporalTask, time_prior

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JointRecipe:
    """Everything that decides what comes out, besides the data and the two networks.

    appearance, landmarks: the two networks' models, by folder or by name in the store; what is held out must be held
        out by both.
    fer2013: share of the targets that the FER2013 label makes up.
    tau: strength of the logit adjustment for the prior of the sequences (Menon et al. 2021).
    longest: moments of the longest sequence.
    Weights decay by 0.05, biases not at all, and the rate rises and falls as one cycle.
    """

    appearance: str = "face-expression"
    landmarks: str = "compact-emotimesh"
    seed: int = 0
    fer2013: float = 0.1
    tau: float = 0.0
    held_out: float = 0.08
    hidden: int = 48
    longest: int = 96
    time_steps: int = 500
    time_batch: int = 96
    time_rate: float = 3e-3
    calibration_clips: int = 2000


@dataclass(frozen=True, eq=False)
class TrainedJoint:
    """A network in eval mode, its arguments, and the temperature of its answers."""

    net: TwoStreamNet
    arguments: dict
    temperature: float


SEQUENCE_SHARES = {
    SequenceKind.STILL: 0.05,
    SequenceKind.STEADY: 0.15,
    SequenceKind.ONSET: 0.17,
    SequenceKind.BURST: 0.18,
    SequenceKind.TALK: 0.3,
    SequenceKind.EXPRESSIVE_TALK: 0.15,
}
"""How much of each kind of sequence to train on. A still speaks for itself; clips that go from calm to an expression,
and those that only talk, pull apart."""


def train_joint(
    data: Path,
    landmarker: Path,
    cache: Path,
    recipe: JointRecipe,
    *,
    muxspace: Path | None = None,
    workers: int = 1,
    loop: Callable[..., TrainingHistory] = fit,
) -> TrainedJoint:
    """Train on FER+'s `data`, and on speech from `muxspace`, or from FER+ too where that is not at hand. The same
    recipe gives the same network. loop: `fit`, told where to keep its checkpoints."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)

    parts = [load_face_model(model_folder(model), fuse=False) for model in (recipe.appearance, recipe.landmarks)]
    net, arguments = assemble(*parts, hidden=recipe.hidden)

    split = read_split(data, "train", fer2013_weight=recipe.fer2013)
    faces = extract_faces(split.images, landmarker, cache, seed=recipe.seed, workers=workers)
    held_out = holdout_mask(len(split.images), recipe.held_out, recipe.seed)
    learnt = ~held_out & (split.targets.sum(axis=1) > 0)
    shown = faces.crops.copy()
    for row in np.flatnonzero(learnt):
        shown[row] = augment_crop(shown[row], rng)
    appearance = appearance_logits(net, shown)

    judged = held_out & (split.truth >= 0) & faces.found
    truth = torch.from_numpy(split.truth[judged])
    # As one picture is read when it serves: mirrored too.
    still = (appearance[judged] + appearance_logits(net, shown[judged][..., ::-1].copy())) / 2
    with torch.no_grad():
        opinions = net.stream_logits(torch.from_numpy(still), torch.from_numpy(flatten(select(faces, judged))))
    prior = recipe.tau * F.one_hot(truth, len(FIVE)).float().mean(dim=0).clamp_min(1e-6).log()
    _fit_stream_weights(net, opinions, truth, prior)

    seen = select(faces, learnt)
    deformation = fit_deformation(seen)
    if muxspace:
        own = read_muxspace(muxspace, FIVE, split="train")
        talkers = extract_faces(own.images, landmarker, cache, seed=recipe.seed, workers=workers)
        calm = talkers.found & (own.truth == FIVE.index("Neutral"))
        speech = speech_offsets(talkers.blendshapes[calm], appearance_logits(net, talkers.crops[calm]))
    else:
        calm = learnt & faces.found & (split.targets[:, FIVE.index("Neutral")] > 0.7)
        speech = speech_offsets(faces.blendshapes[calm], appearance[calm])
    making: dict[str, Any] = {"speech": speech, "shares": SEQUENCE_SHARES, "max_frames": recipe.longest}
    studio = PseudoSequenceGenerator(seen, split.targets[learnt], deformation, appearance[learnt], **making)
    prior = time_prior(studio, recipe.time_batch, recipe.tau, rng)
    time = TemporalTask(net, lambda net, clips: sequence_logits(net, clips)[0], studio, recipe.time_batch, prior)
    # What is frozen was trained, or fitted above.
    phase = Phase(TIME, recipe.time_steps, recipe.time_rate, frozen=("appearance.", "landmarks.", "trust"))
    examples = {"faces": int(learnt.sum()), "talkers": int(calm.sum())}
    about = {"architecture": "joint", "arguments": arguments, "recipe": asdict(recipe), "examples": examples}
    loop(time, [phase], TrainerConfig(seed=recipe.seed, eval_every=EVERY), metadata=about)

    kept_targets = np.eye(len(FIVE), dtype=np.float32)[split.truth[judged]]
    kept = PseudoSequenceGenerator(select(faces, judged), kept_targets, deformation, appearance[judged], **making)
    clips = kept.generate(recipe.calibration_clips, rng)
    several = torch.from_numpy(clips.lengths > 1)
    with torch.inference_mode():
        by_clip, by_moment = sequence_logits(net, clips)[0][several], net.frame_logits(opinions)
    temperature = fit_temperature(by_moment, truth)
    of_clips = fit_temperature(by_clip, torch.from_numpy(clips.targets.argmax(axis=1))[several])
    net.temperature = round(of_clips / temperature, 4)
    return TrainedJoint(net=net, arguments=arguments | {"temperature": net.temperature}, temperature=temperature)


def assemble(appearance: FacePredictor, landmarks: FacePredictor, *, hidden: int) -> tuple[TwoStreamNet, dict]:
    """A joint network with the weights of two that are trained, frozen, and its arguments."""
    own = [
        {key: value for key, value in part.info.card.arguments.items() if key != "classes"}
        for part in (appearance, landmarks)
    ]
    arguments: dict[str, Any] = {"appearance": own[0], "landmarks": own[1], "hidden": hidden}
    net = TwoStreamNet(**arguments)
    net.appearance.load_state_dict(appearance.network.state_dict())
    # All but how that network read time.
    net.landmarks.load_state_dict(landmarks.network.state_dict(), strict=False)
    net.appearance.eval().requires_grad_(False)
    net.landmarks.eval().requires_grad_(False)
    return net, arguments


def _fit_stream_weights(net: TwoStreamNet, opinions: torch.Tensor, truth: torch.Tensor, prior: torch.Tensor) -> None:
    optimiser = torch.optim.LBFGS([net.trust], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(net.frame_logits(opinions) + prior, truth)
        value.backward()
        return value

    optimiser.step(loss)
    log.info("trust: appearance %.3f, landmarks %.3f", *net.trust.tolist())
