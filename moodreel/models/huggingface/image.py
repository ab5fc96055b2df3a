"""A folder as Hugging Face's transformers keeps a `ViTForImageClassification` or a `ResNetForImageClassification`:
`config.json`, `model.safetensors`.

It is read from the folder alone: nothing is fetched, and no code or pickle that it may hold is run.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch.nn import functional as F

from moodreel.errors import ModelInvalid
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.models.networks.resnet18 import IMAGENET_MEAN, IMAGENET_STD
from moodreel.models.quantization import dequantize

ARCHITECTURES = {"vit": "hugging-face-vit", "resnet": "hugging-face-resnet"}
"""What cards name, by the config's model_type; only made from a folder."""
CONFIG_FILE, PREPROCESSOR_FILE, HF_WEIGHTS_FILE = "config.json", "preprocessor_config.json", "model.safetensors"

LABEL_ALIASES = {
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

RESAMPLING_MODES = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for how pictures are resized."""


@dataclass(frozen=True)
class ImagePreprocessing:
    """How pictures become what a network reads.

    size: pixels a side. mean, std: of red, green and blue after `scale`, which 0 to 255 is multiplied by.
    mode: of resizing, in torch's words.
    """

    size: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str


class HuggingFaceNet(MultiHeadFaceNet):
    """A network of transformers that reads portraits as it was trained to: a vision transformer (Dosovitskiy et al.
    2021) or a ResNet (He et al. 2016).

    network: a ViTForImageClassification or a ResNetForImageClassification.
    """

    requires_rgb_crop = True
    mirror_below = 0
    batch_size = 16

    def __init__(self, network: Any, preparation: ImagePreprocessing) -> None:
        super().__init__(classes=network.config.num_labels, shares=(1.0,), tau=0.0, temperatures=())
        self.network = network
        self.preprocessing = preparation

    @property
    def model_type(self) -> str:
        """A key of `ARCHITECTURES`; "network.", it and "." are what the names of all parameters begin with but those of
        the layer that names classes."""
        return self.network.config.model_type

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.network(pixel_values=self.preprocess(pictures)).logits[:, None]

    def preprocess(self, portraits: torch.Tensor) -> torch.Tensor:
        """Portraits (N, S, S, 3), 0 to 255, to float32 (N, 3, size, size)."""
        how = self.preprocessing
        colours = portraits.movedim(-1, 1).float()
        if colours.shape[-1] != how.size:
            resized = F.interpolate(colours, (how.size, how.size), mode=how.mode, antialias=True)
            colours = resized.round().clamp(0, 255)  # pictures of bytes are what transformers resizes
        mean, std = (colours.new_tensor(values)[:, None, None] for values in (how.mean, how.std))
        return (colours * how.scale - mean) / std


def is_huggingface_folder(path: Path) -> bool:
    return (path / CONFIG_FILE).is_file()


def read_architecture(folder: Path) -> str:
    """What the card of a folder's model names; of one that is no network of ours, what its config says. Raises
    ModelInvalid."""
    kind = str(_read(folder, CONFIG_FILE).get("model_type"))
    return ARCHITECTURES.get(kind, f"hugging-face-{kind}")


def read_labels(folder: Path) -> tuple[str, ...]:
    """The labels of a folder's config, by our names where we have them; the others, and those that would come to have
    one name, stay as they are, in lower case. Raises ModelInvalid."""
    named: Any = _read(folder, CONFIG_FILE).get("id2label")
    try:
        labels = [str(named[str(number)]).strip().lower() for number in range(len(named))]
    except (KeyError, TypeError) as error:
        raise ModelInvalid(
            f"The {CONFIG_FILE} of {folder.name!r} needs an id2label that names every output from 0 on; correct it."
        ) from error
    folded = [LABEL_ALIASES.get(label, label) for label in labels]
    return tuple(label if folded.count(ours) > 1 else ours for label, ours in zip(labels, folded, strict=True))


def import_transformers(name: str) -> Any:
    """Import the library that the model of this name needs, and hush it. Raises ModelInvalid where it is not
    installed."""
    try:
        # Imported here: only those who use it have it, and it costs every start a second.
        import transformers
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise ModelInvalid(
            f"{name!r} needs Hugging Face's transformers: pip install -r requirements-extras.txt"
        ) from error
    transformers_logging.disable_progress_bar()
    # What does not fit is told by whoever loads it.
    transformers_logging.set_verbosity_error()
    return transformers


def read_network(folder: Path) -> HuggingFaceNet:
    """Read a folder's network and how its pictures are prepared. Raises ModelInvalid."""
    config = _read(folder, CONFIG_FILE)
    reads = config.get("model_type") in ARCHITECTURES and config.get("num_channels", 3) == 3
    if not reads or not (folder / HF_WEIGHTS_FILE).is_file():
        raise ModelInvalid(
            f"The folder {folder.name!r} holds no ViTForImageClassification or ResNetForImageClassification for colour "
            f"images; it needs a {CONFIG_FILE} with model_type vit or resnet, and {HF_WEIGHTS_FILE}."
        )
    preparation = read_preprocessing(folder)
    import_transformers(folder.name)
    try:
        weights = dequantize(safetensors.torch.load_file(folder / HF_WEIGHTS_FILE))
        network, wrong = network_from_state_dict(config, weights, folder.name)
    except Exception as error:  # transformers lets through errors of its own, of safetensors and of torch
        raise ModelInvalid(
            f"The weights of {folder.name!r} do not fit its {CONFIG_FILE}, or one of them is broken; copy or "
            "download both again."
        ) from error
    # What is missing would be made up at random, with no more than a warning.
    if wrong:
        raise ModelInvalid(
            f"The weights of {folder.name!r} do not fit its {CONFIG_FILE}: {', '.join(wrong[:3])} missing, unexpected "
            "or of another shape; copy or download both again."
        )
    if not all(torch.isfinite(parameter).all() for parameter in network.parameters()):
        raise ModelInvalid(f"The weights of {folder.name!r} hold numbers that are not finite; download them again.")
    return HuggingFaceNet(network, preparation)


def network_from_state_dict(
    config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], name: str
) -> tuple[Any, list[str]]:
    """Make the network of a config, with these weights, by the names that they have in files.

    Returns it and, sorted, the names that are missing, unexpected or of another shape; the first and the last of them
    are made up at random. Raises ModelInvalid where transformers is not installed, else whatever transformers does.
    """
    transformers = import_transformers(name)
    known = {
        "vit": (transformers.ViTConfig, transformers.ViTForImageClassification, {"attn_implementation": "sdpa"}),
        "resnet": (transformers.ResNetConfig, transformers.ResNetForImageClassification, {}),
    }
    of_config, of_network, options = known[config["model_type"]]
    network, report = of_network.from_pretrained(
        None,
        config=of_config.from_dict(dict(config)),
        state_dict=dict(weights),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
        **options,
    )
    # Of another shape is given with both shapes.
    other = [entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]]
    return network, sorted({*report["missing_keys"], *report["unexpected_keys"], *other})


def read_preprocessing(folder: Path) -> ImagePreprocessing:
    """Read how pictures are prepared; without a `preprocessor_config.json` as most networks of its kind have it.

    A ResNet's may ask for a margin that is cut off (`crop_pct`); the square around a face has none, and is read whole.
    Raises ModelInvalid.
    """
    stated = _read(folder, PREPROCESSOR_FILE) if (folder / PREPROCESSOR_FILE).is_file() else {}
    config = _read(folder, CONFIG_FILE)
    usual = default_preprocessing(str(config.get("model_type")))
    normalise = stated.get("do_normalize", True)
    try:
        preparation = ImagePreprocessing(
            # The network's own, where it has one: one of another size could not read what it is given.
            size=int(config.get("image_size") or _side(stated.get("size")) or usual.size),
            scale=float(stated.get("rescale_factor", usual.scale)) if stated.get("do_rescale", True) else 1.0,
            mean=tuple(map(float, stated.get("image_mean", usual.mean))) if normalise else (0.0, 0.0, 0.0),
            std=tuple(map(float, stated.get("image_std", usual.std))) if normalise else (1.0, 1.0, 1.0),
            mode=RESAMPLING_MODES[stated.get("resample", 2)],
        )
        if not len(preparation.mean) == len(preparation.std) == 3 or min(*preparation.std, preparation.size) <= 0:
            raise ValueError("not three colours, or nothing of them left")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelInvalid(
            f"The {PREPROCESSOR_FILE} of {folder.name!r} needs image_mean and image_std of three numbers, and resample "
            "2 or 3; correct it."
        ) from error
    return preparation


def default_preprocessing(kind: str, size: int = 224) -> ImagePreprocessing:
    """Colours from -1 to 1 for ViTs; for ResNets those of ImageNet, of mean 0 and deviation 1."""
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if kind == "resnet" else ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return ImagePreprocessing(size=size, scale=1 / 255, mean=mean, std=std, mode=RESAMPLING_MODES[2])


def _side(size: Any) -> Any:
    """Pixels a side of what transformers writes as a number, a height and a width, or a shortest edge."""
    return size.get("height", size.get("shortest_edge")) if isinstance(size, dict) else size


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json. Raises ModelInvalid."""
    return _read(folder, CONFIG_FILE)


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        fields = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"The {name} of {folder.name!r} is no JSON that can be read; restore it.") from error
    if not isinstance(fields, dict):
        raise ModelInvalid(f"The {name} of {folder.name!r} holds no JSON object; restore it.")
    return fields
