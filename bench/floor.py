"""Do the least that an answer needs, with FFmpeg and MediaPipe alone: the floor that `bench.serve` compares with."""

import io
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from queue import SimpleQueue

import av
import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

from moodreel.media.scaling import fit_within
from moodreel.pipelines.engine import DETECTION_SIDE
from tests.support.server import STORE

DETECTIONS, THREADS = 24, 2
"""Frames in which faces are detected, spread over the video, and the threads that do it."""
COVER_FRAMES, COVER_SIDE = 45, 480
"""Frames of a cover (1.5 s at 30 frames a second), and their longest side in pixels."""


class Floor:
    """Decode videos, detect faces and encode covers in this process, which stays warm."""

    def __init__(self) -> None:
        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(STORE / "face_landmarker" / "face_landmarker.task")),
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        self._pool = ThreadPoolExecutor(THREADS)
        self._landmarkers: SimpleQueue[vision.FaceLandmarker] = SimpleQueue()
        for _ in range(THREADS):
            self._landmarkers.put(vision.FaceLandmarker.create_from_options(options))

    def predict(self, data: bytes) -> None:
        """Decode every frame, then detect faces in `DETECTIONS` of them."""
        self._detect_all(_decode(data, cover_frames=0)[0])

    def thumbnail(self, data: bytes) -> None:
        """Decode and detect as `predict` does, and encode `COVER_FRAMES` frames as H.264."""
        images, cover = _decode(data, cover_frames=COVER_FRAMES)
        self._detect_all(images)
        _encode(cover)

    def close(self) -> None:
        self._pool.shutdown()
        while not self._landmarkers.empty():
            self._landmarkers.get().close()

    def _detect_all(self, images: list[np.ndarray]) -> None:
        list(self._pool.map(self._detect, images))

    def _detect(self, rgb: np.ndarray) -> None:
        landmarker = self._landmarkers.get()
        landmarker.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=rgb))
        self._landmarkers.put(landmarker)


def _decode(data: bytes, cover_frames: int) -> tuple[list[np.ndarray], list[av.VideoFrame]]:
    """Decode every frame; return `DETECTIONS` of them as RGB, and the first `cover_frames` in YUV."""
    images, cover = [], []
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "AUTO"
        size = stream.codec_context.width, stream.codec_context.height
        wanted = set(np.linspace(0, max(stream.frames, DETECTIONS) - 1, DETECTIONS).astype(int).tolist())
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                images.append(frame.reformat(*fit_within(size, DETECTION_SIDE), "rgb24").to_ndarray())
            if index < cover_frames:
                cover.append(frame.reformat(*(side // 2 * 2 for side in fit_within(size, COVER_SIDE)), "yuv420p"))
    return images, cover


def _encode(frames: list[av.VideoFrame]) -> None:
    with av.open(io.BytesIO(), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast"})
        stream.width, stream.height = frames[0].width, frames[0].height
        for index, frame in enumerate(frames):
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
