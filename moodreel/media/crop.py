"""Find the rectangle of a video that its container says to show; FFmpeg reports it, but does not crop.

Sources: `clap` of a sample entry (ISO/IEC 14496-12, 12.1.4), `PixelCrop…` of a Matroska track (RFC 9559, 5.1.4.1.28).
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import av

from moodreel.media.boxes import iter_boxes, read_uint

_TRACK_PATH = (b"mdia", b"minf", b"stbl", b"stsd")
_ENTRY_BYTES = 78
"""Bytes of a visual sample entry before its boxes."""
_SEGMENT, _TRACKS, _TRACK_ENTRY, _VIDEO, _CLUSTER = 0x18538067, 0x1654AE6B, 0xAE, 0xE0, 0x1F43B675
_WIDTH, _HEIGHT = 0xB0, 0xBA
_CROPS = (0x54CC, 0x54BB, 0x54DD, 0x54AA)
"""PixelCropLeft, -Top, -Right and -Bottom."""


@dataclass(frozen=True)
class CropRectangle:
    """The part to show of frames that have the size `frame_size`; all in pixels."""

    frame_size: tuple[int, int]
    left: int
    top: int
    width: int
    height: int


def find_crop(data: bytes, demuxer: str, track: int) -> CropRectangle | None:
    """Return the part to show of a video track's frames; None for the whole frame, or if the container is broken.

    Args:
        data: Bytes of the file.
        demuxer: FFmpeg's name of its demuxer.
        track: Number of the track in the file, from 0.
    """
    with suppress(ValueError, LookupError, ZeroDivisionError):
        if demuxer == "mov":
            return _clean_aperture(data, track)
        if demuxer == "matroska":
            return _pixel_crop(data, track)
    return None


class Cropper:
    """Crop frames that have the size of a rectangle's frames; others stay whole. Pixels are not copied."""

    def __init__(self, rectangle: CropRectangle) -> None:
        self._rectangle = rectangle
        self._graph: av.filter.Graph | None = None

    def crop(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the rectangle of a frame, with its time and colors."""
        part = self._rectangle
        if (frame.width, frame.height) != part.frame_size:
            return frame
        if self._graph is None:
            self._graph = av.filter.Graph()
            source = self._graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
            )
            crop = self._graph.add("crop", f"{part.width}:{part.height}:{part.left}:{part.top}:exact=1")
            self._graph.link_nodes(source, crop, self._graph.add("buffersink")).configure()
        self._graph.push(frame)
        cropped = self._graph.pull()
        assert isinstance(cropped, av.VideoFrame)
        return cropped


def _rectangle(size: tuple[int, int], edges: Sequence[float]) -> CropRectangle | None:
    """Make a rectangle from the pixels cut off at the left, top, right and bottom; None for none, or if impossible."""
    left, top, right, bottom = (round(edge) for edge in edges)
    width, height = size[0] - left - right, size[1] - top - bottom
    if min(left, top, right, bottom) < 0 or width < 1 or height < 1 or (width, height) == size:
        return None
    return CropRectangle(size, left, top, width, height)


def _clean_aperture(data: bytes, track: int) -> CropRectangle | None:
    moov = next((body for kind, *body in iter_boxes(data, 0, len(data)) if kind == b"moov"), None)
    if moov is None:
        return None
    start, end = [body for kind, *body in iter_boxes(data, *moov) if kind == b"trak"][track]
    for wanted in _TRACK_PATH:
        start, end = next((body for kind, *body in iter_boxes(data, start, end) if kind == wanted), (0, 0))
    _, entry, stop = next(iter_boxes(data, start + 8, end))
    size = read_uint(data, entry + 24, 2), read_uint(data, entry + 26, 2)
    for kind, body, _ in iter_boxes(data, entry + _ENTRY_BYTES, stop):
        if kind == b"clap":
            width, height, x, y = (_fraction(data, body + 8 * index) for index in range(4))
            across, down = (size[0] - width) / 2, (size[1] - height) / 2
            return _rectangle(size, (across + x, down + y, across - x, down - y))
    return None


def _fraction(data: bytes, position: int) -> float:
    numerator, denominator = read_uint(data, position, 4), read_uint(data, position + 4, 4)
    return (numerator - (numerator >> 31 << 32)) / denominator


def _pixel_crop(data: bytes, track: int) -> CropRectangle | None:
    tracks = (body for kind, *body in _elements(data, 0, len(data), (_SEGMENT,)) if kind == _TRACKS)
    start, end = next(tracks, (0, 0))
    start, end = [body for kind, *body in _elements(data, start, end) if kind == _TRACK_ENTRY][track]
    start, end = next((body for kind, *body in _elements(data, start, end) if kind == _VIDEO), (0, 0))
    values = {kind: int.from_bytes(data[first:last]) for kind, first, last in _elements(data, start, end)}
    return _rectangle((values[_WIDTH], values[_HEIGHT]), [values.get(kind, 0) for kind in _CROPS])


def _elements(data: bytes, position: int, end: int, entered: Sequence[int] = ()) -> Iterator[tuple[int, int, int]]:
    """Yield the ID of each EBML element, and the start and end of its body, up to the first cluster (RFC 8794).

    For an element whose ID is in `entered`, its children are yielded instead.
    """
    while position + 2 <= end:
        id_size = 9 - data[position].bit_length()
        kind = read_uint(data, position, id_size)
        length_size = 9 - data[position + id_size].bit_length()
        body = position + id_size + length_size
        length = read_uint(data, position + id_size, length_size) & ((1 << 7 * length_size) - 1)
        if kind == _CLUSTER:
            return
        if kind in entered:
            position = body
            continue
        stop = min(end, body + length)
        yield kind, body, stop
        position = stop
