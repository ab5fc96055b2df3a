"""The classification recipe: any architecture on any data set of single labels, with one split or cross-validation."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from moodreel.errors import DataInvalid
from moodreel.training.data.dataset import Dataset, pair_with_faces
from moodreel.training.data.registry import OWNER_LICENSE, open_dataset
from moodreel.training.data.splits import Split, folds, split
from moodreel.training.engine.schedule import Phase
from moodreel.training.evaluation.calibration import fit_temperature
from moodreel.training.evaluation.metrics import ClassificationMetrics, Predictions, compute_metrics
from moodreel.training.evaluation.open_models import open_models
from moodreel.training.evaluation.predict import to_labels
from moodreel.training.experiment.adapter import ArchitectureAdapter, ClassificationOptions, ClassificationRequest
from moodreel.training.experiment.architecture_table import ADAPTERS
from moodreel.training.experiment.audiovisual_inputs import SMALL_FACES
from moodreel.training.experiment.classification import ClassificationTask, InputAdapter
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.recipe import Recipe
from moodreel.training.export.model_card import megabytes, metric_entries, write_card

logger = logging.getLogger(__name__)

OUR_LICENSE = "MIT, as moodreel; the training data are not part of it"
NON_COMMERCIAL = "non-commercial, for research: trained on {name}, {license}"
METRICS = {
    "accuracy": "accuracy",
    "balanced accuracy (UAR)": "balanced_accuracy",
    "macro-F1": "macro_f1",
    "ROC-AUC, one against the rest": "roc_auc",
    "expected calibration error, 15 bins": "ece",
    "fraction with a face or sound found": "found",
}
"""The metrics that model.json and the card show, and their fields."""
ALL = ""
Logits = dict[str, torch.Tensor]
"""Logits (N, C) by input: all modalities (`ALL`), or a single one, by its name."""


@dataclass(frozen=True, eq=False)
class FoldResult:
    """One fold of a cross-validation.

    Attributes:
        metrics: Metrics on the held-out part.
        train_metrics: Metrics on the training part.
        held_out_people: The people who were held out.
        ablations: Metrics on the held-out part with one modality alone, by the name of that modality.
    """

    metrics: ClassificationMetrics
    train_metrics: ClassificationMetrics
    held_out_people: tuple[str, ...]
    ablations: Mapping[str, ClassificationMetrics]


@dataclass(frozen=True, eq=False)
class RunResult:
    """The results of a run.

    Attributes:
        split: The rows that were trained on and held out.
        network: The trained network.
        held_out: Metrics of the served model on the held-out examples; in a cross-validation, metrics on all folds
            together, each predicted by the network that was not trained on it.
        train: Metrics on a sample of the training examples; in a cross-validation, on the training part of the fold
            whose training accuracy is highest.
        folds: The folds of a cross-validation.
        ablations: Metrics on the held-out examples with one modality alone, by the name of that modality.
    """

    split: Split
    network: nn.Module
    held_out: ClassificationMetrics
    train: ClassificationMetrics
    folds: tuple[FoldResult, ...] = ()
    ablations: Mapping[str, ClassificationMetrics] = field(default_factory=dict)


class ClassificationRecipe(Recipe):
    """Trains any architecture on any data set of single labels."""

    options = ClassificationOptions
    uses = frozenset(each.name for each in fields(TrainConfig)) - {"steps"}

    def prepare(self, request: ClassificationRequest) -> Callable[[], str]:
        """Check the data and the options."""
        adapter = ADAPTERS[request.architecture]
        if request.config.freeze_epochs and not adapter.backbone:
            names = ", ".join(name for name, other in ADAPTERS.items() if other.backbone)
            raise DataInvalid(f"{adapter.name} has no backbone to freeze, unlike {names}; omit --freeze-epochs.")
        if request.options.folds and request.config.patience:
            raise DataInvalid("Early stopping would select by the fold that is tested on; omit --patience or --folds.")
        data = request.open_dataset()
        if request.options.faces:
            data = pair_with_faces(data, open_dataset(request.options.faces))
        if len(data.labels) < 2:
            raise DataInvalid(f"{data.name} has one label, {data.labels[0]}; a classifier needs two or more.")
        if data.media not in adapter.media:
            reads = " and ".join(adapter.media)
            raise DataInvalid(f"{adapter.name} reads {reads}, but {data.name} holds {data.noun}; choose another.")
        adapter.build(data.labels, request.model, request.options.pretrained)
        return partial(self._run, request, adapter, data)

    def _run(self, request: ClassificationRequest, adapter: ArchitectureAdapter, data: Dataset) -> str:
        inputs, usable = adapter.load_inputs(data, request)
        logger.info("%s: %d %s, %d usable.", data.name, len(data.examples), data.noun, int(usable.sum()))
        if len(np.unique(data.truth[usable])) < 2:
            raise DataInvalid(
                f"{int(usable.sum())} of {len(usable)} {data.noun} can be trained on, and they have fewer than two "
                "labels. In the others no face or sound was found; check the files."
            )
        experiment = Experiment(request, adapter, data, inputs, usable)
        result = experiment.cross_validate() if request.options.folds else experiment.train_once()
        _write_card(request, data, result)
        return (request.out / "CARD.md").read_text(encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Experiment:
    """An architecture on a data set.

    Attributes:
        request: The run.
        adapter: The adapter of the architecture.
        data: The data set, N examples.
        inputs: Their inputs for the network.
        usable: bool (N,), which can be trained on.
    """

    request: ClassificationRequest
    adapter: ArchitectureAdapter
    data: Dataset
    inputs: InputAdapter
    usable: np.ndarray

    def train_once(self) -> RunResult:
        """Train on one split, write the model's folder, and measure it as it is served."""
        data, config = self.data, self.request.config
        parts = data.split(config.test_fraction, by=config.split_by, seed=config.seed)
        logger.info("%s", parts.reason)
        train_rows, val_rows = self._split_validation(parts.train[self.usable[parts.train]])
        task = self._train(train_rows, val_rows, self.request.out)
        temperatures = self._fit_temperatures(self._predict(task, val_rows), val_rows)
        self._write_model(task.network, temperatures)
        # All held-out examples have a majority label; for a fair comparison, so must the training sample.
        majority = train_rows if data.has_majority is None else train_rows[data.has_majority[train_rows]]
        sample = np.random.default_rng(config.seed).permutation(majority)[: max(len(parts.held_out), 200)]
        rows = parts.held_out[self.usable[parts.held_out]]
        return RunResult(
            parts,
            task.network,
            held_out=self._measure_served(task, parts.held_out, temperatures[ALL]),
            train=self._measure_served(task, np.sort(sample), temperatures[ALL]),
            ablations=self._measure(self._ablate(task, rows), rows, temperatures),
        )

    def cross_validate(self) -> RunResult:
        """Measure by training once for each fold; then train on everything, and write the model's folder."""
        data, request = self.data, self.request
        parts = folds(
            data.examples, request.options.folds, by=request.config.split_by or "person", seed=request.config.seed
        )
        inputs = (ALL, *self.inputs.ablations())
        logits = {name: torch.zeros(len(data.examples), len(data.labels)) for name in inputs}
        results = [self._run_fold(number, part, logits) for number, part in enumerate(parts, start=1)]
        rows = np.flatnonzero(self.usable)
        logits = {name: each[rows] for name, each in logits.items()}
        temperatures = self._fit_temperatures(logits, rows)
        metrics = self._measure(logits, rows, temperatures)
        task = self._train(rows, rows, request.out)
        self._write_model(task.network, temperatures)
        reason = f"{len(parts)} folds, each held out in turn. {parts[0].reason}"
        return RunResult(
            replace(parts[0], train=rows, held_out=rows, reason=reason),
            task.network,
            held_out=metrics.pop(ALL),
            train=max((result.train_metrics for result in results), key=lambda metrics: metrics.accuracy),
            folds=tuple(results),
            ablations=metrics,
        )

    def _run_fold(self, number: int, part: Split, logits: Logits) -> FoldResult:
        """Train without a fold, and fill in its rows of the logits."""
        train_rows, test_rows = (rows[self.usable[rows]] for rows in (part.train, part.held_out))
        logger.info("Fold %d: %s", number, part.reason)
        task = self._train(train_rows, test_rows, self.request.out / f"fold-{number}")
        predicted = self._predict(task, test_rows)
        for name, each in predicted.items():
            logits[name][test_rows] = each
        ablations = self._measure(predicted, test_rows)
        metrics = ablations.pop(ALL)
        logger.info("Fold %d: UAR %.4f, accuracy %.4f", number, metrics.balanced_accuracy, metrics.accuracy)
        people = tuple(sorted({str(self.data.examples[row].person) for row in test_rows}))
        return FoldResult(metrics, self._metrics(task.predict_logits(train_rows), train_rows), people, ablations)

    def _train(self, train_rows: np.ndarray, val_rows: np.ndarray, folder: Path) -> ClassificationTask:
        request, data, adapter = self.request, self.data, self.adapter
        config, options = request.config, request.options
        torch.manual_seed(config.seed)
        network = adapter.build(data.labels, request.model, options.pretrained)
        network.to(request.device)
        targets = data.targets if data.targets is not None else np.eye(len(data.labels), dtype=np.float32)[data.truth]
        task = ClassificationTask(network, self.inputs, targets, train_rows, val_rows, config)
        self.inputs.init_statistics(network, train_rows)
        steps = max(1, task.steps_per_epoch() // config.grad_accumulation)
        request.fit(
            task,
            training_phases(config, options, adapter.backbone, steps, self.inputs.unused),
            config.trainer_config(config.eval_every * steps),
            folder=folder,
            arguments=adapter.arguments(request.model),
            labels=data.labels,
            data=data.name,
            examples={"train": len(train_rows), "val": len(val_rows)},
        )
        return task

    def _split_validation(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split training rows into rows to train on and rows to validate and calibrate on.

        The split is by person unless `split_by` says otherwise; at random if there are too few persons.
        """
        config, examples = self.request.config, [self.data.examples[row] for row in rows]
        make_split = partial(split, examples, config.val_fraction, seed=config.seed + 1)
        try:
            parts = make_split(by=config.split_by or "person")
        except DataInvalid:
            parts = make_split(by="random")
            logger.warning(
                "Too few persons to hold out some for validation: validation metrics, not test metrics, are too high."
            )
        return rows[parts.train], rows[parts.held_out]

    def _write_model(self, network: nn.Module, temperatures: Mapping[str, float]) -> None:
        request, data, adapter = self.request, self.data, self.adapter
        values = request.model_fields(
            data.labels,
            adapter.arguments(request.model),
            input=adapter.input_description,
            normalization=adapter.normalization,
            temperature=temperatures[ALL],
        )
        if modalities := {name: round(value, 4) for name, value in temperatures.items() if name != ALL}:
            values["modality_temperatures"] = modalities
        values |= {**adapter.card_fields(self.inputs), "recipe": request.record()}
        license = OWNER_LICENSE if data.license == OWNER_LICENSE else OUR_LICENSE
        if not data.commercial:
            license = NON_COMMERCIAL.format(name=data.name, license=data.license)
            values["commercial"] = False
        statement = {"data": f"{data.name} ({data.license})", "licence": license}
        adapter.write(request.out, network, values, request.config.weights, **statement)

    def _measure_served(self, task: ClassificationTask, rows: np.ndarray, temperature: float) -> ClassificationMetrics:
        """Measure the written model, as it is served, on some examples."""
        if self.data.faces is not None:  # a synthetic pair has no file to serve
            return self._metrics(task.predict_logits(rows) / temperature, rows)
        [model] = open_models([str(self.request.out)], self.request.context.models)
        examples = [self.data.examples[row] for row in rows]
        predictions = model.predict(examples, self.data.media, self.request.context)
        # In serving, labels that are the service's own are in its order.
        predictions = to_labels(predictions, model.info.labels, self.data.labels)
        return compute_metrics(predictions, self.data.truth[rows], self.data.labels)

    def _predict(self, task: ClassificationTask, rows: np.ndarray) -> Logits:
        return {ALL: task.predict_logits(rows), **self._ablate(task, rows)}

    def _ablate(self, task: ClassificationTask, rows: np.ndarray) -> Logits:
        return {name: task.predict_logits(rows, inputs=inputs) for name, inputs in self.inputs.ablations().items()}

    def _fit_temperatures(self, logits: Logits, rows: np.ndarray) -> dict[str, float]:
        truth = torch.from_numpy(self.data.truth[rows])
        return {name: fit_temperature(each, truth) for name, each in logits.items()}

    def _measure(
        self, logits: Logits, rows: np.ndarray, temperatures: Mapping[str, float] | None = None
    ) -> dict[str, ClassificationMetrics]:
        return {name: self._metrics(each / (temperatures or {}).get(name, 1), rows) for name, each in logits.items()}

    def _metrics(self, logits: torch.Tensor, rows: np.ndarray) -> ClassificationMetrics:
        predictions = Predictions(logits.softmax(dim=1).double().numpy(), np.ones(len(rows), bool))
        return compute_metrics(predictions, self.data.truth[rows], self.data.labels)


def training_phases(
    config: TrainConfig,
    options: ClassificationOptions,
    backbone: tuple[str, ...],
    steps_per_epoch: int,
    unused: tuple[str, ...] = (),
) -> tuple[Phase, ...]:
    """Return up to three phases: with the backbone frozen, with small faces, and the rest.

    Args:
        config: Options of the training loop.
        options: Options of the task.
        backbone: Prefixes of the parameters to freeze.
        steps_per_epoch: Weight updates in an epoch.
        unused: Prefixes of the parameters that the data cannot train; they stay frozen.
    """
    frozen = min(config.freeze_epochs, config.epochs) if backbone else 0
    scales = dict.fromkeys(backbone, config.backbone_lr_scale) if frozen else {}

    def phase(name: str, epochs: int, **more: Any) -> Phase:
        restart_steps = config.restart_epochs * steps_per_epoch
        return config.phase(name, epochs * steps_per_epoch, restart_steps=restart_steps, **more)

    small = min(options.small_face_epochs, config.epochs - frozen)
    phases = (
        phase("frozen backbone", frozen, frozen=(*backbone, *unused)),
        phase(SMALL_FACES, small, frozen=unused, lr_scales=scales),
        phase("all", config.epochs - frozen - small, frozen=unused, lr_scales=scales),
    )
    return tuple(each for each in phases if each.steps)


def _write_card(request: ClassificationRequest, data: Dataset, result: RunResult) -> None:
    source = f"{data.name}, {result.held_out.examples} {data.noun} held out. {result.split.reason}"
    held_out, train = (
        {name: getattr(m, each) for name, each in METRICS.items()} for m in (result.held_out, result.train)
    )
    accuracies = [fold.metrics.balanced_accuracy for fold in result.folds]
    write_card(
        request.out,
        "classification.md.j2",
        metric_entries(held_out, source, request.command),
        request=request,
        config=request.config,
        data=data,
        result=result,
        rows=[(name, value, train[name]) for name, value in held_out.items() if None not in (value, train[name])],
        uar=(float(np.mean(accuracies)), float(np.std(accuracies, ddof=1))) if len(accuracies) > 1 else None,
        absent=[label for label in data.labels if label not in {example.label for example in data.examples}],
        parameters=sum(parameter.numel() for parameter in result.network.parameters()),
        megabytes=megabytes(request.out),
        commands=[request.command],
    )
