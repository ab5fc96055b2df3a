"""Define what every text network has in common: token ids in, a probability for each label out."""

from abc import ABC, abstractmethod

import torch
from torch import nn


class TextClassifier(nn.Module, ABC):
    """Base class of the networks that a `model.json` of the kind `text` can name.

    Attributes:
        classes: Number of labels.
        max_tokens: Tokens that it reads at once, special tokens included.
        pad_id: Id of the padding token.
    """

    def __init__(self, *, classes: int, longest: int, pad: int = 0) -> None:
        """Set what the attributes of the class document: `longest` is `max_tokens`, `pad` is `pad_id`."""
        super().__init__()
        self.classes = classes
        self.max_tokens = longest
        self.pad_id = pad

    @abstractmethod
    def probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute the probability of each label before calibration.

        Args:
            ids: Token ids, int64 (N, T), padded with `pad_id`.

        Returns:
            float32 (N, C), each 0..1 independently of the others.
        """

    def prepare_for_serving(self, weights: dict[str, torch.Tensor]) -> None:
        """Keep what does not need float32 in a lower precision, before the weights are loaded.

        Args:
            weights: As stored, maybe in int8. Those that are used here are taken out.
        """
