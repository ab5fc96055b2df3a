"""What every network that reads texts has in common: word pieces in, a probability for each label out."""

from abc import ABC, abstractmethod

import torch
from torch import nn


class TextClassifier(nn.Module, ABC):
    """A network that can be named in a `model.json` of the kind `text`.

    classes: how many labels it answers for. longest: word pieces that it reads at once, special ones included.
    pad: the word piece that stands where there is none.
    """

    def __init__(self, *, classes: int, longest: int, pad: int = 0) -> None:
        super().__init__()
        self.classes = classes
        self.max_tokens = longest
        self.pad_id = pad

    @abstractmethod
    def probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        """Word pieces, int64 (N, T), `pad` where a text has ended, to float32 (N, C), 0..1, before calibration. Several
        labels may be likely at once: they need not add up to 1."""

    def prepare_for_serving(self) -> None:
        """Make ready to serve, before the weights come: what needs no more than half precision shall have that."""
