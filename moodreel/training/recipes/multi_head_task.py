"""Define the task of classifying face crops by several labeling conventions, with one head for each."""

# ruff: noqa: RUF009 -- option() returns dataclasses.field()

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from moodreel.errors import DataInvalid
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.training.augmentation.image import augment_crops
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.task import Task
from moodreel.training.evaluation.evaluate import in_five
from moodreel.training.evaluation.metrics import Predictions
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.options import MODEL, PATH, Options, option

HEADS = ("ferplus", "fer2013", "webfaces", "muxspace")
"""The labeling conventions: FER+'s votes, FER2013's labels of the same images, and the labels of two other sets."""
LOSS_WEIGHTS = (1.0, 0.5, 1.0, 0.5)
"""Weight of each head in the loss: FER2013's and muxspace's labels are noisy."""


@dataclass(frozen=True)
class MultiHeadOptions(Options):
    """Options of the multi-head recipe besides the shared ones.

    The weights of the heads and tau change the network's output, but not its training.
    """

    ferplus_weight: float = option(0.2, "weight of the head of FER+'s votes in the output", "[0, 1]", old="ferplus")
    fer2013_weight: float = option(0.3, "weight of the head of FER2013's labels in the output", "[0, 1]", old="fer2013")
    webfaces_weight: float = option(0.2, "weight of the head of webfaces' labels in the output", "[0, 1]")
    muxspace_weight: float = option(
        0.3, "weight of the head of muxspace's labels in the output", "[0, 1]", old="muxspace"
    )
    tau: float = option(0.0, "strength of the logit adjustment for the label frequencies", "[0, 1]")
    webfaces_share: float = option(0.3, "fraction of a batch that comes from webfaces", "[0, 1)")
    muxspace_share: float = option(0.2, "fraction of a batch that comes from muxspace", "[0, 1)")
    pretrained: Path | None = option(
        None, "file of EfficientNet-Lite0's ImageNet weights; default: that of the installed package", kind=PATH
    )
    teacher: str = option("", "a model to distill, by folder or name in the store; '' for none", kind=MODEL)
    distill_weight: float = option(0.5, "fraction of each target that the teacher makes up", "[0, 1]", old="distilled")

    def __post_init__(self) -> None:
        """Check that a part of each batch is left for FER+."""
        super().__post_init__()
        if (total := self.webfaces_share + self.muxspace_share) >= 1:
            raise DataInvalid(f"--webfaces-share and --muxspace-share must add up to less than 1, not {total:g}.")

    @property
    def head_weights(self) -> list[float]:
        """Weight of each head in the output."""
        return [self.ferplus_weight, self.fer2013_weight, self.webfaces_weight, self.muxspace_weight]


@dataclass(frozen=True, eq=False)
class LabeledCrops:
    """Training crops of one source.

    Attributes:
        crops: uint8 (N, ...), as the network reads them.
        targets: float32 (N, H, C), probabilities of the labels; zeros where a head has no label for the crop.
        weights: float64 (N,), the probability that each crop is drawn; they add up to 1.
        share: Fraction of a batch from this source; the first source fills the rest.
    """

    crops: np.ndarray
    targets: torch.Tensor
    weights: np.ndarray
    share: float


CropBatch = tuple[torch.Tensor, torch.Tensor, tuple[float, torch.Tensor] | None]
"""Augmented crops, uint8 (B, ...); the targets of each head times its weight in the loss, float32 (B, H, C); and for
mixup the weight of each crop, and the row of the crop that it is mixed with, (B,)."""


@dataclass(eq=False)
class MultiHeadTask(Task):
    """Train each head on the labels of its convention.

    Attributes:
        network: A network with a head for each of `HEADS`.
        sources: Training crops of each source.
        validation: Crops to evaluate on during training, uint8 (M, ...), and their labels, by the name of their source.
        config: Options of the training loop.
    """

    network: MultiHeadFaceNet
    sources: Sequence[LabeledCrops]
    validation: dict[str, tuple[np.ndarray, np.ndarray]]
    config: TrainConfig
    monitor = "uar_five"

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> CropBatch:
        """Return a batch."""
        config, total = self.config, self.config.batch_size
        counts = [round(total * each.share) for each in self.sources[1:]]
        crops, targets = [], []
        for labeled, count in zip(self.sources, (total - sum(counts), *counts), strict=True):
            rows = rng.choice(len(labeled.crops), count, p=labeled.weights)
            crops.append(labeled.crops[rows])
            targets.append(labeled.targets[rows])
        augmented = torch.from_numpy(augment_crops(np.concatenate(crops), rng, clean_prob=config.clean_prob))
        mixup = None
        if rng.random() < config.mixup_prob and config.mixup_alpha:
            mixup = float(rng.beta(config.mixup_alpha, config.mixup_alpha)), torch.from_numpy(rng.permutation(total))
        return augmented, self._weighted(torch.cat(targets)), mixup

    def _weighted(self, targets: torch.Tensor) -> torch.Tensor:
        """Smooth the targets, and weight those of each head; a head without a label keeps zeros."""
        smoothing = self.config.label_smoothing
        weights = (targets.sum(dim=2, keepdim=True) > 0) * targets.new_tensor(LOSS_WEIGHTS)[:, None]
        return weights * (targets * (1 - smoothing) + smoothing / targets.shape[2])

    def loss(self, batch: CropBatch, phase: Phase) -> torch.Tensor:
        """Return the loss of a batch."""
        crops, targets, mixup = batch
        crops, targets = crops.to(self.device).float(), targets.to(self.device)
        if mixup:
            share, partner = mixup
            crops = share * crops + (1 - share) * crops[partner]
            # The loss is linear in the targets, so crops with labels for different heads can be mixed.
            targets = share * targets + (1 - share) * targets[partner]
        log_probs = self.network(crops).float().log_softmax(dim=2)
        loss: torch.Tensor = -(targets * log_probs).sum() / len(crops)
        return loss

    def evaluate(self, phase: Phase) -> dict[str, float]:
        """Compute the mean recall in five classes on validation crops, of each source and averaged over the sources."""
        network = cast(MultiHeadFaceNet, self.eval_network)
        recalls = {}
        for name, (crops, truth) in self.validation.items():
            logits = network.mix_heads(network.predict_batched(torch.from_numpy(crops).to(self.device)))
            predictions = Predictions(logits.softmax(dim=1).cpu().numpy(), np.ones(len(truth), bool))
            recalls[f"uar_five_{name}"] = in_five(predictions, truth).balanced_accuracy
        return {"uar_five": float(np.mean(list(recalls.values()))), **recalls}
