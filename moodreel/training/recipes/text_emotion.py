"""Train MiniLM on GoEmotions. Reads from top to bottom.

1. Cut the texts into word pieces, as serving does.
2. Train from pretrained weights, against the 28 labels and the seven classes at once; average the weights as it goes.
3. On texts held out from training, calibrate each label and find its threshold.
4. Write the model's folder.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from moodreel.emotions import EKMAN
from moodreel.models.networks.minilm import MiniLM
from moodreel.models.text_registry import read_tokenizer
from moodreel.models.tokenizer import normalize_text
from moodreel.training.data.ferplus import holdout_mask
from moodreel.training.data.goemotions import Texts, read_texts
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.task import Task
from moodreel.training.engine.trainer import TrainerConfig, TrainingHistory, fit
from moodreel.training.evaluation.calibration import apply_calibration, fit_calibration, fit_thresholds
from moodreel.training.evaluation.metrics import compute_multilabel_metrics
from moodreel.training.recipes.configs import TextRecipe
from moodreel.training.recipes.minilm_init import build_network, find_pretrained, init_head_bias

log = logging.getLogger(__name__)

TokenIds = list[np.ndarray]


@dataclass(frozen=True, eq=False)
class TrainedText:
    """A network in eval mode with what its answers need; all by `EKMAN`. curve: macro-F1 held out, after each epoch."""

    net: MiniLM
    tokenizer: Tokenizer
    temperatures: dict[str, float]
    offsets: dict[str, float]
    thresholds: dict[str, float]
    curve: Sequence[float] = ()


def train_text(
    data: Path, recipe: TextRecipe, pretrained: Path | None = None, *, loop: Callable[..., TrainingHistory] = fit
) -> TrainedText:
    """Train on `train.tsv` of the folder `data`. The same recipe gives the same network on the same machine.

    pretrained: the folder of MiniLM's weights and tokenizer; that of the installed package `PACKAGE` for None.
    loop: `fit`, told where to keep its checkpoints.
    Raises DataInvalid, ModelInvalid.
    """
    torch.manual_seed(recipe.seed)
    pretrained = pretrained or find_pretrained()
    tokenizer = read_tokenizer(pretrained)
    texts = read_texts(data, "train")
    held = holdout_mask(len(texts.texts), recipe.held_out, recipe.seed)
    learnt, kept = texts.only(~held), texts.only(held)

    net = build_network(texts.groups, recipe, pretrained)
    init_head_bias(net, learnt)
    pieces, kept_pieces = (
        tokenize(tokenizer, learnt.texts, recipe.longest),
        tokenize(tokenizer, kept.texts, recipe.longest),
    )
    task = MultiLabelTextTask(net, pieces, learnt, kept_pieces, kept.classes, recipe)
    examples = {"learnt": len(pieces), "judged": len(kept_pieces)}
    about = {"architecture": "minilm", "labels": EKMAN, "recipe": asdict(recipe), "examples": examples}
    fitted = loop(task, [task.phase()], task.running(), metadata=about)
    return calibrate_text(net, tokenizer, kept, recipe, [row["macro_f1"] for row in fitted.rows])


def calibrate_text(
    net: MiniLM, tokenizer: Tokenizer, kept: Texts, recipe: TextRecipe, curve: Sequence[float] = ()
) -> TrainedText:
    """Calibrate a trained network, and find its thresholds, on texts that it didn't learn from."""
    net.eval()
    probabilities = predict(net, tokenize(tokenizer, kept.texts, recipe.longest), recipe)
    temperatures, offsets = fit_calibration(probabilities, torch.from_numpy(kept.classes))
    thresholds = fit_thresholds(apply_calibration(probabilities, temperatures, offsets), kept.classes)
    return TrainedText(net, tokenizer, _named(temperatures), _named(offsets), _named(thresholds), curve)


def _named(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {label: round(float(value), 4) for label, value in zip(EKMAN, values, strict=True)}


def tokenize(tokenizer: Tokenizer, texts: tuple[str, ...], longest: int) -> TokenIds:
    """The word pieces of texts, of each the first `longest`: comments have fewer, but for one in thousands."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return [np.array(encoded.ids) for encoded in tokenizer.encode_batch([normalize_text(text) for text in texts])]


def predict(net: nn.Module, pieces: TokenIds, recipe: TextRecipe) -> torch.Tensor:
    """The network's own probabilities (N, 7), before calibration."""
    net.eval()
    order = np.argsort([len(row) for row in pieces], kind="stable")
    probabilities = torch.zeros(len(pieces), len(EKMAN))
    with torch.inference_mode(), _precision(recipe):
        for start in range(0, len(order), 2 * recipe.batch):
            rows = order[start : start + 2 * recipe.batch]
            probabilities[rows] = net.probabilities(pad([pieces[i] for i in rows]))  # type: ignore[operator]
    return probabilities


def pad(rows: TokenIds) -> torch.Tensor:
    """Word pieces (N, T), zeros where a text has ended."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for to, row in zip(ids, rows, strict=True):
        to[: len(row)] = row
    return torch.from_numpy(ids)


def _fitted(probabilities: torch.Tensor, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shares = apply_calibration(probabilities, *fit_calibration(probabilities, torch.from_numpy(truth)))
    return shares, truth, fit_thresholds(shares, truth)


@dataclass(eq=False)
class MultiLabelTextTask(Task):
    """Learn the 28 labels and the seven classes at once.

    pieces, texts: what is learnt from. kept, truth: what the averaged network is judged by, after each epoch.
    """

    network: MiniLM
    pieces: TokenIds
    texts: Texts
    kept: TokenIds
    truth: np.ndarray
    recipe: TextRecipe
    monitor = "macro_f1"

    def __post_init__(self) -> None:
        self.epoch = math.ceil(len(self.pieces) / self.recipe.batch)
        self.shuffled, self.batches = -1, list[np.ndarray]()

    def phase(self) -> Phase:
        """Each layer has a rate of its own: the nearer to the words, the less it needs to change."""
        recipe, depth, steps = self.recipe, len(self.network.layers), self.recipe.epochs * self.epoch
        factors = {f"layers.{number}.": recipe.layer_decay ** (depth - number) for number in range(depth)}
        factors |= {"": recipe.layer_decay ** (depth + 1), "head.": recipe.head_rate / recipe.rate}
        warm, decay = max(1, int(recipe.warm * steps)) / steps, recipe.decay
        return Phase(
            "texts",
            steps,
            recipe.rate,
            "trapezoid",
            warmup=warm,
            decay_fraction=1 - warm,
            lr_scales=factors,
            weight_decay=decay,
        )

    def running(self) -> TrainerConfig:
        """Each epoch is judged."""
        return TrainerConfig(
            seed=self.recipe.seed,
            ema_decay=self.recipe.average,
            ema_warmup=False,
            eval_every=self.epoch,
            betas=(0.9, 0.98),
            bf16=self.recipe.brief,
        )

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> tuple[torch.Tensor, np.ndarray]:
        epoch, place = divmod(step, self.epoch)
        if epoch != self.shuffled:
            order = np.random.default_rng((self.recipe.seed, epoch))
            self.shuffled, self.batches = epoch, _batches(self.pieces, self.recipe.batch, order)
        rows = self.batches[place]
        return pad([self.pieces[row] for row in rows]), rows

    def loss(self, batch: tuple[torch.Tensor, np.ndarray], phase: Phase) -> torch.Tensor:
        ids, rows = batch
        logits, finer = self.network(ids).float(), len(self.network.groups)
        classes = F.binary_cross_entropy_with_logits(logits[:, finer:], torch.from_numpy(self.texts.classes[rows]))
        return classes + self.recipe.finer * F.binary_cross_entropy_with_logits(
            logits[:, :finer], torch.from_numpy(self.texts.fine[rows])
        )

    def evaluate(self, phase: Phase) -> dict[str, float]:
        probabilities = predict(cast(MiniLM, self.eval_network), self.kept, self.recipe)
        with torch.inference_mode(False):  # calibration is fitted by gradients
            report = compute_multilabel_metrics(*_fitted(probabilities.clone(), self.truth))
        return {"macro_f1": report.macro_f1, "accuracy": report.accuracy}


def _batches(pieces: TokenIds, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows in batches of texts of about one length, which need little padding; another order each time."""
    order = rng.permutation(len(pieces))
    chunks = np.array_split(order, max(1, len(order) // (50 * batch)))
    order = np.concatenate([chunk[np.argsort([len(pieces[i]) for i in chunk], kind="stable")] for chunk in chunks])
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _precision(recipe: TextRecipe) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.brief)
