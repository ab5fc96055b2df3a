"""Damage small clips of every container and many codecs, where their headers say sizes, counts and times.

A mutation is one of: another number in one to three fields of a header, a truncation, a splice with another clip, a
chunk that is left out or repeated, flipped bits, or a run of zeros.
"""

import struct
from collections.abc import Iterator
from functools import cache

import numpy as np

from tests.support import synthetic_frames, synthetic_video

Field = tuple[int, int]
"""Offset and size in bytes of a number in a header."""

_CLIPS = {
    "mp4 h264": {"container": "mp4", "codec": "libx264", "audio_codec": "aac"},
    "mp4 h264 in fragments": {"codec": "libx264", "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "mp4 hevc": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "mp4 mpeg4": {"codec": "mpeg4"},
    "mov prores": {"container": "mov", "codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "mov h264": {"container": "mov", "codec": "libx264", "rotation": 90, "audio_codec": "pcm_s16le"},
    "3gp h264": {"container": "3gp", "codec": "libx264"},
    "webm vp8": {"container": "webm", "codec": "libvpx", "audio_codec": "libopus"},
    "webm vp9": {"container": "webm", "codec": "libvpx-vp9"},
    "webm vp8 live": {"container": "webm", "codec": "libvpx", "container_options": {"live": "1"}},
    "mkv h264": {"container": "matroska", "codec": "libx264", "audio_codec": "aac"},
    "mkv mjpeg": {"container": "matroska", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mkv mpeg2": {"container": "matroska", "codec": "mpeg2video"},
    "avi mpeg4": {"container": "avi", "codec": "mpeg4", "audio_codec": "mp2"},
    "avi msmpeg4": {"container": "avi", "codec": "msmpeg4"},
    "gif": {"container": "gif", "codec": "gif", "pix_fmt": "rgb8"},
}
_MP4_PARENTS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"moof", b"traf", b"mvex"})
_EBML_PARENTS = frozenset(
    {0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0xE1, 0x1F43B675, 0x1549A966, 0x1C53BB6B, 0xBB, 0xB7, 0xA0}
)


@cache
def whole_clips() -> dict[str, bytes]:
    """Encode the clips that are damaged, a few kilobytes each."""
    frames = synthetic_frames.face_frames(8, 96, 80)
    return {name: synthetic_video.encode_video(frames, **options) for name, options in _CLIPS.items()}


def mutated_clips(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield the name of a clip and its damaged bytes; the same ones for the same seed."""
    clips = whole_clips()
    names = list(clips)
    for index in range(count):
        random = np.random.default_rng((seed, index))
        name = names[index % len(names)]
        other = clips[names[random.integers(len(names))]]
        data = clips[name]
        for _ in range(random.integers(1, 4)):
            data = _mutate(data, other, random)
        yield name, data


def _mutate(data: bytes, other: bytes, random: np.random.Generator) -> bytes:
    if len(data) < 16:
        return data
    start, stop = sorted(random.integers(0, len(data), 2).tolist())
    kind = random.choice(["field"] * 6 + ["truncate", "splice", "leave out", "repeat", "flip", "zeros"])
    if kind == "field":
        return _change_field(data, random)
    if kind == "flip":
        changed = bytearray(data)
        for at in random.integers(0, len(data), random.integers(1, 20)):
            changed[at] ^= 1 << int(random.integers(8))
        return bytes(changed)
    return {
        "truncate": data[:stop],
        "splice": data[:start] + other[start % len(other) :],
        "leave out": data[:start] + data[min(stop, start + 200) :],
        "repeat": data[:stop] + data[start:],
        "zeros": data[:start] + bytes(min(stop - start, 200)) + data[min(stop, start + 200) :],
    }[kind]


def _change_field(data: bytes, random: np.random.Generator) -> bytes:
    fields = _fields(data)
    if not fields:
        return data
    at, size = fields[random.integers(len(fields))]
    value, most = int.from_bytes(data[at : at + size]), 256**size - 1
    values = (0, 1, 8, most, most // 2, most // 2 + 1, value + 1, value - 1, 2 * value, value // 2, 256 * value, -value)
    values = (*values, int(random.integers(256)), value ^ (1 << int(random.integers(8 * size))))
    new = values[random.integers(len(values))] & most
    return data[:at] + new.to_bytes(size) + data[at + size :]


def _fields(data: bytes) -> list[Field]:
    """Return the numbers in the headers of a clip, by its container."""
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return list(_ebml_fields(data, 0, len(data)))
    if data[:4] == b"RIFF":
        return [(4, 4), *_riff_fields(data, 12, len(data))]
    if data[:3] == b"GIF":
        return [(6, 2), (8, 2), (10, 1), *[(at + k, 1) for at in _find(data, b"\x2c") for k in range(1, 11)]]
    return list(_box_fields(data, 0, len(data)))


def _box_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """Yield the size and type of each box of an MP4, and the numbers at the start of those that hold tables."""
    while start + 8 <= stop:
        size, kind = struct.unpack(">I4s", data[start : start + 8])
        yield from ((start, 4), (start + 4, 4))
        end = min(stop, start + max(8, size))
        if kind in _MP4_PARENTS:
            yield from _box_fields(data, start + 8, end)
        elif kind not in (b"mdat", b"free"):
            yield from ((at, 4) for at in range(start + 8, min(end - 3, start + 8 + 96), 4))
        start = end


def _ebml_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """Yield the length of each element of a Matroska file, and its first bytes: numbers, or times of blocks."""
    while start + 2 <= stop:
        id_size = 9 - data[start].bit_length()
        at = start + id_size
        if at >= stop or not data[start] or not data[at]:
            return
        size = 9 - data[at].bit_length()
        length = int.from_bytes(data[at : at + size]) & ((1 << 7 * size) - 1)
        body = at + size
        end = stop if length == (1 << 7 * size) - 1 else min(stop, body + length)
        yield from ((start, id_size), (at, size))
        if int.from_bytes(data[start:at]) in _EBML_PARENTS:
            yield from _ebml_fields(data, body, end)
        elif end > body:
            yield (body, min(8, end - body))
            yield (body + 1, 2) if end - body > 4 else (body, 1)
        start = end


def _riff_fields(data: bytes, start: int, stop: int) -> Iterator[Field]:
    """Yield the size and type of each chunk of an AVI, and the numbers at its start."""
    while start + 8 <= stop:
        kind, size = struct.unpack("<4sI", data[start : start + 8])
        yield from ((start, 4), (start + 4, 4))
        end = min(stop, start + 8 + size + size % 2)
        if kind == b"LIST":
            yield from _riff_fields(data, start + 12, end)
        else:
            yield from ((at, 4) for at in range(start + 8, min(end - 3, start + 8 + 64), 4))
        start = end


def _find(data: bytes, part: bytes) -> list[int]:
    return [at for at in range(len(data) - 12) if data[at : at + len(part)] == part]
