"""Define recipes: a recipe trains the models of one task, with the options of a preset, and writes their files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from moodreel.errors import DataInvalid
from moodreel.models.model_store import find_model_store
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.loading import DataContext
from moodreel.training.data.registry import open_dataset
from moodreel.training.engine import trainer
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.task import Task
from moodreel.training.engine.trainer import TrainerConfig, TrainingHistory
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.experiment.options import Options

TaskOptions = TypeVar("TaskOptions", bound=Options, covariant=True)
STORE = find_model_store()


@dataclass(frozen=True)
class RunRequest(Generic[TaskOptions]):
    """One training run: a preset with the changes of the command line, its data and its output folder.

    Attributes:
        preset: The preset's name.
        architecture: The network's name in model.json.
        model: Keyword arguments of the network.
        config: Options of the training loop.
        options: Options of the task.
        data: Paths of the data sets by name.
        out: The model's folder.
        context: Location of models and caches, and number of workers.
        device: A torch device.
        resume: Whether to resume from the checkpoints in `out`.
        wandb: Project of Weights & Biases; "" for none.
        command: The command that repeats the run, for the model card.
    """

    preset: str
    architecture: str
    model: Mapping[str, Any]
    config: TrainConfig
    options: TaskOptions
    data: Mapping[str, Path]
    out: Path
    context: DataContext
    device: str = "cpu"
    resume: bool = False
    wandb: str = ""
    command: str = ""

    def fit(
        self,
        task: Task,
        phases: Iterable[Phase],
        trainer_config: TrainerConfig,
        *,
        folder: Path | None = None,
        **metadata: Any,
    ) -> TrainingHistory:
        """Train a network, with checkpoints in `out` or in `folder`. metadata: more metadata for the checkpoint."""
        stated = {"architecture": self.architecture, "arguments": self.model, "recipe": self.record(), **metadata}
        where = folder or self.out
        return trainer.fit(task, phases, trainer_config, where, resume=self.resume, metadata=stated, wandb=self.wandb)

    def model_fields(
        self,
        labels: Sequence[str],
        arguments: Mapping[str, Any],
        *,
        input: str,
        normalization: str,
        temperature: float,
        frame_temperature: float | None = None,
    ) -> dict[str, Any]:
        """Return the fields of model.json for loading and calling the network. frame_temperature: if it differs."""
        return {
            "architecture": self.architecture,
            "arguments": {"classes": len(labels), **arguments},
            "labels": list(labels),
            "input": input,
            "normalisation": normalization,
            "temperature": round(temperature, 4),
            "moment_temperature": round(temperature if frame_temperature is None else frame_temperature, 4),
        }

    def open_dataset(self) -> Dataset:
        """Open the only data set of the run. Raises DataInvalid."""
        if len(self.data) != 1:
            raise DataInvalid(f"{self.preset} takes one data set; give one --data NAME:PATH.")
        [(name, path)] = self.data.items()
        return open_dataset(f"{name}:{path}")

    def record(self) -> dict[str, Any]:
        """Return the whole recipe for model.json, without local paths."""
        return {"preset": self.preset, **self.config.record(), **self.options.record()}


class Recipe(ABC):
    """Trains the models of one task and writes their folders.

    Attributes:
        options: The dataclass of the task's own options.
        uses: The fields of `TrainConfig` that the task reads; only these are options of its presets.
        required: Names of the data sets that it needs. Without these and `optional`, it takes any single data set.
        optional: Names of data sets that it uses if they are given.
        writes_model: Whether it writes a model, so that a run needs --out.
        bare_data: Name of the data set for --data PATH without a name, which is deprecated.
    """

    options: type[Options]
    uses: frozenset[str]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    writes_model = True
    bare_data = "ferplus"

    @abstractmethod
    def prepare(self, request: RunRequest[Any]) -> Callable[[], str]:
        """Check everything that a run needs, before training starts and before anything is written to `out`.

        Returns:
            The run: it trains, writes the model's folder and returns a summary to print.

        Raises:
            MoodreelError: Something is missing or invalid.
        """

    def check_data(self, names: Iterable[str], preset: str) -> None:
        """Raise DataInvalid if a required data set is missing, or a given one is not used."""
        known = (*self.required, *self.optional)
        if known and (unknown := [name for name in names if name not in known]):
            raise DataInvalid(f"{preset} trains on {', '.join(known)}, not on {unknown[0]!r}.")
        if missing := [name for name in self.required if name not in names]:
            raise DataInvalid(f"{preset} needs --data {missing[0]}:PATH.")
