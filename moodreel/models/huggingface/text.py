"""Load text-classification models of Hugging Face's transformers from a folder.

Only the folder is read (`config.json`, `tokenizer.json` or a vocabulary, `model.safetensors`): nothing is downloaded,
and no code or pickle is run.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer

from moodreel.emotions import EKMAN, to_ekman
from moodreel.errors import ModelInvalid
from moodreel.models.huggingface.image import (
    CONFIG_FILE,
    HF_WEIGHTS_FILE,
    check_weights,
    import_transformers,
    read_config,
    read_output_names,
)
from moodreel.models.networks.text_base import TextClassifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

ARCHITECTURE = "hugging-face-text"
"""Architecture in the model card. Such a network can only be made from a folder."""
MULTI_LABEL = "multi_label_classification"
"""Problem type of a model whose labels do not exclude each other."""
MAX_TOKENS = 512
"""Most tokens that are given to a network at once."""


class HuggingFaceText(TextClassifier):
    """A text-classification network of transformers whose labels are mapped to `EKMAN`.

    Labels that map to none of ours are left out first. Then, for a single-label model, a class has the sum of the
    probabilities of its labels; for a multi-label model, the probability that any of its labels holds.
    """

    def __init__(
        self,
        network: "PreTrainedModel",
        classes: Sequence[int | None],
        *,
        multi_label: bool,
        max_tokens: int,
        pad_id: int,
    ) -> None:
        """Wrap a network.

        Args:
            network: An AutoModelForSequenceClassification.
            classes: Index in `EKMAN` of each of its labels, or None.
            multi_label: Whether its labels do not exclude each other.
            max_tokens: Tokens that it reads at once.
            pad_id: Id of the padding token.
        """
        super().__init__(classes=len(EKMAN), longest=max_tokens, pad=pad_id)
        self.network = network
        self.multi_label = multi_label
        known = [index for index, label in enumerate(classes) if label is not None]
        self.known = known
        self.members = [[i for i, index in enumerate(known) if classes[index] == label] for label in range(len(EKMAN))]

    def probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute the probability of each label of `EKMAN`, float32 (N, 7); see `TextClassifier`."""
        logits = self.network(input_ids=ids, attention_mask=(ids != self.pad_id).long()).logits.float()[:, self.known]
        each = logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)
        mapped = [
            1 - (1 - each[:, members]).prod(dim=1) if self.multi_label else each[:, members].sum(dim=1)
            for members in self.members
        ]
        return torch.stack(mapped, dim=1)


def read_text_network(folder: Path) -> HuggingFaceText:
    """Load a folder's network. Raises ModelInvalid."""
    config = read_config(folder)
    classes = _map_labels(folder)
    if not (folder / HF_WEIGHTS_FILE).is_file():
        raise ModelInvalid(
            f"The folder {folder.name!r} has a {CONFIG_FILE} but no {HF_WEIGHTS_FILE}; save the model as safetensors."
        )
    transformers = import_transformers(folder.name)
    try:
        network, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as error:  # transformers passes on errors of its own, of safetensors and of torch
        raise ModelInvalid(
            f"The folder {folder.name!r} is not a text-classification model that transformers can read; copy or "
            "download it again."
        ) from error
    check_weights(network, sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])), folder.name)
    pad_id = int(config.get("pad_token_id") or 0)
    # RoBERTa's first positions, up to that of its padding token, are not used.
    unused = pad_id + 1 if "roberta" in str(config.get("model_type")) else 0
    max_tokens = min(int(config.get("max_position_embeddings") or MAX_TOKENS) - unused, MAX_TOKENS)
    multi_label = config.get("problem_type") == MULTI_LABEL
    return HuggingFaceText(network, classes, multi_label=multi_label, max_tokens=max_tokens, pad_id=pad_id)


def read_text_tokenizer(folder: Path) -> Tokenizer:
    """Read a folder's tokenizer, from `tokenizer.json` or from the vocabulary of an older one. Raises ModelInvalid."""
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        transformers = import_transformers(folder.name)
        loaded = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_fast=True
        )
        tokenizer: Tokenizer = loaded.backend_tokenizer
        return tokenizer
    except Exception as error:  # tokenizers raises plain Exceptions, transformers many
        raise ModelInvalid(
            f"The folder {folder.name!r} needs a tokenizer.json, or the vocabulary that its tokenizer is made from; "
            "restore it."
        ) from error


def _map_labels(folder: Path) -> list[int | None]:
    """Return the index in `EKMAN` of each label, or None. Raises ModelInvalid if fewer than two match."""
    labels = read_output_names(folder)
    ours = [to_ekman(label) for label in labels]
    if len(set(ours) - {None}) < 2:
        raise ModelInvalid(
            f"The labels of {folder.name!r} name no emotions ({', '.join(labels[:4])}); name them in the id2label of "
            f"its {CONFIG_FILE}, such as {', '.join(EKMAN)}."
        )
    if left_out := [label for label, our in zip(labels, ours, strict=True) if our is None]:
        logger.warning("%s: labels that match no emotion are left out: %s", folder.name, ", ".join(left_out[:10]))
    return [None if our is None else EKMAN.index(our) for our in ours]
