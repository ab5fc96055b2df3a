"""Load image-classification models of Hugging Face's transformers: a ViT or a ResNet, from a folder.

Only the folder is read (`config.json`, `model.safetensors`): nothing is downloaded, and no code or pickle is run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch.nn import functional as F

from moodreel.errors import ModelInvalid
from moodreel.faces.features import CropKind
from moodreel.models.model_card import JsonObject
from moodreel.models.networks.multi_head import MultiHeadFaceNet
from moodreel.models.networks.resnet18 import IMAGENET_MEAN, IMAGENET_STD
from moodreel.models.quantization import dequantize

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ARCHITECTURES = {"vit": "hugging-face-vit", "resnet": "hugging-face-resnet"}
"""Architecture in the model card by the config's model_type. Such a network can only be made from a folder."""
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
"""Our label for each synonym of one of the seven emotions. It has fewer than `LABEL_SYNONYMS`: "calm" may be a label of
its own."""

RESAMPLING_MODES = {2: "bilinear", 3: "bicubic"}
"""torch's name of each of Pillow's resampling filters."""


@dataclass(frozen=True)
class ImagePreprocessing:
    """Preprocessing of the images that a network reads.

    Attributes:
        size: Pixels a side.
        scale: Factor of the values 0..255.
        mean: Of red, green and blue after `scale`; subtracted.
        std: Of red, green and blue after `scale`; divided by.
        mode: Interpolation, by torch's name.
    """

    size: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str


class HuggingFaceNet(MultiHeadFaceNet):
    """A network of transformers that reads RGB crops: a ViT (Dosovitskiy et al. 2021) or a ResNet (He et al. 2016)."""

    crop_kind = CropKind.SQUARE
    mirror_below = 0
    batch_size = 16

    def __init__(self, network: Any, preprocessing: ImagePreprocessing) -> None:
        """Wrap a network.

        Args:
            network: A ViTForImageClassification or a ResNetForImageClassification; Any, because their layers differ.
            preprocessing: Of its images.
        """
        super().__init__(classes=network.config.num_labels)
        self.network = network
        self.preprocessing = preprocessing

    @property
    def model_type(self) -> str:
        """Key of `ARCHITECTURES`. Names of parameters, except the classifier's, start with `network.{model_type}.`."""
        return str(self.network.config.model_type)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the logits (N, 1, C) of RGB crops (N, S, S, 3), 0..255."""
        logits: torch.Tensor = self.network(pixel_values=self.preprocess(images)).logits
        return logits[:, None]

    def preprocess(self, images: torch.Tensor) -> torch.Tensor:
        """Turn RGB images (N, S, S, 3), 0..255, into float32 (N, 3, size, size)."""
        how = self.preprocessing
        colors = images.movedim(-1, 1).float()
        if colors.shape[-1] != how.size:
            resized = F.interpolate(colors, (how.size, how.size), mode=how.mode, antialias=True)
            colors = resized.round().clamp(0, 255)  # transformers resizes images of bytes
        mean, std = (colors.new_tensor(values)[:, None, None] for values in (how.mean, how.std))
        return (colors * how.scale - mean) / std


def is_huggingface_folder(path: Path) -> bool:
    """Return whether a folder has a config.json."""
    return (path / CONFIG_FILE).is_file()


def read_architecture(folder: Path) -> str:
    """Return the architecture for the model card, also of a type that cannot be loaded. Raises ModelInvalid."""
    kind = str(_read(folder, CONFIG_FILE).get("model_type"))
    return ARCHITECTURES.get(kind, f"hugging-face-{kind}")


def read_labels(folder: Path) -> tuple[str, ...]:
    """Return the labels of a folder's config in lower case, replaced by ours where there is one.

    Labels that would get the same replacement are kept. Raises ModelInvalid.
    """
    labels = [label.strip().lower() for label in read_output_names(folder)]
    ours = [LABEL_ALIASES.get(label, label) for label in labels]
    return tuple(label if ours.count(our) > 1 else our for label, our in zip(labels, ours, strict=True))


def read_output_names(folder: Path) -> list[str]:
    """Return the names of the outputs in a folder's config, in their order. Raises ModelInvalid."""
    try:
        id2label = read_config(folder)["id2label"]
        return [str(id2label[str(index)]) for index in range(len(id2label))]
    except (KeyError, TypeError) as error:
        raise ModelInvalid(
            f"The {CONFIG_FILE} of {folder.name!r} needs an id2label that names every output from 0 on; correct it."
        ) from error


def import_transformers(name: str) -> ModuleType:
    """Import transformers without its progress bars and warnings.

    Args:
        name: The model that needs it, for the error.

    Raises:
        ModelInvalid: Transformers is not installed.
    """
    try:
        # Imported here: it is an optional package and takes a second.
        import transformers
        from transformers.utils import logging as transformers_logging
    except ImportError as error:
        raise ModelInvalid(
            f"{name!r} needs Hugging Face's transformers: pip install 'moodreel[huggingface]' "
            "(in a clone: pip install -r requirements-extras.txt)"
        ) from error
    transformers_logging.disable_progress_bar()
    # The functions that load a model report what does not fit.
    transformers_logging.set_verbosity_error()
    return transformers


def read_network(folder: Path) -> HuggingFaceNet:
    """Load a folder's network and its preprocessing. Raises ModelInvalid."""
    config = read_config(folder)
    supported = config.get("model_type") in ARCHITECTURES and config.get("num_channels", 3) == 3
    if not supported or not (folder / HF_WEIGHTS_FILE).is_file():
        raise ModelInvalid(
            f"The folder {folder.name!r} holds no ViTForImageClassification or ResNetForImageClassification for color "
            f"images; it needs a {CONFIG_FILE} with model_type vit or resnet, and {HF_WEIGHTS_FILE}."
        )
    preprocessing = read_preprocessing(folder)
    import_transformers(folder.name)
    try:
        weights = dequantize(safetensors.torch.load_file(folder / HF_WEIGHTS_FILE))
        network, wrong = network_from_state_dict(config, weights, folder.name)
    except Exception as error:  # transformers passes on errors of its own, of safetensors and of torch
        raise ModelInvalid(
            f"The weights of {folder.name!r} do not fit its {CONFIG_FILE}, or one of them is broken; copy or "
            "download both again."
        ) from error
    check_weights(network, wrong, folder.name)
    return HuggingFaceNet(network, preprocessing)


def check_weights(network: "PreTrainedModel", wrong: Sequence[str], name: str) -> None:
    """Raise ModelInvalid for a network whose weights in a folder of this name are incomplete or not finite.

    Args:
        network: As transformers has loaded it: weights that are missing are random, with only a warning.
        wrong: Names of the weights that do not fit.
        name: Of the folder.
    """
    if wrong:
        raise ModelInvalid(
            f"The weights of {name!r} do not fit its {CONFIG_FILE}: {', '.join(wrong[:3])} missing, unexpected or of "
            "another shape; copy or download both again."
        )
    if not all(torch.isfinite(parameter).all() for parameter in network.parameters()):
        raise ModelInvalid(f"The weights of {name!r} hold numbers that are not finite; download them again.")


def network_from_state_dict(
    config: JsonObject, weights: Mapping[str, torch.Tensor], name: str
) -> tuple["PreTrainedModel", list[str]]:
    """Build the network of a config with these weights.

    Args:
        config: Content of a config.json.
        weights: By their names in a `model.safetensors`.
        name: Name of the model, for errors.

    Returns:
        The network; and, sorted, the names of weights that are missing, unexpected or of another shape. Those that are
        missing or of another shape have random values.

    Raises:
        ModelInvalid: Transformers is not installed.
        Exception: Whatever transformers raises for a config or weights that it cannot use.
    """
    transformers = import_transformers(name)
    classes = {
        "vit": (transformers.ViTConfig, transformers.ViTForImageClassification, {"attn_implementation": "sdpa"}),
        "resnet": (transformers.ResNetConfig, transformers.ResNetForImageClassification, {}),
    }
    config_class, network_class, options = classes[config["model_type"]]
    network, report = network_class.from_pretrained(
        None,
        config=config_class.from_dict(dict(config)),
        state_dict=dict(weights),
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
        **options,
    )
    # A mismatched key comes with both shapes.
    mismatched = [entry if isinstance(entry, str) else entry[0] for entry in report["mismatched_keys"]]
    return network, sorted({*report["missing_keys"], *report["unexpected_keys"], *mismatched})


def read_preprocessing(folder: Path) -> ImagePreprocessing:
    """Read the preprocessing of images; without a `preprocessor_config.json` that of most networks of the type.

    A ResNet's center crop (`crop_pct`) is ignored: the square around a face has no margin to cut off.

    Raises:
        ModelInvalid: The file cannot be read or used.
    """
    stated = _read(folder, PREPROCESSOR_FILE) if (folder / PREPROCESSOR_FILE).is_file() else {}
    config = read_config(folder)
    default = default_preprocessing(str(config.get("model_type")))
    normalize = stated.get("do_normalize", True)
    try:
        preprocessing = ImagePreprocessing(
            # The network's own size comes first: it cannot read another one.
            size=int(config.get("image_size") or _side(stated.get("size")) or default.size),
            scale=float(stated.get("rescale_factor", default.scale)) if stated.get("do_rescale", True) else 1.0,
            mean=tuple(map(float, stated.get("image_mean", default.mean))) if normalize else (0.0, 0.0, 0.0),
            std=tuple(map(float, stated.get("image_std", default.std))) if normalize else (1.0, 1.0, 1.0),
            mode=RESAMPLING_MODES[stated.get("resample", 2)],
        )
        colors = len(preprocessing.mean), len(preprocessing.std)
        if colors != (3, 3) or min(*preprocessing.std, preprocessing.size) <= 0:
            raise ValueError("not three colors, or not above 0")
    except (KeyError, TypeError, ValueError) as error:
        raise ModelInvalid(
            f"The {PREPROCESSOR_FILE} of {folder.name!r} needs image_mean and image_std of three numbers, and resample "
            "2 or 3; correct it."
        ) from error
    return preprocessing


def default_preprocessing(kind: str, size: int = 224) -> ImagePreprocessing:
    """Return the preprocessing of most ViTs (-1..1), or of most ResNets (ImageNet's mean and deviation)."""
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if kind == "resnet" else ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return ImagePreprocessing(size=size, scale=1 / 255, mean=mean, std=std, mode=RESAMPLING_MODES[2])


def _side(size: int | Mapping[str, int] | None) -> int | None:
    """Return the pixels a side of a size that is a number, a height and a width, or a shortest edge."""
    return size.get("height", size.get("shortest_edge")) if isinstance(size, Mapping) else size


def read_config(folder: Path) -> JsonObject:
    """Read a folder's config.json. Raises ModelInvalid."""
    return _read(folder, CONFIG_FILE)


def _read(folder: Path, name: str) -> JsonObject:
    try:
        fields = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"The {name} of {folder.name!r} is missing or is not JSON; restore it.") from error
    if not isinstance(fields, dict):
        raise ModelInvalid(f"The {name} of {folder.name!r} holds no JSON object; restore it.")
    return fields
