"""The task of predicting what the labelers of several conventions call a face crop, with one head for each."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch.nn import functional as F

from moodreel.emotions import SEVEN
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.training.augmentation.image import augment_crops
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.task import Task
from moodreel.training.evaluation.evaluate import in_five
from moodreel.training.evaluation.metrics import Predictions, compute_metrics
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.options import MODEL, Options, option

FERPLUS, FER2013, MUXSPACE = range(3)
"""The heads."""

TRAINING, FINETUNING = "training", "finetuning"
"""The phases."""


@dataclass(frozen=True)
class MultiHeadOptions(Options):
    """Options of the multi-head recipe beside the shared ones.

    The weights of the heads and tau change the network's output, not what it is trained on.
    """

    ferplus_weight: float = option(0.8, "weight of the head of FER+'s votes in the output", "[0, 1]", old="ferplus")
    fer2013_weight: float = option(0.2, "weight of the head of FER2013's labels in the output", "[0, 1]", old="fer2013")
    muxspace_weight: float = option(
        0.0, "weight of the head of muxspace's labels in the output", "[0, 1]", old="muxspace"
    )
    tau: float = option(0.15, "strength of the logit adjustment for the label frequencies", "[0, 1]")
    muxspace_batch_size: int = option(
        64, "crops of muxspace in a batch, beside --batch-size of FER+", "[1, inf)", old="others"
    )
    finetune_steps: int = option(
        1200, "weight updates of the second phase, on mostly clean crops", "[0, inf)", old="polish-steps"
    )
    finetune_lr: float = option(8e-4, "the highest learning rate of the second phase", "(0, inf)", old="polish-rate")
    finetune_clean_prob: float = option(
        0.75, "fraction of hardly augmented crops in the second phase", "[0, 1]", old="polish-clean"
    )
    teacher: str = option("", "a model to distill, by folder or name in the store; default: none", kind=MODEL)
    pseudo_label_weight: float = option(0.5, "weight of the pseudo-labels of muxspace's faces", "[0, 1]", old="taught")
    distill_weight: float = option(
        0.5, "fraction of FER+'s targets that the teacher makes up", "[0, 1]", old="distilled"
    )


@dataclass(frozen=True, eq=False)
class LabeledCrops:
    """Crops to train on.

    Attributes:
        crops: uint8 (N, 48, 48), gray.
        targets: float32 (N, H, C); zeros where a head has no label for the crop.
        weights: float32 (N,), how often each crop is sampled; they add up to 1.
    """

    crops: np.ndarray
    targets: torch.Tensor
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.crops)


@dataclass(frozen=True, eq=False)
class CropBatch:
    """A batch of crops, FER+'s first.

    Attributes:
        augmented: uint8 (B, 48, 48).
        clean: The same crops without augmentation.
        targets: float32 (B, H, C).
        pseudo_label: Whether the moving average has been trained enough to label muxspace's crops.
        mixup: The fraction that each crop keeps, and the rows (B,) of those it is mixed with; None for no mixup.
    """

    augmented: torch.Tensor
    clean: torch.Tensor
    targets: torch.Tensor
    pseudo_label: bool
    mixup: tuple[float, torch.Tensor] | None


@dataclass(eq=False)
class MultiHeadTask(Task):
    """Train each head on the labels of its convention.

    Attributes:
        network: With a head for each convention.
        ferplus: Crops with FER+'s and FER2013's labels.
        muxspace: Crops with muxspace's labels, where they are given.
        val_crops: uint8 (M, 48, 48), to evaluate on during training.
        val_truth: int64 (M,), their labels.
        config: Of the loop.
        options: Of the task.
    """

    network: MultiHeadFaceNet
    ferplus: LabeledCrops
    muxspace: LabeledCrops | None
    val_crops: np.ndarray
    val_truth: np.ndarray
    config: TrainConfig
    options: MultiHeadOptions
    monitor = "accuracy"

    def setup(self, device: torch.device) -> None:
        """Put all crops on the device, where they are augmented."""
        super().setup(device)
        self._crops = [torch.from_numpy(each.crops).to(device) for each in (self.ferplus, self.muxspace) if each]

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> CropBatch:
        """Return a batch."""
        config, options, finetuning = self.config, self.options, phase.name == FINETUNING
        crops, targets = [], []
        sources = [(self.ferplus, config.batch_size)]
        sources += [(self.muxspace, options.muxspace_batch_size)] if self.muxspace else []
        for (labeled, count), on_device in zip(sources, self._crops, strict=True):
            rows = rng.choice(len(labeled), count, p=labeled.weights / labeled.weights.sum(dtype=np.float64))
            crops.append(on_device[torch.from_numpy(rows)])
            targets.append(labeled.targets[torch.from_numpy(rows)])
        clean = torch.cat(crops)
        clean_prob = options.finetune_clean_prob if finetuning else config.clean_prob
        return CropBatch(
            augment_crops(clean, rng, clean_prob=clean_prob),
            clean,
            torch.cat(targets),
            pseudo_label=step >= config.steps // 5,
            mixup=self._mixup(len(clean), rng) if not finetuning and rng.random() < config.mixup_prob else None,
        )

    def _mixup(self, count: int, rng: np.random.Generator) -> tuple[float, torch.Tensor]:
        """Pair crops of one source, whose labels are for the same heads."""
        first, alpha = self.config.batch_size, self.config.mixup_alpha
        partner = np.concatenate([rng.permutation(first), first + rng.permutation(count - first)])
        return float(rng.beta(alpha, alpha)), torch.from_numpy(partner)

    def loss(self, batch: CropBatch, phase: Phase) -> torch.Tensor:
        """Return the loss of a batch."""
        options, targets, crops = self.options, batch.targets, batch.augmented.float()
        of_muxspace = slice(-options.muxspace_batch_size, None)
        if self.muxspace and not options.teacher and batch.pseudo_label:
            with torch.inference_mode():
                logits = self.eval_network(batch.clean[of_muxspace])
                pseudo_labels = logits[:, :MUXSPACE].float().softmax(dim=2)
            targets[of_muxspace, :MUXSPACE] = pseudo_labels
        weights = (targets.sum(dim=2) > 0).float()
        if self.muxspace:
            weights[of_muxspace, :MUXSPACE] *= options.pseudo_label_weight
        if batch.mixup:
            share, partner = batch.mixup
            crops = share * crops + (1 - share) * crops[partner]
            targets = share * targets + (1 - share) * targets[partner]
        logits = self.network(crops).float().flatten(0, 1)
        smoothing = self.config.label_smoothing
        losses = F.cross_entropy(logits, targets.flatten(0, 1), label_smoothing=smoothing, reduction="none")
        return (losses * weights.flatten()).sum() / self.config.batch_size

    def evaluate(self, phase: Phase) -> dict[str, float]:
        """Evaluate on the validation data."""
        network = cast(MultiHeadFaceNet, self.eval_network)
        crops = torch.from_numpy(self.val_crops).to(self.device)
        probabilities = network.mix_heads(network.predict_batched(crops)).softmax(dim=1).cpu().numpy()
        predictions = Predictions(probabilities, np.ones(len(self.val_truth), bool))
        seven, five = compute_metrics(predictions, self.val_truth, SEVEN), in_five(predictions, self.val_truth)
        return {
            "accuracy": seven.accuracy,
            "uar": seven.balanced_accuracy,
            "accuracy_five": five.accuracy,
            "uar_five": five.balanced_accuracy,
        }
