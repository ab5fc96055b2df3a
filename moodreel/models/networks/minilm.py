"""MiniLM (Wang et al. 2020): a small BERT, whose mean over a text's tokens says which emotions the text shows."""

from collections.abc import Sequence

import torch
from torch import nn

from moodreel.models.networks.text_base import TextClassifier

VOCABULARY_SIZE = 30522
"""Word pieces of BERT's uncased vocabulary."""


class MiniLM(TextClassifier):
    """An encoder, the mean of its last layer over all tokens, and a logit for each label that it learnt.

    groups: of each finer label that it learnt beside its classes, the class that it belongs to. A class's probability
        is the mean of its own and of that of any of its finer labels, which know what the class has in common less well
        but rare labels better.
    layers, width, heads, hidden: of the encoder. vocabulary: word pieces that it knows. longest: how many it has places
        for.
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
        super().__init__(classes=classes, longest=longest)
        if not all(0 <= group < classes for group in groups):
            raise ValueError("Every finer label belongs to a class.")
        self.groups = tuple(groups)
        self.arguments = {"classes": classes, "groups": list(groups), "layers": layers, "width": width, "heads": heads}
        self.arguments |= {"hidden": hidden, "vocabulary": vocabulary, "longest": longest}
        self.word = nn.Embedding.from_pretrained(_some(vocabulary, width), freeze=False, padding_idx=self.pad_id)
        self.pos = nn.Embedding.from_pretrained(_some(longest, width), freeze=False)
        self.kind = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, hidden, dropout, "gelu", 1e-12, batch_first=True)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, len(self.groups) + classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Word pieces (N, T), `pad` where there are none, to logits (N, G + C): the finer labels, then the classes."""
        absent = ids == self.pad_id
        x = self.word(ids).to(self.norm.weight.dtype) + self.pos.weight[: ids.shape[1]] + self.kind
        x = self.drop(self.norm(x))
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=absent)
        present = (~absent)[..., None].to(x.dtype)
        return self.head(self.drop((x * present).sum(dim=1) / present.sum(dim=1).clamp_min(1)))

    def probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        return self.class_probabilities(self(ids))

    def class_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (N, G + C) of `forward` to the probabilities (N, C) of the classes."""
        every = logits.float().sigmoid()
        finer, own = every[:, : len(self.groups)], every[:, len(self.groups) :]
        if not self.groups:
            return own
        groups = torch.tensor(self.groups, device=every.device)
        any_of = [1 - (1 - finer[:, groups == number]).prod(dim=1) for number in range(self.classes)]
        return (own + torch.stack(any_of, dim=1)) / 2

    def prepare_for_serving(self) -> None:
        # Half of all parameters are this table, of which a text reads a few rows: it gains nothing from more precision.
        self.word.half()


def _some(rows: int, columns: int) -> torch.Tensor:
    """A table to begin with. torch's own is of normal numbers, and to make those for a network without memory it loads
    SymPy: 70 MB in every worker."""
    return torch.empty(rows, columns).uniform_(-0.05, 0.05)
