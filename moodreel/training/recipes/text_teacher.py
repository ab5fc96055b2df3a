"""Train a teacher for the text recipe: fine-tune MPNet on GoEmotions, and write its predictions as soft labels.

MPNet (Song et al. 2020, arXiv:2004.09297) has five times as many parameters as MiniLM, too many to be served on a CPU.
"""

# ruff: noqa: RUF009 -- option() returns dataclasses.field()

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from moodreel.emotions import EKMAN
from moodreel.errors import DataInvalid
from moodreel.models.networks.text_base import TextClassifier
from moodreel.models.text_registry import TOKENIZER_FILE, read_tokenizer
from moodreel.training.data.goemotions import Texts, read_texts
from moodreel.training.data.splits import holdout_mask
from moodreel.training.engine.schedule import Phase
from moodreel.training.engine.trainer import TrainerConfig
from moodreel.training.experiment.options import PATH, option
from moodreel.training.experiment.recipe import Recipe, RunRequest
from moodreel.training.recipes.minilm_init import init_head_bias
from moodreel.training.recipes.text_emotion import (
    GOEMOTIONS,
    MultiLabelTextTask,
    TextRecipe,
    TextTaskOptions,
    fit_labels,
    run_batches,
    tokenize,
)

if TYPE_CHECKING:
    from transformers import MPNetModel

SOFT_LABELS = "soft_labels.npy"


@dataclass(frozen=True)
class TextTeacherOptions(TextTaskOptions):
    """Options of the teacher besides the shared ones."""

    pretrained: Path | None = option(None, "folder of MPNet's weights and tokenizer", kind=PATH)


class TextTeacherRecipe(Recipe):
    """Trains a teacher, and writes its probabilities for the training texts, but no model."""

    options = TextTeacherOptions
    uses = TextRecipe.uses - {"weights"}
    required = (GOEMOTIONS,)
    bare_data = GOEMOTIONS

    def prepare(self, request: RunRequest[TextTeacherOptions]) -> Callable[[], str]:
        """Check the data and the options."""
        if (pretrained := request.options.pretrained) is None:
            raise DataInvalid("Name the folder of MPNet's model.safetensors and tokenizer.json with --pretrained.")
        if find_spec("transformers") is None:
            raise DataInvalid("MPNet needs transformers: pip install -r requirements-extras.txt.")
        return partial(_run, request, read_texts(request.data[GOEMOTIONS], "train"), pretrained)


def _run(request: RunRequest[TextTeacherOptions], texts: Texts, pretrained: Path) -> str:
    config, options = request.config, request.options
    torch.manual_seed(config.seed)
    tokenizer = read_tokenizer(pretrained)
    held_out = holdout_mask(len(texts.texts), config.val_fraction, config.seed)
    train, val = texts.select(~held_out), texts.select(held_out)
    network = MPNetClassifier(texts.groups, pretrained, dropout=request.model["dropout"])
    init_head_bias(network.head, train)
    history = fit_labels(request, TeacherTask, network, tokenizer, train, val)
    all_tokens = tokenize(tokenizer, texts.texts, options.max_tokens)
    soft = run_batches(network, lambda ids: network(ids).float().sigmoid(), all_tokens, config)
    np.save(request.out / SOFT_LABELS, soft.numpy())
    return f"{SOFT_LABELS}: {len(soft)} texts. Macro-F1 on the texts held out from training: {history.best['macro_f1']}"


class MPNetClassifier(TextClassifier):
    """MPNet with a linear head for the 28 labels and seven classes, on the mean of the last layer over all tokens."""

    def __init__(self, groups: tuple[int, ...], pretrained: Path, *, dropout: float) -> None:
        """Load the pretrained weights; the embeddings of tokens and positions are frozen.

        Args:
            groups: The class of each of the 28 labels.
            pretrained: The folder of model.safetensors and config.json.
            dropout: Dropout before the head.

        Raises:
            DataInvalid: The folder does not hold an MPNet.
        """
        body = _load_mpnet(pretrained)
        longest, pad_id = body.config.max_position_embeddings, cast(int, body.config.pad_token_id)
        super().__init__(classes=len(EKMAN), longest=longest, pad=pad_id)
        self.body: MPNetModel = body
        self.fine = len(groups)
        for name in ("word_embeddings", "position_embeddings"):
            getattr(body.embeddings, name).requires_grad_(False)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(body.config.hidden_size, self.fine + self.classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, 28 + 7) of token ids (N, T) padded with `pad_id`."""
        mask = ids != self.pad_id
        hidden = self.body(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        present = mask[..., None].to(hidden.dtype)
        logits: torch.Tensor = self.head(self.drop((hidden * present).sum(dim=1) / present.sum(dim=1)))
        return logits

    def probabilities(self, ids: torch.Tensor) -> torch.Tensor:
        """Compute the probability of each class, float32 (N, 7); see `TextClassifier`."""
        labels: torch.Tensor = self(ids).float().sigmoid()
        return labels[:, self.fine :]


def _load_mpnet(folder: Path) -> "MPNetModel":
    # Imported here because transformers is optional.
    from transformers import MPNetModel

    message = f"{folder} does not hold an MPNet: it needs model.safetensors, config.json and {TOKENIZER_FILE}."
    try:
        loaded = MPNetModel.from_pretrained(
            folder, add_pooling_layer=False, attn_implementation="eager", output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise DataInvalid(message) from error
    body, info = cast("tuple[MPNetModel, dict[str, object]]", loaded)
    if info["missing_keys"]:  # transformers would initialize them at random
        raise DataInvalid(message)
    return body


class TeacherTask(MultiLabelTextTask):
    """Train on the sum over the labels of their losses, where `MultiLabelTextTask` takes the mean."""

    def lr_scales(self) -> dict[str, float]:
        """Return the factors of the learning rate: the nearer a layer is to the embeddings, the lower."""
        decay, last = self.options.layer_lr_decay, cast(MPNetClassifier, self.network).body.config.num_hidden_layers - 1
        scales = {f"body.encoder.layer.{number}.": decay ** (last - number) for number in range(last + 1)}
        return scales | {"": decay**last, "head.": self.options.head_lr / self.config.lr}

    def trainer_config(self) -> TrainerConfig:
        """Return the trainer's configuration."""
        return self.config.trainer_config(self.steps_per_epoch, patience=0)

    def loss(self, batch: tuple[torch.Tensor, np.ndarray], phase: Phase) -> torch.Tensor:
        """Return the loss of a batch."""
        logits, labels, classes = self.logits_and_labels(batch)
        fine = F.binary_cross_entropy_with_logits(logits[:, : labels.shape[1]], labels, reduction="none")
        coarse = F.binary_cross_entropy_with_logits(logits[:, labels.shape[1] :], classes, reduction="none")
        return coarse.sum(dim=1).mean() + self.options.fine_label_weight * fine.sum(dim=1).mean()
