"""A folder as Hugging Face's transformers keeps a model for `text-classification`: `config.json`, `tokenizer.json` or a
vocabulary, `model.safetensors`.

It is read from the folder alone: nothing is fetched, and no code or pickle that it may hold is run.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from moodreel.emotions import EKMAN, to_ekman
from moodreel.errors import ModelInvalid
from moodreel.models.huggingface.image import CONFIG_FILE, HF_WEIGHTS_FILE, import_transformers, read_config
from moodreel.models.networks.text_base import TextClassifier

logger = logging.getLogger(__name__)

ARCHITECTURE = "hugging-face-text"
"""What its card names; only made from a folder."""
MULTI_LABEL = "multi_label_classification"
"""The problem type of a model whose labels are each a question of its own."""
MAX_TOKENS = 512


class HuggingFaceText(TextClassifier):
    """A network of transformers for text-classification, whose labels are folded into `EKMAN`.

    Of a model that says one label only, the probabilities of the labels folded into one are added up, after those of
    labels that are none of ours are left out; of one that may say several, a class is there where any of its labels is.

    network: an AutoModelForSequenceClassification. classes: of each of its labels, the number of ours, or None.
    """

    def __init__(self, network: Any, classes: Sequence[int | None], *, several: bool, longest: int, pad: int) -> None:
        super().__init__(classes=len(EKMAN), longest=longest, pad=pad)
        self.network = network
        self.multi_label = several
        known = [number for number, label in enumerate(classes) if label is not None]
        self.known = known
        self.members = [
            [i for i, number in enumerate(known) if classes[number] == label] for label in range(len(EKMAN))
        ]

    def probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        logits = self.network(input_ids=ids, attention_mask=(ids != self.pad_id).long()).logits.float()[:, self.known]
        each = logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)
        folded = [
            1 - (1 - each[:, members]).prod(dim=1) if self.multi_label else each[:, members].sum(dim=1)
            for members in self.members
        ]
        return torch.stack(folded, dim=1)


def read_text_network(folder: Path) -> HuggingFaceText:
    """Read a folder's network. Raises ModelInvalid."""
    config = read_config(folder)
    classes = _classes(folder, config)
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
    except Exception as error:  # transformers lets through errors of its own, of safetensors and of torch
        raise ModelInvalid(
            f"The folder {folder.name!r} is no text-classification model that transformers can read; copy or download "
            "it again."
        ) from error
    # What is missing would be made up at random, with no more than a warning.
    if wrong := sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]])):
        raise ModelInvalid(
            f"The weights of {folder.name!r} do not fit its {CONFIG_FILE}: {', '.join(wrong[:3])} missing or of "
            "another shape; copy or download both again."
        )
    if not all(torch.isfinite(parameter).all() for parameter in network.parameters()):
        raise ModelInvalid(f"The weights of {folder.name!r} hold numbers that are not finite; download them again.")
    pad = config.get("pad_token_id")
    pad = 0 if pad is None else int(pad)
    # RoBERTa counts places from behind its padding piece on.
    behind = pad + 1 if "roberta" in str(config.get("model_type")) else 0
    longest = min(int(config.get("max_position_embeddings") or MAX_TOKENS) - behind, MAX_TOKENS)
    several = config.get("problem_type") == MULTI_LABEL
    return HuggingFaceText(network, classes, several=several, longest=longest, pad=pad)


def read_text_tokenizer(folder: Path) -> Tokenizer:
    """Read a folder's tokenizer, from `tokenizer.json` or from the vocabulary of an older one. Raises ModelInvalid."""
    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_str((folder / "tokenizer.json").read_text(encoding="utf-8"))
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_fast=True
        ).backend_tokenizer
    except Exception as error:  # tokenizers raises plain Exceptions, transformers many
        raise ModelInvalid(
            f"The folder {folder.name!r} needs a tokenizer.json, or the vocabulary that its tokenizer is made from; "
            "restore it."
        ) from error


def _classes(folder: Path, config: dict[str, Any]) -> list[int | None]:
    """The number of our label for each of the network's. Raises ModelInvalid for those that name no emotions."""
    named = config.get("id2label")
    try:
        labels = [str(named[str(number)]) for number in range(len(named))]  # type: ignore[index, arg-type]
    except (KeyError, TypeError) as error:
        raise ModelInvalid(
            f"The {CONFIG_FILE} of {folder.name!r} needs an id2label that names every output from 0 on; correct it."
        ) from error
    ours = [to_ekman(label) for label in labels]
    if len(set(ours) - {None}) < 2:
        raise ModelInvalid(
            f"The labels of {folder.name!r} name no emotions ({', '.join(labels[:4])}); name them in the id2label of "
            f"its {CONFIG_FILE}, such as {', '.join(EKMAN)}."
        )
    if left_out := [label for label, our in zip(labels, ours, strict=True) if our is None]:
        logger.warning("%s: labels that are no emotion of ours are left out: %s", folder.name, ", ".join(left_out[:10]))
    return [None if our is None else EKMAN.index(our) for our in ours]
