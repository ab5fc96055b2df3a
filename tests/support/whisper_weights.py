"""Write an encoder's random weights as CTranslate2 does."""

import struct
from pathlib import Path

import numpy as np

from moodreel.models.networks.whisper import MEL_BANDS, WIDTH

SHAPES = {
    "conv1": (WIDTH, MEL_BANDS, 3),
    "conv2": (WIDTH, WIDTH, 3),
    "self_attention/linear_0": (3 * WIDTH, WIDTH),
    "self_attention/linear_1": (WIDTH, WIDTH),
    "ffn/linear_0": (4 * WIDTH, WIDTH),
    "ffn/linear_1": (WIDTH, 4 * WIDTH),
}


def random_arrays(layers: int) -> dict[str, np.ndarray]:
    """Make float16 arrays of the encoder by their names in CTranslate2."""
    rng = np.random.default_rng(0)
    names = ["conv1", "conv2"]
    arrays = {}
    for number in range(layers):
        names += [f"layer_{number}/{part}" for part in SHAPES if "/" in part]
        for norm in ("self_attention", "ffn"):
            prefix = f"encoder/layer_{number}/{norm}/layer_norm"
            arrays |= {f"{prefix}/gamma": np.ones(WIDTH), f"{prefix}/beta": rng.normal(size=WIDTH)}
    for name in names:
        shape = SHAPES[name.partition("/")[2] if name.startswith("layer_") else name]
        arrays[f"encoder/{name}/weight"] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        arrays[f"encoder/{name}/bias"] = rng.normal(size=shape[0]) / 10
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def write_ctranslate2(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write float16 arrays as a model.bin, without aliases."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    parts = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(arrays))]
    for name, array in arrays.items():
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        parts += [text(name), shape, struct.pack("<BI", 4, array.nbytes), array.tobytes()]
    path.write_bytes(b"".join([*parts, struct.pack("<I", 0)]))
