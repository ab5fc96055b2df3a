"""Read the boxes of an ISO base media file: MP4, MOV, HEIC (ISO/IEC 14496-12)."""

from collections.abc import Iterator

HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"msf1", b"hevc", b"hevx", b"hevm", b"hevs")
"""Brands of HEIC (ISO/IEC 23008-12, annex B); the last five are of image sequences, such as bursts. Only the cover of
a sequence is read."""


def iter_boxes(data: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type of each box between two positions, and the start and end of its body.

    Raises:
        ValueError: The boxes are broken.
    """
    while position + 8 <= end:
        size, kind, header = read_uint(data, position, 4), data[position + 4 : position + 8], 8
        if size == 1:
            size, header = read_uint(data, position + 8, 8), 16
        stop = min(end, position + size) if size else end
        if stop < position + header:
            raise ValueError("a box ends before it starts")
        yield kind, position + header, stop
        position = stop


def read_uint(data: bytes, position: int, size: int) -> int:
    """Read a big-endian unsigned integer of `size` bytes.

    Raises:
        ValueError: The data ends within the integer.
    """
    value = data[position : position + size]
    if len(value) < size:
        raise ValueError("a box is cut off")
    return int.from_bytes(value)
