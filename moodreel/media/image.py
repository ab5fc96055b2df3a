"""Bytes of a picture -> upright RGB within limits. Pillow and pillow-heif live here.

The first bytes choose one decoder from a short list, and it alone is asked: whatever else a file would like to be (a
page, a drawing that loads others, an archive behind a picture) is refused or ignored. Width and height are checked by
the header, before anything is decoded.

A large picture is made smaller as early as it can be, a JPEG while it is decoded: `SIDE` pixels hold every face that
`search` can find. Alpha is laid over white, as a viewer does. Colour profiles are not applied: models look at
shapes and grey values, and a wide gamut shifts those by a percent or two; a drawn picture carries the profile on.
"""

import io
import re
import warnings
from dataclasses import dataclass

import numpy as np
import pillow_heif
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL.ExifTags import Base as Tag
from PIL.Image import Transpose

from moodreel.errors import ImageCorrupt, ImageTooBig, UnsupportedMedia
from moodreel.media.heif import max_decoded_pixels

# Imported for what they register: Pillow would otherwise load all of its forty decoders to find one.
DECODERS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
# A thumbnail in a HEIC may show something else than the picture.
pillow_heif.register_heif_opener(thumbnails=False, decode_threads=2)
# Of sizes that are checked here, and of a camera's broken notes.
warnings.filterwarnings("ignore", module=r"PIL\.(Image|TiffImagePlugin)")

MAX_SIDE = 1920
"""Pixels of the longest side of `Picture.rgb`; a phone's 12 megapixels are decoded at half their size."""
MAX_ICC_PROFILE_BYTES = 64 * 1024
"""Bytes of a colour profile that is carried on; those of cameras have a few hundred."""
COPY_SIDE = 1280
"""Longest side of a stored copy, in pixels."""
_COPY_QUALITY = 85
MAX_SCANS = 32
"""Of a JPEG: cameras and programs write one to about a dozen. Each takes a decoder through every pixel again, a tenth
of a second for forty million, and may be 60 bytes long: a file of 5 MB would keep it busy for hours."""
WHITE = (255, 255, 255)

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1")
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""What turns a picture upright, by EXIF's orientation."""
# The next segment of a JPEG. Zeros are stuffed into the data of scans, restarts (D0 to D7) lie in it, and what is below
# C0 libjpeg takes for damage and looks on, byte for byte, as this does.
_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_SCAN, _END = 0xDA, 0xD9


@dataclass(frozen=True)
class ImageLimits:
    """What one picture may cost: bytes of the file, and pixels by its header."""

    bytes: int = 5 * 2**20
    pixels: int = 40_000_000


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An upright picture.

    rgb: uint8 (H, W, 3), red first, at most `SIDE` pixels a side, or as many as were asked for.
    width, height: pixels of the picture as it was sent, upright.
    profile: its ICC profile, if it has one for RGB.
    """

    rgb: np.ndarray
    width: int
    height: int
    icc_profile: bytes | None


def is_image(data: bytes) -> bool:
    """Tell whether the first bytes are those of a picture that `read` takes."""
    return _format(data) is not None


def is_jpeg(data: bytes) -> bool:
    """Tell whether the first bytes are those of a JPEG."""
    return _format(data) == "JPEG"


def decode_image(data: bytes, limits: ImageLimits | None = None, *, max_side: int = MAX_SIDE) -> DecodedImage:
    """Decode a JPEG, PNG, WebP or HEIC; the first picture where there are several.

    side: pixels of the longest side of `Picture.rgb`, at most.

    Raises:
        UnsupportedMedia: the first bytes are those of nothing in the list.
        ImageTooBig: more bytes, by its header more pixels, or more scans than are allowed; nothing was decoded.
        ImageCorrupt: it cannot be decoded, or not to its end.
    """
    limits = limits or ImageLimits()
    kind = _format(data)
    if kind is None:
        raise UnsupportedMedia("This is not a picture that moodreel reads. Send JPEG, PNG, WebP or HEIC.")
    if len(data) > limits.bytes:
        raise ImageTooBig(f"The picture has more than {limits.bytes} bytes. Save it smaller and send it again.")
    if kind == "JPEG" and _scans(data) > MAX_SCANS:
        raise ImageTooBig(f"The JPEG has more than {MAX_SCANS} scans. Save it anew and send it again.")
    try:
        # Tiles reach over the edge, and HDR is a second, smaller picture: twice as many are none too few.
        if kind == "HEIF" and max_decoded_pixels(data) > 2 * limits.pixels:
            raise _too_many_pixels(limits)
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            _check_pixels(image, limits)
            return _decode(image, limits, max_side)
    except ImageTooBig:
        raise
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(limits) from error
    except Exception as error:  # a decoder that meets what it did not expect raises anything
        raise ImageCorrupt("The picture is damaged or incomplete and cannot be read. Send it again.") from error


def encode_jpeg(rgb: np.ndarray, *, max_side: int = COPY_SIDE) -> bytes:
    """Encode an image as a JPEG without metadata, scaled down to `max_side`.

    Args:
        rgb: Upright image, uint8 (H, W, 3), RGB.
        max_side: Longest side of the JPEG, in pixels; a smaller image keeps its size.
    """
    image = Image.fromarray(rgb)
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_COPY_QUALITY)
    return file.getvalue()


def _format(data: bytes) -> str | None:
    """Give Pillow's name of the format that the first bytes are of, None for any other."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brand, brands = data[8:12], data[8 : min(int.from_bytes(data[:4]), 256)]
        # No AVIF: what its stream decodes to may be hundreds of times larger than its header says.
        if brand in _HEIC_BRANDS and b"avif" not in brands:
            return "HEIF"
    return None


def _scans(data: bytes) -> int:
    """Count the scans of a JPEG up to its end: of those in a thumbnail or in what follows, such as a film, none."""
    at, scans = 2, 0
    while (segment := _SEGMENT.search(data, at)) and (kind := segment[1][0]) != _END:
        scans += kind == _SCAN
        at = segment.end() + max(2, int.from_bytes(data[segment.end() : segment.end() + 2]))
    return scans


def _check_pixels(image: Image.Image, limits: ImageLimits) -> None:
    if image.width * image.height > limits.pixels:
        raise _too_many_pixels(limits)


def _too_many_pixels(limits: ImageLimits) -> ImageTooBig:
    return ImageTooBig(f"The picture has more than {limits.pixels} pixels. Make it smaller and send it again.")


def _decode(image: Image.Image, limits: ImageLimits, side: int) -> DecodedImage:
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        image.draft(None, _fit(image.size, side))
    image.load()
    if image.format == "HEIF":  # as large as it turns out to be
        _check_pixels(image, limits)
        width, height = image.size
    turn = _UPRIGHT.get(_orientation(image))
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    upright = _over_white(_shrunk(_plain(image), side))
    if turn is not None:
        upright = upright.transpose(turn)
        if turn in (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90):
            width, height = height, width
    return DecodedImage(
        np.asarray(upright), width, height, profile if profile and len(profile) <= MAX_ICC_PROFILE_BYTES else None
    )


def _orientation(image: Image.Image) -> int:
    if image.format == "HEIF":  # libheif has turned it already, by the container's own word
        return 1
    try:
        return int(image.getexif().get(Tag.Orientation, 1))
    except Exception:  # whatever is wrong with a camera's notes, the picture is there
        return 1


def _plain(image: Image.Image) -> Image.Image:
    """Bring palettes, single bits and 16 bits to a mode that can be made smaller."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA", "1") or "transparency" in image.info:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def _shrunk(image: Image.Image, side: int) -> Image.Image:
    size = _fit(image.size, side)
    # Whole pixels first: of forty million, that takes a fifth of the time.
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    page = Image.new("RGB", image.size, WHITE)
    page.paste(image.convert("RGB"), mask=image.convert("RGBA").getchannel("A"))
    return page
