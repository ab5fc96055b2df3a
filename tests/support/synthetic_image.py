"""Synthetic image files for the tests, encoded in memory."""

import io
import struct
from typing import Any

import numpy as np
from PIL import Image


def encode_image(rgb: np.ndarray, file_format: str = "JPEG", **options: Any) -> bytes:
    """Encode an image, (H, W, 3) or another shape that Pillow takes, in a format by Pillow's name."""
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, file_format, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    """Encode EXIF data with the Orientation tag."""
    notes = Image.Exif()
    notes[0x0112] = orientation
    return notes.tobytes()


def encode_heic_grid(tile: np.ndarray, rows: int, columns: int, width: int, height: int) -> bytes:
    """Encode a HEIC as phones do, as a grid of tiles; here all are the same tile."""

    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", 8 + len(body), kind) + body

    def parse_boxes(body: bytes) -> dict[bytes, bytes]:
        found, at = {}, 0
        while at < len(body):
            size, kind = struct.unpack(">I4s", body[at : at + 8])
            found[kind], at = body[at + 8 : at + size], at + size
        return found

    outer = parse_boxes(encode_image(tile, "HEIF"))
    meta = parse_boxes(outer[b"meta"][4:])
    properties = parse_boxes(meta[b"iprp"])
    [first] = struct.unpack(">H", meta[b"pitm"][4:6])
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    size = box(b"ispe", struct.pack(">III", 0, width, height))
    kinds = list(parse_boxes(properties[b"ipco"]))
    [entries] = struct.unpack(">I", properties[b"ipma"][4:8])
    associations = struct.pack(">I", entries + 1) + properties[b"ipma"][8:] + struct.pack(">HBB", 99, 1, len(kinds) + 1)
    tiles = struct.pack(">HH", 99, rows * columns) + struct.pack(">H", first) * (rows * columns)
    boxes = [
        box(b"hdlr", meta[b"hdlr"]),
        box(b"pitm", struct.pack(">IH", 0, 99)),
        box(
            b"iinf",
            struct.pack(">IH", 0, 2)
            + meta[b"iinf"][6:]
            + box(b"infe", struct.pack(">IHH", 2 << 24, 99, 0) + b"grid\0"),
        ),
        box(b"iref", struct.pack(">I", 0) + box(b"dimg", tiles)),
        box(b"iprp", box(b"ipco", properties[b"ipco"] + size) + box(b"ipma", properties[b"ipma"][:4] + associations)),
        box(b"idat", grid),
    ]

    def head(at: int) -> bytes:
        extents = struct.pack(">HHHHII", first, 0, 0, 1, at, len(outer[b"mdat"]))
        extents += struct.pack(">HHHHII", 99, 1, 0, 1, 0, len(grid))
        locations = box(b"iloc", struct.pack(">IHH", 1 << 24, 0x4400, 2) + extents)
        return box(b"ftyp", outer[b"ftyp"]) + box(b"meta", struct.pack(">I", 0) + locations + b"".join(boxes))

    return head(len(head(0)) + 8) + box(b"mdat", outer[b"mdat"])
