"""Decode image files to upright RGB arrays within limits. Pillow and pillow-heif live here.

The first bytes select one decoder from a short list, and only that one runs. Any other content of a file (HTML, SVG, an
archive behind the image) is refused or ignored. The header's width and height are checked before anything is decoded.

An image that lacks its last bytes, as after a broken upload, is read as far as it goes, unless more than
`MAX_MISSING` of it is missing: `truncated_image` completes the file.

A large image is scaled down as early as possible, a JPEG while it is decoded: `MAX_SIDE` pixels are enough for every
face that `detect_tiled` can find. Alpha is flattened onto white, as viewers do. Color profiles are not applied: models
read shapes and gray values, which a wide gamut changes by one or two percent. An annotated image keeps its profile.
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
from moodreel.media.boxes import HEIC_BRANDS
from moodreel.media.heif import max_decoded_pixels
from moodreel.media.scaling import fit_within
from moodreel.media.truncated_image import MAX_MISSING, complete_file, missing_share

# Imported because they register themselves: Pillow would otherwise import all of its forty decoders to find one.
DECODERS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)
# No thumbnails: one in a HEIC may show something else than the image.
pillow_heif.register_heif_opener(thumbnails=False, decode_threads=2)
# Warnings about sizes, which are checked here, and about broken EXIF data.
warnings.filterwarnings("ignore", module=r"PIL\.(Image|TiffImagePlugin)")

IMAGE_FORMATS = "JPEG, PNG, WebP or HEIC"
"""The formats that `decode_image` reads, as messages name them. Another format needs its decoder in `DECODERS`, its
first bytes in `_format`, and its name here and in docs/app.md."""
MAX_SIDE = 1920
"""Longest side of `DecodedImage.rgb` in pixels; a phone's 12 megapixels are decoded at half their size."""
MAX_ICC_PROFILE_BYTES = 64 * 1024
"""Largest ICC profile that is carried on, in bytes; those of cameras have a few hundred."""
MAX_SCANS = 32
"""Most scans of a JPEG; cameras and programs write one to about a dozen. For each, the decoder visits all pixels again,
0.1 s for 40 megapixels, and a scan may be only 60 bytes long: a file of 5 MB could keep the decoder busy for hours."""
COPY_SIDE = 1280
"""Longest side of an encoded copy in pixels."""
_COPY_QUALITY = 85
_WHITE = (255, 255, 255)

_EXIF_TRANSPOSE = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""The transposition that turns an image upright, by the value of EXIF's Orientation tag."""
_SWAPS_AXES = (Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90)
# Marker of the next JPEG segment. Scan data contains stuffed zeros and restart markers (D0 to D7). Values below C0 are
# damage to libjpeg: it goes on searching byte by byte, and so does this expression.
_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


@dataclass(frozen=True)
class ImageLimits:
    """Limit the cost of one image.

    Attributes:
        bytes: Size of the file.
        pixels: Width times height, by the header.
    """

    bytes: int = 5 * 2**20
    pixels: int = 40_000_000


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An upright image.

    Attributes:
        rgb: uint8 (H, W, 3), RGB, scaled down to the requested longest side.
        width: Width of the upright image before it was scaled, in pixels.
        height: Height of it.
        icc_profile: ICC profile, if the file has one for RGB.
    """

    rgb: np.ndarray
    width: int
    height: int
    icc_profile: bytes | None


def is_image(data: bytes) -> bool:
    """Return whether the first bytes are those of a format that `decode_image` reads."""
    return _format(data) is not None


def is_jpeg(data: bytes) -> bool:
    """Return whether the first bytes are those of a JPEG."""
    return _format(data) == "JPEG"


def decode_image(data: bytes, limits: ImageLimits | None = None, *, max_side: int = MAX_SIDE) -> DecodedImage:
    """Decode an image of one of the `IMAGE_FORMATS`; of several images in a file, the first.

    Args:
        data: Bytes of the file.
        limits: What the image may cost.
        max_side: Scale the image down to this longest side in pixels, never up.

    Raises:
        UnsupportedMedia: The first bytes are of no format in the list.
        ImageTooBig: More bytes, pixels (by the header) or scans than allowed; nothing was decoded.
        ImageCorrupt: The image cannot be decoded, or more than `MAX_MISSING` of it is missing.
    """
    limits = limits or ImageLimits()
    file_format = _format(data)
    if file_format is None:
        raise UnsupportedMedia(f"This is not a picture that moodreel reads. Send {IMAGE_FORMATS}.")
    if len(data) > limits.bytes:
        raise ImageTooBig(f"The picture has more than {limits.bytes} bytes. Make it smaller and send it again.")
    scans, is_complete = _count_scans(data) if file_format == "JPEG" else (0, True)
    if scans > MAX_SCANS:
        raise ImageTooBig(f"The JPEG has more than {MAX_SCANS} scans. Save it as a baseline JPEG and send it again.")
    try:
        # Twice the limit, because tiles reach over the edge and an HDR gain map is a second, smaller image.
        if file_format == "HEIF" and max_decoded_pixels(data) > 2 * limits.pixels:
            raise _too_many_pixels(limits)
        data, missing = complete_file(data, file_format, limits.pixels, is_complete=is_complete)
        with Image.open(io.BytesIO(data), formats=(file_format,)) as image:
            _check_pixels(image, limits)
            decoded = _decode(image, limits, max_side)
        if (missing_share(decoded.rgb) if not is_complete else missing) > MAX_MISSING:
            raise ValueError("most of the image is missing")
        return decoded
    except ImageTooBig:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise _too_many_pixels(limits) from error
    except Exception as error:  # on damaged data, decoders raise errors of any type
        raise ImageCorrupt("The picture is damaged or incomplete and cannot be read. Send it again.") from error


def encode_copy(rgb: np.ndarray) -> bytes:
    """Encode an image as a JPEG of at most `COPY_SIDE` pixels a side, without metadata.

    Args:
        rgb: Upright image, uint8 (H, W, 3), RGB.
    """
    image = Image.fromarray(rgb)
    image.thumbnail((COPY_SIDE, COPY_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_COPY_QUALITY)
    return file.getvalue()


def _format(data: bytes) -> str | None:
    """Return Pillow's name of a file's format, by its first bytes; None for one that is not in the list."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brand, brands = data[8:12], data[8 : min(int.from_bytes(data[:4]), 256)]
        # No AVIF: its stream may decode to an image hundreds of times larger than its header says.
        if brand in HEIC_BRANDS and b"avif" not in brands:
            return "HEIF"
    return None


def _count_scans(data: bytes) -> tuple[int, bool]:
    """Count the scans of a JPEG, without those of an embedded thumbnail or of data after its end, such as a film.

    Returns:
        The number of scans, and whether the marker of the image's end is there.
    """
    position, scans = 2, 0
    while (segment := _SEGMENT.search(data, position)) and (marker := segment[1][0]) != _END_OF_IMAGE:
        scans += marker == _START_OF_SCAN
        position = segment.end() + max(2, int.from_bytes(data[segment.end() : segment.end() + 2]))
    return scans, segment is not None


def _check_pixels(image: Image.Image, limits: ImageLimits) -> None:
    if image.width * image.height > limits.pixels:
        raise _too_many_pixels(limits)


def _too_many_pixels(limits: ImageLimits) -> ImageTooBig:
    return ImageTooBig(f"The picture has more than {limits.pixels} pixels. Make it smaller and send it again.")


def _decode(image: Image.Image, limits: ImageLimits, max_side: int) -> DecodedImage:
    width, height = image.size
    if image.format in ("JPEG", "MPO"):
        image.draft(None, fit_within(image.size, max_side))
    image.load()
    if image.format == "HEIF":  # now its size is that of the decoded stream, not of the header
        _check_pixels(image, limits)
        width, height = image.size
    transpose = _EXIF_TRANSPOSE.get(_orientation(image))
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    upright = _flatten_alpha(_scale_down(_to_resizable_mode(image), max_side))
    if transpose is not None:
        upright = upright.transpose(transpose)
        if transpose in _SWAPS_AXES:
            width, height = height, width
    return DecodedImage(
        np.asarray(upright), width, height, profile if profile and len(profile) <= MAX_ICC_PROFILE_BYTES else None
    )


def _orientation(image: Image.Image) -> int:
    """Return the value of EXIF's Orientation tag; 1 is upright."""
    if image.format == "HEIF":  # libheif has already applied the container's rotation
        return 1
    try:
        return int(image.getexif().get(Tag.Orientation, 1))
    except Exception:  # broken EXIF data must not spoil the image
        return 1


def _to_resizable_mode(image: Image.Image) -> Image.Image:
    """Convert palette, 1-bit and 16-bit images to a mode that can be resized."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("P", "PA", "1") or "transparency" in image.info:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


def _scale_down(image: Image.Image, max_side: int) -> Image.Image:
    size = fit_within(image.size, max_side)
    # `reducing_gap` averages blocks of pixels first: a fifth of the time for 40 megapixels.
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _flatten_alpha(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    background = Image.new("RGB", image.size, _WHITE)
    background.paste(image.convert("RGB"), mask=image.convert("RGBA").getchannel("A"))
    return background
