"""The interface between an architecture and the classification experiment."""

# ruff: noqa: RUF009 -- option() returns dataclasses.field()

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from moodreel.errors import DataInvalid
from moodreel.models.quantization import PRECISIONS
from moodreel.training.data.dataset import Dataset
from moodreel.training.experiment.classification import InputAdapter
from moodreel.training.experiment.options import DATASET, PATH, Options, option
from moodreel.training.experiment.recipe import RunRequest
from moodreel.training.export.model_folder import write_folder

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class ClassificationOptions(Options):
    """Options of the classification task besides the shared ones."""

    pretrained: Path | None = option(None, "pretrained weights, for architectures that take them", kind=PATH)
    faces: str = option("", "pair each recording with faces of its emotion (synthetic pairing)", kind=DATASET)
    folds: int = option(0, "folds of a cross-validation by person before training on all data; 0 for none", "[0, inf)")
    small_face_epochs: int = option(
        0, "audio-visual, on images: epochs in which faces are shown small", "[0, inf)", old="small"
    )
    drop_video: float = option(
        0.15, "audio-visual: fraction of the windows that lose their frames", "[0, 1]", old="video"
    )
    drop_audio: float = option(
        0.15, "audio-visual: fraction of the windows that lose their audio", "[0, 1]", old="audio"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if (total := self.drop_video + self.drop_audio) > 1:
            raise DataInvalid(f"--drop-video and --drop-audio must add up to at most 1, not {total:g}.")


ClassificationRequest = RunRequest[ClassificationOptions]


class ArchitectureAdapter(ABC):
    """Builds networks of one architecture and prepares their inputs.

    Attributes:
        name: The architecture's name.
        media: The kinds of data sets that it can be trained on.
        backbone: Prefixes of the parameters that may be frozen at first.
        input_description: Description of the input, for model.json.
        normalization: Description of the input normalization, for model.json.
    """

    media: tuple[str, ...]
    input_description: str
    normalization = "within the network"

    def __init__(self, name: str, *, backbone: tuple[str, ...] = ()) -> None:
        self.name, self.backbone = name, backbone

    @abstractmethod
    def load_inputs(self, data: Dataset, request: ClassificationRequest) -> tuple[InputAdapter, np.ndarray]:
        """Load the inputs of a data set of N examples. Also returns which of them can be trained on, bool (N,)."""

    @abstractmethod
    def build(self, labels: tuple[str, ...], arguments: Mapping[str, Any], pretrained: Path | None) -> nn.Module:
        """Build a network with its initial weights. Raises DataInvalid, ModelInvalid."""

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments of the network except its number of classes."""
        return dict(given)

    def card_fields(self, inputs: InputAdapter) -> dict[str, Any]:
        """Return more fields of model.json."""
        return {}

    def write(self, out: Path, network: nn.Module, fields: dict[str, Any], weights: str, **statement: str) -> None:
        """Write weights, in one of `PRECISIONS`, and model.json. statement: data and license for model.json."""
        write_folder(out, PRECISIONS[weights](network.state_dict()), fields, **statement)


def checked_build(name: str, network: Callable[..., Network], **arguments: Any) -> Network:
    """Build a network. Raises DataInvalid if its arguments are invalid."""
    try:
        return network(**arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataInvalid(f"{name} cannot be built: {str(error).rstrip('.')}. Check its --model-arg.") from error
