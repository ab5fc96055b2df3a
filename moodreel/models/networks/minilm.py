"""Define MiniLM (Wang et al. 2020), a small BERT, with a multi-label classifier on the mean of its last layer."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from moodreel.models.networks.text_base import TextClassifier
from moodreel.models.quantization import SCALE_SUFFIX, QuantizedEmbedding

VOCABULARY_SIZE = 30522
"""Tokens of BERT's uncased vocabulary."""


class MiniLM(TextClassifier):
    """An encoder, the mean of its last layer over all tokens, and one logit for each label it was trained on.

    Besides its classes it may have finer labels, each in one class (`groups`). The probability of a class is then the
    mean of its own output and of the probability that any of its finer labels holds: these represent rare emotions
    better, and what the class has in common less well.
    """

    def __init__(
        self,
        *,
        classes: int = 7,
        groups: Sequence[int] = (),
        layers: int = 6,
        width: int = 384,
        heads: int = 12,
        hidden: int = 1536,
        vocabulary: int = VOCABULARY_SIZE,
        longest: int = 512,
        dropout: float = 0.1,
    ) -> None:
        """Build the network.

        Args:
            classes: Number of classes.
            groups: Class of each finer label.
            layers: Transformer layers.
            width: Values of each token.
            heads: Attention heads of each layer.
            hidden: Units of the feed-forward layers.
            vocabulary: Number of different tokens.
            longest: Number of positional embeddings, the longest input.
            dropout: Dropout of the embeddings, the layers and the classifier.
        """
        super().__init__(classes=classes, longest=longest)
        if not all(0 <= group < classes for group in groups):
            raise ValueError("Each of the groups must be the number of a class.")
        self.groups = tuple(groups)
        self.arguments = {"classes": classes, "groups": list(groups), "layers": layers, "width": width, "heads": heads}
        self.arguments |= {"hidden": hidden, "vocabulary": vocabulary, "longest": longest}
        table = _random_table(vocabulary, width)
        self.word = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=self.pad_id)
        self.pos = nn.Embedding.from_pretrained(_random_table(longest, width), freeze=False)
        self.kind = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.drop = nn.Dropout(dropout)
        layer = partial(nn.TransformerEncoderLayer, width, heads, hidden, dropout, "gelu", 1e-12, batch_first=True)
        self.layers = nn.ModuleList(layer() for _ in range(layers))
        self.head = nn.Linear(width, len(self.groups) + classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, G + C), finer labels first, of token ids (N, T) padded with `pad_id`."""
        padding = ids == self.pad_id
        x = self.word(ids).to(self.norm.weight.dtype) + self.pos.weight[: ids.shape[1]] + self.kind
        x = self.drop(self.norm(x))
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
        present = (~padding)[..., None].to(x.dtype)
        logits: torch.Tensor = self.head(self.drop((x * present).sum(dim=1) / present.sum(dim=1).clamp_min(1)))
        return logits

    def probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute the probability of each class, float32 (N, C); see `TextClassifier`."""
        return self.class_probabilities(self(ids))

    def class_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Combine the logits (N, G + C) of `forward` to the probabilities (N, C) of the classes."""
        labels = logits.float().sigmoid()
        finer, own = labels[:, : len(self.groups)], labels[:, len(self.groups) :]
        if not self.groups:
            return own
        groups = torch.tensor(self.groups, device=labels.device)
        any_finer = [1 - (1 - finer[:, groups == number]).prod(dim=1) for number in range(self.classes)]
        return (own + torch.stack(any_finer, dim=1)) / 2

    def prepare_for_serving(self, weights: dict[str, torch.Tensor]) -> None:
        """Store the token embeddings, half of all parameters, as int8 if `weights` has them so, or else as float16."""
        name = "word.weight"
        is_quantized = {name, name + SCALE_SUFFIX} <= weights.keys()
        if is_quantized and weights[name].shape == self.word.weight.shape:
            table = QuantizedEmbedding(weights.pop(name), weights.pop(name + SCALE_SUFFIX))
            self.word = table
        else:
            self.word.half()


def _random_table(rows: int, columns: int) -> torch.Tensor:
    """Return an initial embedding table.

    torch's own initialization draws normal numbers; on the meta device that loads SymPy, 70 MB in every worker.
    """
    return torch.empty(rows, columns).uniform_(-0.05, 0.05)
