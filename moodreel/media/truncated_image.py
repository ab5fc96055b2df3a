"""Complete an image file that lacks its last bytes, so that a decoder reads what is there.

A decoder refuses a whole photo for one missing byte. How much is missing is known from sizes in the file; in a JPEG,
only from the rows that come out gray.
"""

import struct
import sys
import zlib
from contextlib import suppress

import numpy as np

from moodreel.media.boxes import iter_boxes

MAX_MISSING = 0.5
"""Share of an image that may be missing. A face in the upper half of a portrait is still found."""

_END_OF_IMAGE = b"\xff\xd9"
_UNDECODED = 128
"""Value of each channel where libjpeg has no data."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by PNG's color type (ISO/IEC 15948, 11.2.2)."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""x, y and distances between pixels of the passes of an interlaced PNG (ISO/IEC 15948, 8.2)."""


def complete_file(data: bytes, file_format: str, max_pixels: int, *, is_complete: bool) -> tuple[bytes, float]:
    """Complete a file; one that lacks nothing is returned as it is.

    Args:
        data: Bytes of the file.
        file_format: JPEG, PNG, WEBP or HEIF.
        max_pixels: A PNG with more is not decompressed.
        is_complete: Whether a JPEG has the marker of its end.

    Returns:
        The file, and the share that was missing, 0 to 1; 0 for a JPEG.
    """
    if file_format == "JPEG":
        return (data if is_complete else data + _END_OF_IMAGE), 0.0
    if file_format == "PNG":
        return _complete_png(data, max_pixels)
    size = 8 + int.from_bytes(data[4:8], "little") if file_format == "WEBP" else _end_of_boxes(data)
    missing = max(0, size - len(data))
    if missing > MAX_MISSING * size:
        return data, missing / size
    return data + bytes(missing), missing / size if size else 0.0


def missing_share(rgb: np.ndarray) -> float:
    """Return the share, 0 to 1, of a decoded JPEG, uint8 (H, W, 3), for which there was no data.

    It is missing in whole rows; in whole columns, if the image was turned upright.
    """
    undecoded = (rgb == _UNDECODED).all(axis=2)
    return float(max(undecoded.all(axis=1).mean(), undecoded.all(axis=0).mean()))


def _end_of_boxes(data: bytes) -> int:
    """Return where the last of the boxes of a HEIC ends, also after the end of the data."""
    end = 0
    with suppress(ValueError):  # the data ends within a header, or is damaged
        for _, start, stop in iter_boxes(data, 0, sys.maxsize):
            if start > len(data):
                break
            end = stop
    return end if end < sys.maxsize else len(data)


def _complete_png(data: bytes, max_pixels: int) -> tuple[bytes, float]:
    """Fill the missing rows of a PNG with zeros: black, or transparent."""
    head, compressed, is_complete = _read_chunks(data)
    if is_complete or data[12:16] != b"IHDR" or len(data) < 33:
        return data, 0.0
    width, height, depth, color_type, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sizes = [(max(0, -(-(width - x) // dx)), max(0, -(-(height - y) // dy))) for x, y, dx, dy in passes]
    bits = depth * _CHANNELS.get(color_type, 0)
    size = sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns)
    if not 0 < size <= 4 * max_pixels:
        return data, 0.0
    pixels = zlib.decompressobj().decompress(compressed, size)
    missing = size - len(pixels)
    if missing > MAX_MISSING * size:
        return data, missing / size
    filled = zlib.compress(pixels + bytes(missing), 1)
    return head + _chunk(b"IDAT", filled) + _chunk(b"IEND", b""), missing / size


def _read_chunks(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return the chunks of a PNG before its pixels, the compressed pixels, and whether the last chunk is there."""
    # Not `bytes`: `+=` would copy all chunks before, for each of 200,000 tiny ones.
    head, compressed, position = bytearray(data[:8]), bytearray(), 8
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if kind == b"IEND":
            return bytes(head), bytes(compressed), True
        if kind == b"IDAT":
            compressed += data[position + 8 : min(end - 4, len(data))]
        elif end <= len(data) and not compressed:
            head += data[position:end]
        position = end
    return bytes(head), bytes(compressed), False


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(kind + body))
