"""How many pictures a second a running service reads, beside what decoding and one look for faces alone take.

    python -m bench.pictures           # starts a server of its own, posts pictures made from NASA's portrait
    python -m bench.pictures PHOTO…    # your own
    python -m bench.pictures --faces   # no server: which share of faces is found, by their size

Machines differ and are noisy: the ratios are what to compare. The floor and each call take turns within one run.
"""

import argparse
import io
import statistics
import time
from pathlib import Path

import cv2
import numpy as np
import requests
from PIL import Image

from bench.serve import milliseconds, peak_megabytes, running
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.tiled_detection import detect_tiled
from moodreel.media.image import MAX_SIDE
from tests.support import synthetic_frames, synthetic_image
from tests.support.server import STORE, Server

BATCH = 32
SIZES = (400, 250, 192, 134, 96, 67, 48, 35)
"""Pixels of a face's width in a picture of 1920 x 1440."""


def phone_photo(width: int, height: int) -> bytes:
    """Make somebody's portrait as a phone takes it."""
    top, side = 20, 480 * width // max(width, height)
    part = synthetic_frames.portrait()[
        top : top + 480 * height // max(width, height), 224 - side // 2 : 224 + side // 2
    ]
    return synthetic_image.encode_image(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC), quality=85)


def made() -> dict[str, bytes]:
    """Make the pictures that are posted unless others are named."""
    group, _ = synthetic_frames.group_photo(1920, 1440, 4, 240)
    return {
        "made: 1 face, 12 megapixels": phone_photo(3024, 4032),
        "made: 1 face, 1 megapixel": phone_photo(864, 1152),
        "made: 4 faces, 3 megapixels": synthetic_image.encode_image(group, quality=85),
    }


def decode_and_look(finder: FaceLandmarker, data: bytes) -> None:
    """Decode as small as the codec can, and look for faces once: the floor."""
    with Image.open(io.BytesIO(data)) as image:
        scale = min(1.0, MAX_SIDE / max(image.size))
        image.draft("RGB", (round(image.width * scale), round(image.height * scale)))
        image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BILINEAR)
        finder.detect_once(np.asarray(image.convert("RGB")))


def post(server: Server, path: str, files: list[bytes]) -> None:
    parts = [("file", (f"{index}.jpg", data)) for index, data in enumerate(files)]
    response: requests.Response = server.call("POST", path, files=parts, timeout=300)
    wrong = [part["code"] for part in response.json().get("results", []) if "code" in part]
    if response.status_code != 200 or wrong:
        raise SystemExit(f"{path} answered {response.status_code} {wrong}: {response.text[:300]}")


def speed(server: Server, finder: FaceLandmarker, photos: dict[str, bytes], rounds: int) -> None:
    print("| picture | way | ms a picture | pictures a second | x floor |\n| --- | --- | --- | --- | --- |")
    for name, data in photos.items():
        ways = {
            "decoding and one look": (1, lambda data=data: decode_and_look(finder, data)),
            "/api/detect": (1, lambda data=data: post(server, "/api/detect", [data])),
            "/api/detect?draw=true": (1, lambda data=data: post(server, "/api/detect?draw=true", [data])),
            f"/api/detect/batch of {BATCH}": (
                BATCH,
                lambda data=data: post(server, "/api/detect/batch", [data] * BATCH),
            ),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (count, work) in ways.items():
                taken[way].append(milliseconds(work) / count)
        floor = statistics.median(taken["decoding and one look"])
        for way, values in taken.items():
            p50 = statistics.median(values)
            print(f"| {name} | {way} | {p50:.0f} | {1000 / p50:.1f} | {p50 / floor:.2f} |", flush=True)


def found(finder: FaceLandmarker) -> None:
    """Print which share of the faces of groups is found, by one look and by the search, and what that costs."""
    print("| face's width, of 1920 x 1440 | one look | search | CPU ms of the search |\n| --- | --- | --- | --- |")
    for size in SIZES:
        count = min(20, int(1920 // (2.4 * size + 4)) * int(1440 // (2.4 * size + 4)))
        rgb, centres = synthetic_frames.group_photo(1920, 1440, count, size)
        begun = time.process_time()
        faces = detect_tiled(finder, rgb)
        spent = (time.process_time() - begun) * 1000
        shares = [
            sum(_shows(face.box, at) for at in centres for face in some) for some in (finder.detect_once(rgb), faces)
        ]
        print(f"| {size} | {shares[0]} of {count} | {shares[1]} of {count} | {spent:.0f} |", flush=True)


def _shows(box: tuple[float, float, float, float], at: tuple[int, int]) -> bool:
    x, y = at[0] / 1920, at[1] / 1440
    return box[0] < x < box[0] + box[2] and box[1] < y < box[1] + box[3]


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each kind for each picture (default 7)")
    parser.add_argument("--faces", action="store_true", help="tell which faces are found instead")
    options = parser.parse_args()
    finder = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task")
    if options.faces:
        return found(finder)
    photos = {path.name: path.read_bytes() for path in options.photos} or made()
    for name, data in photos.items():
        print(f"{name}: {len(data) / 1e6:.2f} MB")
    with running() as server:
        for _ in range(4):  # until each worker is warm
            post(server, "/api/detect/batch", [next(iter(photos.values()))] * 2)
        speed(server, finder, photos, options.rounds)
        peaks = ", ".join(f"{value:.0f}" for value in peak_megabytes(server))
        print(f"\npeak memory of each worker: {peaks} MB")


if __name__ == "__main__":
    main()
