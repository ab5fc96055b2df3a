"""Test image decoding: formats, orientation, pixel modes, limits and damaged files."""

import io
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from moodreel.errors import ImageCorrupt, ImageTooBig, UnsupportedMedia
from moodreel.media import image
from moodreel.media.image import COPY_SIDE, MAX_SCANS, MAX_SIDE, ImageLimits, decode_image, encode_copy, is_image
from tests.support import synthetic_frames, synthetic_image, synthetic_video
from tests.support.peak_memory import refusal_peak_kilobytes

FACE = synthetic_frames.portrait()[50:178, 150:278]
CORNERS = synthetic_frames.corner_frames(1, 64, 48)[0]


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Return the stored image that `orientation` turns into `upright` (the inverse of EXIF's table)."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)


def as_corners(rgb: np.ndarray) -> list[str]:
    """Name the colors of the four corners: top left, top right, bottom left, bottom right."""
    h, w = rgb.shape[:2]
    names = {(True, False, False): "red", (False, True, False): "green", (False, False, True): "blue"}
    spots = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, w // 4), (3 * h // 4, 3 * w // 4)]
    return [names.get(tuple(bool(value > 127) for value in rgb[spot]), "white") for spot in spots]


UPRIGHT = ["red", "green", "blue", "white"]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_each_format_is_decoded(kind):
    decoded = decode_image(synthetic_image.encode_image(CORNERS, kind))
    assert decoded.rgb.shape == (48, 64, 3)
    assert decoded.rgb.dtype == np.uint8
    assert (decoded.width, decoded.height) == (64, 48)
    assert as_corners(decoded.rgb) == UPRIGHT


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(kind, orientation):
    decoded = decode_image(
        synthetic_image.encode_image(stored(CORNERS, orientation), kind, exif=synthetic_image.exif(orientation))
    )
    assert as_corners(decoded.rgb) == UPRIGHT
    assert (decoded.width, decoded.height) == (64, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["HEIF"])
def test_orientation_of_a_container_is_applied_once(kind, orientation):
    """pillow-heif and Pillow write the orientation as boxes of the container, `irot` and `imir`."""
    data = synthetic_image.encode_image(stored(CORNERS, orientation), kind, exif=synthetic_image.exif(orientation))
    assert orientation == 1 or b"irot" in data or b"imir" in data
    decoded = decode_image(data)
    assert as_corners(decoded.rgb) == UPRIGHT
    assert (decoded.width, decoded.height) == (64, 48)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_invalid_orientation_is_ignored(orientation):
    assert (
        as_corners(decode_image(synthetic_image.encode_image(CORNERS, exif=synthetic_image.exif(orientation))).rgb)
        == UPRIGHT
    )


def test_broken_exif_data_is_ignored():
    assert (
        as_corners(decode_image(synthetic_image.encode_image(CORNERS, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")).rgb)
        == UPRIGHT
    )


def modes():
    red = Image.new("RGB", (32, 24), (250, 10, 10))
    clear = Image.new("RGBA", (32, 24), (0, 0, 0, 0))
    gray16 = Image.fromarray(np.full((24, 32), 200 * 257, np.uint16))
    palette = red.quantize(4)
    transparent = palette.copy()
    transparent.info["transparency"] = transparent.getpixel((0, 0))
    return {
        "gray": (Image.new("L", (32, 24), 200), "PNG", (200, 200, 200)),
        "gray with alpha": (Image.new("LA", (32, 24), (0, 0)), "PNG", (255, 255, 255)),
        "one bit": (Image.new("1", (32, 24), 1), "PNG", (255, 255, 255)),
        "16 bits": (gray16, "PNG", (200, 200, 200)),
        "palette": (palette, "PNG", (250, 10, 10)),
        "palette with a transparent color": (transparent, "PNG", (255, 255, 255)),
        "alpha": (clear, "PNG", (255, 255, 255)),
        "half alpha": (Image.new("RGBA", (32, 24), (0, 0, 0, 128)), "PNG", (127, 127, 127)),
        "alpha, WebP": (clear, "WEBP", (255, 255, 255)),
        "CMYK": (red.convert("CMYK"), "JPEG", (250, 10, 10)),
        "gray JPEG": (Image.new("L", (32, 24), 200), "JPEG", (200, 200, 200)),
    }


@pytest.mark.parametrize("name", modes())
def test_every_pixel_mode_becomes_rgb_on_white(name):
    image, kind, expected = modes()[name]
    file = io.BytesIO()
    image.save(file, kind)
    rgb = decode_image(file.getvalue()).rgb
    assert rgb.shape == (24, 32, 3)
    assert np.abs(rgb.astype(int) - expected).max() <= 6


def test_16_bit_color_is_reduced_to_its_upper_byte():
    rows = b"".join(b"\x00" + struct.pack(">3H", 0xC800, 0x6400, 0x3200) * 8 for _ in range(8))
    rgb = decode_image(png(8, 8, rows, depth=16)).rgb
    assert tuple(rgb[0, 0]) == (200, 100, 50)


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_first_frame_of_an_animation_is_decoded(kind):
    first, second = Image.fromarray(CORNERS), Image.new("RGB", (64, 48))
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=[second], duration=100, lossless=True)
    assert as_corners(decode_image(file.getvalue()).rgb) == UPRIGHT


def test_jpeg_with_a_second_image_is_decoded():
    file = io.BytesIO()
    Image.fromarray(CORNERS).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 48))])
    assert as_corners(decode_image(file.getvalue()).rgb) == UPRIGHT


def test_icc_profile_is_returned_and_not_applied():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_profile = decode_image(synthetic_image.encode_image(CORNERS, "PNG", icc_profile=profile))
    np.testing.assert_array_equal(with_profile.rgb, CORNERS)
    assert with_profile.icc_profile == profile
    assert (
        decode_image(
            synthetic_image.encode_image(CORNERS, "PNG", icc_profile=bytes(image.MAX_ICC_PROFILE_BYTES + 1))
        ).icc_profile
        is None
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_large_image_is_scaled_down_and_keeps_its_original_size(kind):
    decoded = decode_image(synthetic_image.encode_image(np.repeat(np.repeat(CORNERS, 45, 0), 45, 1), kind))
    assert (decoded.width, decoded.height) == (2880, 2160)
    assert decoded.rgb.shape == (MAX_SIDE * 3 // 4, MAX_SIDE, 3)
    assert as_corners(decoded.rgb) == UPRIGHT


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_smallest_and_narrowest_images_are_decoded(size):
    decoded = decode_image(synthetic_image.encode_image(np.zeros((size[1], size[0], 3), np.uint8), "PNG"))
    assert (decoded.width, decoded.height) == size
    assert min(decoded.rgb.shape) >= 1


def test_concurrent_threads_get_their_own_images():
    files = [
        synthetic_image.encode_image(stored(CORNERS, orientation), kind, exif=synthetic_image.exif(orientation))
        for orientation in (1, 6, 8)
        for kind in ("JPEG", "HEIF")
    ]
    with ThreadPoolExecutor(4) as pool:
        assert all(as_corners(decoded.rgb) == UPRIGHT for decoded in pool.map(decode_image, files * 8))


def png(width: int, height: int, rows: bytes, *, depth: int = 8, extra: bytes = b"", interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, interlace)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("run.js", "alert(1)")
    return file.getvalue()


JPEG = synthetic_image.encode_image(CORNERS)
FOREIGN = {
    "nothing": b"",
    "text": b"plain text",
    "three bytes": b"\xff\xd8",
    "HTML in a PNG's name": b"<!DOCTYPE html><script>alert(1)</script>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "SVG with its XML line": b'<?xml version="1.0"?><svg/>',
    "GIF": synthetic_image.encode_image(CORNERS, "GIF"),
    "GIF that is a script": b"GIF89a/*" + bytes(40) + b"*/=1;alert(1)",
    "AVIF": synthetic_image.encode_image(CORNERS, "AVIF"),
    "BMP": synthetic_image.encode_image(CORNERS, "BMP"),
    "TIFF": synthetic_image.encode_image(CORNERS, "TIFF"),
    "ICO": synthetic_image.encode_image(CORNERS, "ICO"),
    "JPEG 2000": synthetic_image.encode_image(CORNERS, "JPEG2000"),
    "PDF": synthetic_image.encode_image(CORNERS, "PDF"),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "an archive before a JPEG": archive() + JPEG,
    "a JPEG after a line break": b"\n" + JPEG,
    "MP4": synthetic_video.encode_video(synthetic_frames.corner_frames(2)),
    "WAV": b"RIFF\x24\x00\x00\x00WAVEfmt ",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_unsupported_format_is_refused(name):
    assert not is_image(FOREIGN[name])
    with pytest.raises(UnsupportedMedia, match="Send JPEG"):
        decode_image(FOREIGN[name])


def test_data_after_the_image_is_ignored():
    assert as_corners(decode_image(JPEG + archive() + b"<script>alert(1)</script>").rgb) == UPRIGHT


def cut(data: bytes, share: float) -> bytes:
    return data[: round(share * len(data))]


TRUNCATED = {
    "JPEG": synthetic_image.encode_image(synthetic_frames.portrait(), quality=90),
    "progressive JPEG": synthetic_image.encode_image(synthetic_frames.portrait(), progressive=True),
    "gray JPEG": synthetic_image.encode_image(synthetic_frames.portrait()[..., 1], quality=90),
    "PNG": synthetic_image.encode_image(synthetic_frames.portrait(), "PNG"),
    "lossy WebP": synthetic_image.encode_image(synthetic_frames.portrait(), "WEBP"),
    "lossless WebP": synthetic_image.encode_image(synthetic_frames.portrait(), "WEBP", lossless=True),
    "HEIC": synthetic_image.encode_image(synthetic_frames.portrait(), "HEIF"),
}


@pytest.mark.parametrize("share", [0.995, 0.9, 0.75])
@pytest.mark.parametrize("name", TRUNCATED)
def test_image_that_lacks_its_last_bytes_is_read_as_far_as_it_goes(name, share):
    whole, part = decode_image(TRUNCATED[name]), decode_image(cut(TRUNCATED[name], share))
    assert (part.width, part.height, part.rgb.shape) == (whole.width, whole.height, whole.rgb.shape)
    rows = round((share - 0.12) * len(whole.rgb))
    assert np.abs(part.rgb[:rows].astype(int) - whole.rgb[:rows]).mean() < 8


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_missing_part_of_a_jpeg_is_measured_at_any_orientation(orientation):
    upright = synthetic_frames.portrait()
    exif = synthetic_image.exif(orientation)
    data = synthetic_image.encode_image(stored(upright, orientation), quality=90, exif=exif)
    for share in (0.6, 0.75, 0.9):
        assert decode_image(cut(data, share)).rgb.shape == upright.shape
    with pytest.raises(ImageCorrupt):
        decode_image(cut(data, 0.1))


def test_jpeg_that_lacks_its_end_marker_is_whole():
    data = TRUNCATED["JPEG"]
    assert data.endswith(b"\xff\xd9")
    assert np.array_equal(decode_image(data[:-2]).rgb, decode_image(data).rgb)
    assert np.array_equal(decode_image(data[:-1]).rgb, decode_image(data).rgb)


PASSES = [(8, 8), (8, 8), (16, 8), (16, 16), (32, 16), (32, 32), (64, 32)]
"""Columns and rows of each pass of an interlaced image of 64 by 64 pixels."""


@pytest.mark.parametrize("passes", [[(64, 64)], PASSES], ids=["", "interlaced"])
def test_missing_rows_of_a_png_are_black(passes):
    rows = b"".join((b"\0" + bytes([200]) * 3 * columns) * count for columns, count in passes)
    whole = png(64, 64, rows, interlace=len(passes) > 1)
    part = png(64, 64, rows[: len(rows) * 3 // 4], interlace=len(passes) > 1)[:-12]
    assert (decode_image(whole).rgb == 200).all()
    assert (decode_image(part).rgb == 200).mean() == pytest.approx(0.75, abs=0.03)
    assert (decode_image(part).rgb == 0).mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("share", [1, 0.75])
def test_png_in_tiny_chunks_is_decoded_as_in_one(share):
    data = synthetic_image.encode_image(CORNERS, "PNG")
    start = data.index(b"IDAT") - 4
    length = round(share * int.from_bytes(data[start : start + 4]))
    end = chunk(b"IEND", b"") if share == 1 else b""
    pixels = data[start + 8 : start + 8 + length]
    tiny = b"".join(chunk(b"IDAT", bytes([byte])) for byte in pixels)
    together = decode_image(data[:start] + chunk(b"IDAT", pixels) + end)
    assert np.array_equal(decode_image(data[:start] + tiny + end).rgb, together.rgb)


def test_cover_of_a_burst_is_read():
    burst = bytearray(synthetic_image.encode_image(CORNERS, "HEIF"))
    burst[8:12] = b"msf1"
    assert as_corners(decode_image(bytes(burst)).rgb) == UPRIGHT


BROKEN = {
    "a third of a JPEG": cut(synthetic_image.encode_image(FACE, quality=90), 0.35),
    "a JPEG's first bytes": JPEG[:3],
    "a JPEG's header": JPEG[:300],
    "a third of a PNG": cut(synthetic_image.encode_image(FACE, "PNG"), 0.35),
    "a PNG's signature": b"\x89PNG\r\n\x1a\n",
    "a PNG of other data": png(64, 48, bytes(10)),
    "a PNG of nothing": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)),
    "a third of a WebP": cut(synthetic_image.encode_image(FACE, "WEBP"), 0.35),
    "a third of a HEIC": cut(synthetic_image.encode_image(FACE, "HEIF"), 0.35),
    "a HEIC's brand": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic",
    "a JPEG with a PNG in it": b"\xff\xd8\xff" + synthetic_image.encode_image(CORNERS, "PNG"),
    "a PNG with a JPEG in it": b"\x89PNG\r\n\x1a\n" + JPEG,
    "a WebP's name on an SVG": b"RIFF\x00\x00\x00\x00WEBP<svg/>",
    "a text that grows a thousandfold": png(
        8, 8, bytes(200), extra=chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(50_000_000), 9))
    ),
    "a profile that grows a thousandfold": png(
        8, 8, bytes(200), extra=chunk(b"iCCP", b"a\x00\x00" + zlib.compress(bytes(50_000_000), 9))
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_image_that_is_not_complete_is_corrupt(name):
    with pytest.raises(ImageCorrupt, match="Send it again"):
        decode_image(BROKEN[name])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_random_damage_gives_an_image_or_a_named_error(kind):
    whole = synthetic_image.encode_image(FACE, kind)
    random = np.random.default_rng(3)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(12, len(whole), random.integers(1, 6)):
            damaged[at] = random.integers(256)
        with suppress(ImageCorrupt, ImageTooBig):
            assert decode_image(bytes(damaged)).rgb.dtype == np.uint8


def test_byte_limit_is_inclusive():
    assert decode_image(JPEG, ImageLimits(bytes=len(JPEG))).width == 64
    with pytest.raises(ImageTooBig, match="bytes"):
        decode_image(JPEG, ImageLimits(bytes=len(JPEG) - 1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "HEIF"])
def test_pixel_limit_is_inclusive(kind):
    data = synthetic_image.encode_image(CORNERS, kind)
    assert decode_image(data, ImageLimits(pixels=64 * 48)).width == 64
    with pytest.raises(ImageTooBig, match="pixels"):
        decode_image(data, ImageLimits(pixels=64 * 48 - 1))


def test_heic_larger_than_its_header_is_refused():
    data = synthetic_image.encode_image(np.zeros((480, 640, 3), np.uint8), "HEIF")
    assert data.count(struct.pack(">II", 640, 480)) == 1
    with pytest.raises((ImageTooBig, ImageCorrupt)):
        decode_image(
            data.replace(struct.pack(">II", 640, 480), struct.pack(">II", 64, 48)), ImageLimits(pixels=64 * 48)
        )


def bomb(side: int) -> bytes:
    """Make a black PNG, one kilobyte for a million pixels, by repeating the compressed form of 128 rows."""
    rows, packer = 128 * (b"\x00" + bytes(3 * side)), zlib.compressobj(9, wbits=-15)
    packed = packer.compress(rows) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for _ in range(side // 128):
        checksum = zlib.adler32(rows, checksum)
    stream = b"\x78\xda" + packed * (side // 128) + b"\x03\x00" + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", stream) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_decompression_bomb_is_refused_before_decoding(tmp_path):
    """16,384 x 16,384 pixels would take 800 MB; the peak memory of the process must hardly change."""
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(16_384))
    assert path.stat().st_size < ImageLimits().bytes
    peak = refusal_peak_kilobytes(
        "from moodreel.errors import ImageTooBig\nfrom moodreel.media.image import decode_image",
        "decode_image(data)",
        "ImageTooBig",
        path,
    )
    assert peak < 20_000


def test_bomb_of_few_pixels_is_decoded():
    """The construction gives a valid PNG."""
    assert not decode_image(bomb(1024)).rgb.any()


def scans(count: int) -> bytes:
    """Make a gray progressive JPEG that ends in `count` scans of a few bytes each."""
    data = synthetic_image.encode_image(np.full((64, 64, 3), 128, np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * (count - data.count(b"\xff\xda") + 1) + data[-2:]


def test_scan_limit_is_inclusive():
    """The decoder visits every pixel for each: at 40 megapixels a file of 200 kB took more than a minute."""
    assert decode_image(scans(MAX_SCANS)).width == 64
    with pytest.raises(ImageTooBig, match="scans"):
        decode_image(scans(MAX_SCANS + 1))


def test_scans_of_a_thumbnail_and_of_trailing_data_do_not_count():
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + 2 * 1000) + b"\xff\xda" * 1000
    assert decode_image(JPEG[:2] + thumbnail + JPEG[2:] + b"\xff\xda" * 1000).width == 64


TILE = np.full((64, 64, 3), (200, 30, 30), np.uint8)


def test_heic_grid_is_decoded_and_cropped():
    found = decode_image(synthetic_image.encode_heic_grid(TILE, 3, 4, 250, 190), ImageLimits(pixels=250 * 190))
    assert (found.width, found.height) == (250, 190)
    assert np.allclose(found.rgb[::63, ::83], TILE[0, 0], atol=12)


def test_heic_that_repeats_a_tile_is_refused():
    """A grid of 64 tiles of 36 megapixels took 16 seconds; one of 65,025 tiles would take hours."""
    with pytest.raises(ImageTooBig, match="pixels"):
        decode_image(synthetic_image.encode_heic_grid(TILE, 200, 200, 64, 64))
    with pytest.raises(ImageTooBig, match="pixels"):
        decode_image(synthetic_image.encode_heic_grid(TILE, 2, 2, 64, 64), ImageLimits(pixels=64 * 64))


def claiming(data: bytes, size: bytes, claimed: bytes) -> bytes:
    assert data.count(size) == 1
    return data.replace(size, claimed)


CLAIMS = {
    "JPEG": claiming(JPEG, struct.pack(">HH", 48, 64), b"\xff\xff\xff\xff"),
    "PNG": png(10_000, 9_000, b""),
    "PNG above Pillow's own limit": png(60_000, 60_000, b""),
    "HEIC": claiming(
        synthetic_image.encode_image(FACE, "HEIF"), struct.pack(">II", 128, 128), struct.pack(">II", 20_000, 20_000)
    ),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_pixel_limit_is_checked_by_the_header(name):
    with pytest.raises(ImageTooBig, match="pixels"):
        decode_image(CLAIMS[name])


def test_only_the_selected_pillow_decoder_runs(monkeypatch):
    asked = []
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda file, formats: asked.append(formats) or opened(file, formats=formats))
    decode_image(JPEG)
    assert asked == [("JPEG",)]
    assert pillow_heif.options.THUMBNAILS is False


@pytest.mark.parametrize("shape", [(480, 640), (3000, 2000), (20, 4000)])
def test_a_stored_copy_is_small_and_has_no_metadata(shape: tuple[int, int]) -> None:
    rgb = np.zeros((*shape, 3), np.uint8)
    rgb[: shape[0] // 2] = (250, 10, 10)
    copy = Image.open(io.BytesIO(encode_copy(rgb)))
    height, width = shape
    scale = min(1, COPY_SIDE / max(shape))
    assert copy.size == (pytest.approx(width * scale, abs=1), pytest.approx(height * scale, abs=1))
    assert copy.format == "JPEG"
    assert not copy.getexif() and not copy.info.keys() & {"exif", "icc_profile", "comment"}
    red, green, _ = copy.convert("RGB").getpixel((0, 0))  # type: ignore[misc]
    assert red > 200 and green < 60
