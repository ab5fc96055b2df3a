"""Measure how many images a second the service reads, compared to decoding and one detection alone.

    python -m bench.pictures           # starts a server and posts synthetic images
    python -m bench.pictures PHOTO…    # posts yours
    python -m bench.pictures --faces   # no server: recall of face detection by the size of the face

Compare the ratios: machines differ, and times vary. The baseline and the calls alternate within one run.
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

from bench.command import run_command
from bench.serve import peak_megabytes, running_server, wall_ms
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.tiled_detection import detect_tiled
from moodreel.media.image import MAX_SIDE
from moodreel.training.cli.options import at_least
from tests.support import synthetic_frames, synthetic_image
from tests.support.server import STORE, Server

BATCH = 32
SIZES = (400, 250, 192, 134, 96, 67, 48, 35)
"""Widths of a face in pixels, in an image of 1920 x 1440."""


def phone_photo(width: int, height: int) -> bytes:
    """Make a portrait as from a phone camera."""
    top, side = 20, 480 * width // max(width, height)
    part = synthetic_frames.portrait()[
        top : top + 480 * height // max(width, height), 224 - side // 2 : 224 + side // 2
    ]
    return synthetic_image.encode_image(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC), quality=85)


def synthetic_photos() -> dict[str, bytes]:
    """Make the images that are posted if none are named."""
    group, _ = synthetic_frames.group_photo(1920, 1440, 4, 240)
    return {
        "made: 1 face, 12 megapixels": phone_photo(3024, 4032),
        "made: 1 face, 1 megapixel": phone_photo(864, 1152),
        "made: 4 faces, 3 megapixels": synthetic_image.encode_image(group, quality=85),
    }


def decode_and_detect(finder: FaceLandmarker, data: bytes) -> None:
    """Decode at the smallest size the codec offers and detect faces once: the baseline."""
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
    print("| image | call | ms an image | images a second | x baseline |\n| --- | --- | --- | --- | --- |")
    for name, data in photos.items():
        calls = {
            "decoding and detection": (1, lambda data=data: decode_and_detect(finder, data)),
            "/api/detect": (1, lambda data=data: post(server, "/api/detect", [data])),
            "/api/detect?draw=true": (1, lambda data=data: post(server, "/api/detect?draw=true", [data])),
            f"/api/detect/batch of {BATCH}": (
                BATCH,
                lambda data=data: post(server, "/api/detect/batch", [data] * BATCH),
            ),
        }
        times: dict[str, list[float]] = {call: [] for call in calls}
        for _ in range(rounds):
            for call, (count, work) in calls.items():
                times[call].append(wall_ms(work) / count)
        baseline = statistics.median(times["decoding and detection"])
        for call, values in times.items():
            p50 = statistics.median(values)
            print(f"| {name} | {call} | {p50:.0f} | {1000 / p50:.1f} | {p50 / baseline:.2f} |", flush=True)


def print_recall(finder: FaceLandmarker) -> None:
    """Print the recall on group photos of one detection and of tiled detection, and the cost of the latter."""
    print("| face's width, of 1920 x 1440 | one detection | tiled | CPU ms, tiled |\n| --- | --- | --- | --- |")
    for size in SIZES:
        count = min(20, int(1920 // (2.4 * size + 4)) * int(1440 // (2.4 * size + 4)))
        rgb, centers = synthetic_frames.group_photo(1920, 1440, count, size)
        start = time.process_time()
        faces = detect_tiled(finder, rgb)
        cpu_ms = (time.process_time() - start) * 1000
        recalls = [
            sum(_contains(face.box, at) for at in centers for face in some) for some in (finder.detect_once(rgb), faces)
        ]
        print(f"| {size} | {recalls[0]} of {count} | {recalls[1]} of {count} | {cpu_ms:.0f} |", flush=True)


def _contains(box: tuple[float, float, float, float], at: tuple[int, int]) -> bool:
    x, y = at[0] / 1920, at[1] / 1440
    return box[0] < x < box[0] + box[2] and box[1] < y < box[1] + box[3]


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO")
    parser.add_argument(
        "--rounds", type=at_least(1), default=7, help="calls of each kind for each image (default: %(default)s)"
    )
    parser.add_argument("--faces", action="store_true", help="measure the recall of face detection instead")
    options = parser.parse_args()
    finder = FaceLandmarker(STORE / "face_landmarker" / "face_landmarker.task")
    if options.faces:
        return print_recall(finder)
    photos = {path.name: path.read_bytes() for path in options.photos} or synthetic_photos()
    for name, data in photos.items():
        print(f"{name}: {len(data) / 1e6:.2f} MB")
    with running_server() as server:
        for _ in range(4):  # warm up each worker
            post(server, "/api/detect/batch", [next(iter(photos.values()))] * 2)
        speed(server, finder, photos, options.rounds)
        peaks = ", ".join(f"{value:.0f}" for value in peak_megabytes(server))
        print(f"\npeak memory of each worker: {peaks} MB")


if __name__ == "__main__":
    run_command(main)
