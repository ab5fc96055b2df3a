"""The task of learning what the labellers of several conventions call a crop of a face."""

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
from moodreel.training.recipes.configs import AppearanceRecipe

FERPLUS, FER2013, MUXSPACE = range(3)
"""The heads."""

TRAINING, POLISHING = "training", "polishing"
"""The phases."""


@dataclass(frozen=True, eq=False)
class LabeledCrops:
    """What is learnt from: crops uint8 (N, 48, 48), targets (N, H, C), zeros where a head has no label for the crop,
    and how often each crop is shown (N,), adding up to 1."""

    crops: np.ndarray
    targets: torch.Tensor
    weights: np.ndarray

    def __len__(self) -> int:
        return len(self.crops)


@dataclass(frozen=True, eq=False)
class CropBatch:
    """Crops uint8 (B, 48, 48), disturbed and as they are, and their targets (B, H, C); FER+'s first.

    told: whether the averaged network has learnt enough to say what muxspace's are.
    blend: how much of itself each crop keeps, and the row of the one that makes up the rest, where they are blended.
    """

    disturbed: torch.Tensor
    clean: torch.Tensor
    targets: torch.Tensor
    told: bool
    blend: tuple[float, torch.Tensor] | None


@dataclass(eq=False)
class MultiHeadTask(Task):
    """Learn what the labellers of each convention call a crop.

    faces, others: of FER+ and of muxspace. kept, truth: crops (N, 48, 48) to judge by, and their labels (N,).
    """

    network: MultiHeadFaceNet
    faces: LabeledCrops
    others: LabeledCrops | None
    kept: np.ndarray
    truth: np.ndarray
    recipe: AppearanceRecipe
    monitor = "accuracy"

    def setup(self, device: torch.device) -> None:
        """Put all crops on the device, where they are augmented."""
        super().setup(device)
        self._crops = [torch.from_numpy(each.crops).to(device) for each in (self.faces, self.others) if each]

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> CropBatch:
        recipe, polishing = self.recipe, phase.name == POLISHING
        crops, targets = [], []
        sources = [(self.faces, recipe.faces)] + ([(self.others, recipe.others)] if self.others else [])
        for (labeled, count), on_device in zip(sources, self._crops, strict=True):
            rows = rng.choice(len(labeled), count, p=labeled.weights / labeled.weights.sum(dtype=np.float64))
            crops.append(on_device[torch.from_numpy(rows)])
            targets.append(labeled.targets[torch.from_numpy(rows)])
        clean = torch.cat(crops)
        share = recipe.polish_clean if polishing else recipe.clean
        return CropBatch(
            augment_crops(clean, rng, clean_prob=share),
            clean,
            torch.cat(targets),
            told=step >= recipe.steps // 5,
            blend=self._blend(len(clean), rng) if not polishing and rng.random() < recipe.mix else None,
        )

    def _blend(self, count: int, rng: np.random.Generator) -> tuple[float, torch.Tensor]:
        """Pairs of one source, so that both have the same heads' labels."""
        first = self.recipe.faces
        partner = np.concatenate([rng.permutation(first), first + rng.permutation(count - first)])
        return float(rng.beta(0.4, 0.4)), torch.from_numpy(partner)

    def loss(self, batch: CropBatch, phase: Phase) -> torch.Tensor:
        recipe, targets, shown = self.recipe, batch.targets, batch.disturbed.float()
        of_others = slice(-recipe.others, None)
        if self.others and not recipe.teacher and batch.told:
            with torch.inference_mode():
                said = self.eval_network(batch.clean[of_others])[:, :MUXSPACE].float().softmax(dim=2)
            targets[of_others, :MUXSPACE] = said
        heard = (targets.sum(dim=2) > 0).float()
        if self.others:
            heard[of_others, :MUXSPACE] *= recipe.taught
        if batch.blend:
            share, partner = batch.blend
            shown = share * shown + (1 - share) * shown[partner]
            targets = share * targets + (1 - share) * targets[partner]
        logits = self.network(shown).float().flatten(0, 1)
        losses = F.cross_entropy(logits, targets.flatten(0, 1), label_smoothing=recipe.smoothing, reduction="none")
        return (losses * heard.flatten()).sum() / recipe.faces

    def evaluate(self, phase: Phase) -> dict[str, float]:
        net = cast(MultiHeadFaceNet, self.eval_network)
        answers = (
            net.mix_heads(net.predict_batched(torch.from_numpy(self.kept).to(self.device))).softmax(dim=1).cpu().numpy()
        )
        predictions = Predictions(answers, np.ones(len(self.truth), bool))
        seven, five = compute_metrics(predictions, self.truth, SEVEN), in_five(predictions, self.truth)
        return {
            "accuracy": seven.accuracy,
            "uar": seven.balanced_accuracy,
            "accuracy_five": five.accuracy,
            "uar_five": five.balanced_accuracy,
        }
