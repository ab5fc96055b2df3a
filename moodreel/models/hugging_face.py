"""A folder as Hugging Face's transformers keeps a `ViTForImageClassification`: `config.json`, `model.safetensors`.

It is read from the folder alone: nothing is fetched, and no code or pickle that it may hold is run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from moodreel.errors import ModelInvalid
from moodreel.models.expression import ExpressionNet

ARCHITECTURE = "hugging-face-vit"
"""What its card names; only made from a folder."""
CONFIG, PREPROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"

NAMES = {
    "happiness": "happy",
    "joy": "happy",
    "surprised": "surprise",
    "sadness": "sad",
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "scared": "fear",
    "afraid": "fear",
    "natural": "neutral",
}
"""What others call our seven labels."""

RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for how pictures are resized."""


@dataclass(frozen=True)
class Preparation:
    """How pictures become what a network reads.

    size: pixels a side. mean, std: of red, green and blue after `scale`, which 0 to 255 is multiplied by.
    mode: of resizing, in torch's words.
    """

    size: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str


class HuggingFaceViT(ExpressionNet):
    """A vision transformer of transformers (Dosovitskiy et al. 2021) that reads portraits as it was trained to.

    vit: a ViTForImageClassification.
    """

    portrait = True
    few = 0
    batch = 16

    def __init__(self, vit: Any, preparation: Preparation) -> None:
        super().__init__(classes=vit.config.num_labels, shares=(1.0,), tau=0.0, temperatures=())
        self.vit = vit
        self.preparation = preparation

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.vit(pixel_values=self.prepare(pictures)).logits[:, None]

    def prepare(self, portraits: torch.Tensor) -> torch.Tensor:
        """Portraits (N, S, S, 3), 0 to 255, to float32 (N, 3, size, size)."""
        how = self.preparation
        colours = portraits.movedim(-1, 1).float()
        if colours.shape[-1] != how.size:
            resized = F.interpolate(colours, (how.size, how.size), mode=how.mode, antialias=True)
            colours = resized.round().clamp(0, 255)  # pictures of bytes are what transformers resizes
        mean, std = (colours.new_tensor(values)[:, None, None] for values in (how.mean, how.std))
        return (colours * how.scale - mean) / std


def is_folder(path: Path) -> bool:
    return (path / CONFIG).is_file()


def read_labels(folder: Path) -> tuple[str, ...]:
    """The labels of a folder's config, by our names where we have them; the others, and those that would come to have
    one name, stay as they are, in lower case. Raises ModelInvalid."""
    named: Any = _read(folder, CONFIG).get("id2label")
    try:
        labels = [str(named[str(number)]).strip().lower() for number in range(len(named))]
    except (KeyError, TypeError) as error:
        raise ModelInvalid(
            f"The {CONFIG} of {folder.name!r} needs an id2label that names every output from 0 on; correct it."
        ) from error
    folded = [NAMES.get(label, label) for label in labels]
    return tuple(label if folded.count(ours) > 1 else ours for label, ours in zip(labels, folded, strict=True))


def import_transformers(folder: Path) -> Any:
    """Import the library that a folder of its needs, and hush it. Raises ModelInvalid where it is not installed."""
    try:
        # Imported here: only those who use it have it, and it costs every start a second.
        import transformers
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise ModelInvalid(
            f"{folder.name!r} needs Hugging Face's transformers: pip install -r requirements-extras.txt"
        ) from error
    transformers_logging.disable_progress_bar()
    return transformers


def read_network(folder: Path) -> HuggingFaceViT:
    """Read a folder's network and how its pictures are prepared. Raises ModelInvalid."""
    config = _read(folder, CONFIG)
    reads = config.get("model_type") == "vit" and config.get("num_channels", 3) == 3
    if not reads or not (folder / WEIGHTS).is_file():
        raise ModelInvalid(
            f"The folder {folder.name!r} is no ViTForImageClassification of colours in safetensors; it needs a "
            f"{CONFIG} of model_type vit, and {WEIGHTS}."
        )
    preparation = read_preparation(folder)
    transformers = import_transformers(folder)
    try:
        loaded: Any = transformers.ViTForImageClassification.from_pretrained(
            folder,
            config=transformers.ViTConfig.from_dict(config),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
        )
    except Exception as error:  # transformers lets through errors of its own, of safetensors and of torch
        raise ModelInvalid(
            f"The weights of {folder.name!r} do not fit its {CONFIG}, or either is broken; copy or download both again."
        ) from error
    vit, report = loaded
    # What is missing would be made up at random, with no more than a warning.
    if wrong := sorted(map(str, [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]])):
        raise ModelInvalid(
            f"The weights of {folder.name!r} do not fit its {CONFIG}: {', '.join(wrong[:3])} missing, unexpected or of "
            "another shape; copy or download both again."
        )
    if not all(torch.isfinite(parameter).all() for parameter in vit.parameters()):
        raise ModelInvalid(f"The weights of {folder.name!r} hold numbers that are not finite; download them again.")
    return HuggingFaceViT(vit, preparation)


def read_preparation(folder: Path) -> Preparation:
    """Read how pictures are prepared; without a `preprocessor_config.json` as most ViTs have it: colours from -1 to 1.

    Raises ModelInvalid.
    """
    stated = _read(folder, PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else {}
    half = [0.5, 0.5, 0.5]
    normalise = stated.get("do_normalize", True)
    try:
        size = _read(folder, CONFIG).get("image_size", 224)
        preparation = Preparation(
            # The network's own: one of another size could not read what it is given.
            size=int(size),
            scale=float(stated.get("rescale_factor", 1 / 255)) if stated.get("do_rescale", True) else 1.0,
            mean=tuple(map(float, stated.get("image_mean", half))) if normalise else (0.0, 0.0, 0.0),
            std=tuple(map(float, stated.get("image_std", half))) if normalise else (1.0, 1.0, 1.0),
            mode=RESAMPLING[stated.get("resample", 2)],
        )
        if not len(preparation.mean) == len(preparation.std) == 3 or min(*preparation.std, preparation.size) <= 0:
            raise ValueError("not three colours, or nothing of them left")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelInvalid(
            f"The {PREPROCESSOR} of {folder.name!r} needs image_mean and image_std of three numbers, and resample 2 or "
            "3; correct it."
        ) from error
    return preparation


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json. Raises ModelInvalid."""
    return _read(folder, CONFIG)


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        fields = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"The {name} of {folder.name!r} is no JSON that can be read; restore it.") from error
    if not isinstance(fields, dict):
        raise ModelInvalid(f"The {name} of {folder.name!r} holds no JSON object; restore it.")
    return fields
