"""What is to be known of an architecture to train it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from moodreel.errors import DataInvalid
from moodreel.models.quantization import PRECISIONS
from moodreel.training.data.dataset import Dataset
from moodreel.training.data.loading import DataContext
from moodreel.training.experiment.classification import InputAdapter
from moodreel.training.experiment.config import TrainConfig
from moodreel.training.export.model_folder import write_folder


class ArchitectureAdapter(ABC):
    """How networks of one kind are made and fed.

    name: the architecture's. media: kinds of sets that it can learn from. input_description: for the card.
    supports_mixup: whether two of its inputs have anything between them, as mixup needs.
    """

    name: str
    media: tuple[str, ...]
    input_description: str
    normalization = "within the network"
    supports_mixup = True

    @abstractmethod
    def load_inputs(
        self, data: Dataset, means: DataContext, study: TrainConfig, arguments: Mapping[str, Any]
    ) -> tuple[InputAdapter, np.ndarray]:
        """Give the examples of a set as the network takes them, and bool (N,), which can be learnt from."""

    @abstractmethod
    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Make a network with weights to begin with. Raises DataInvalid, ModelInvalid."""

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All arguments of the network, but for its classes."""
        return dict(given)

    def unused_parameters(self, data: Dataset) -> tuple[str, ...]:
        """First words of the names of weights that have nothing to learn from in a set."""
        return ()

    def card_fields(self, data: Dataset) -> dict[str, Any]:
        """More of model.json."""
        return {}

    def warm_start_audio(
        self, network: nn.Module, checkpoint: Path, data: Dataset, study: TrainConfig, counts: Mapping
    ) -> None:
        """Begin from what another run has learnt of the same recordings. counts: of examples, as checkpoints say."""
        raise DataInvalid(f"{self.name} hears nothing; leave --heard out.")

    def write(self, out: Path, network: nn.Module, fields: dict[str, Any], weights: str, **stated: str) -> None:
        """Write weights, in one of `PRECISIONS`, and model.json. stated: its data and licence."""
        write_folder(out, PRECISIONS[weights](network.state_dict()), fields, **stated)

    def init_statistics(self, network: nn.Module, material: InputAdapter, learnt: np.ndarray) -> None:  # noqa: B027
        """Set what a network takes from what it learns from, before it does: its normalisation."""
