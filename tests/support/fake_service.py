"""Serve the API with fake pipelines that the posted bytes control, to test HTTP alone."""

import time
from types import SimpleNamespace
from typing import Any

from api.app import create_app
from moodreel import errors
from moodreel.faces.facial_actions import ActionWeight, Explanation
from moodreel.pipelines.boomerang import LoopOptions
from moodreel.pipelines.image import ImageResult

PROBABILITIES = {"Anger": 0.01, "Happy": 0.92, "Shock": 0.03, "Neutral": 0.03, "Sad": 0.01}
QUALITY = SimpleNamespace(
    face_coverage=0.97, size=310, sharpness=420.46, brightness=0.523456, yaw=6.14, reason=None, tip=None
)
LOW_QUALITY = SimpleNamespace(
    **{**vars(QUALITY), "brightness": 0.05, "reason": "dark", "tip": "Turn towards the light."}
)
MODEL: Any = SimpleNamespace(name="fake", version="1", sha256="0" * 64)

ENGINE = SimpleNamespace(
    models=SimpleNamespace(names=lambda: ["fake"], get=lambda name=None: None), facial_actions=None
)
"""The parts of an engine that live video uses before its first frame."""


class FakeVideoPipeline:
    """Predict `Happy`; for the bytes `doubt` with low quality.

    `raise NoFace` raises that error, `crash` an unexpected one, and `sleep 2` takes two seconds.
    """

    def predict(
        self,
        data: bytes,
        *,
        model: str | None = None,
        fps: float | None = None,
        explain: bool = False,
        loop: LoopOptions | None = None,
    ) -> Any:
        _execute(data, model)
        sample = SimpleNamespace(
            time=0.4, emotion="Happy", probabilities=PROBABILITIES, weight=0.25, box=(10, 20, 30, 40), track=0
        )
        return SimpleNamespace(
            emotion="Happy",
            confidence=0.92,
            probabilities=PROBABILITIES,
            face_coverage=0.97,
            certain=data != b"doubt",
            quality=LOW_QUALITY if data == b"doubt" else QUALITY,
            frames_analysed=24,
            duration=4.98,
            width=720,
            height=1280,
            peak=2.5,
            track=0,
            timeline=(sample,),
            model=MODEL,
            timings={"decode": 12.3, "faces": 45.6, "model": 7.8},
            explanation=Explanation((ActionWeight("lip corners up", 0.81, 0.64),)) if explain else None,
            boomerang=_boomerang(loop, fps) if loop else None,
        )

    def thumbnail(self, data: bytes, loop: LoopOptions, *, model: str | None = None, fps: float | None = None) -> Any:
        _execute(data, model)
        face = {"emotion": "Happy", "confidence": 0.92, "probabilities": PROBABILITIES}
        face |= {"certain": True, "quality": QUALITY, "track": 0}
        return SimpleNamespace(
            boomerang=_boomerang(loop, fps),
            **(dict.fromkeys(face) if data == b"no face" else face),
            clip_duration=4.98,
            frames_analysed=24,
            model=MODEL,
            timings={"decode": 12.3, "faces": 45.6, "model": 7.8, "encode": 9.0},
        )


def _boomerang(loop: LoopOptions, fps: float | None) -> Any:
    """Return a loop whose data are its options."""
    return SimpleNamespace(
        data=repr({**vars(loop), "fps": fps}).encode(),
        output=loop.output,
        width=loop.size,
        height=270,
        duration=loop.duration,
        start=1.0,
        peak=2.5,
        poster=b"a poster",
    )


SEVEN_PROBABILITIES = {
    "happy": 0.9,
    "surprise": 0.04,
    "sad": 0.01,
    "anger": 0.01,
    "disgust": 0.01,
    "fear": 0.01,
    "neutral": 0.02,
}
FACE: Any = SimpleNamespace(
    box=(10, 20, 30, 40),
    emotion="happy",
    confidence=0.9,
    probabilities=SEVEN_PROBABILITIES,
    certain=True,
    quality=QUALITY,
)


class FakeImagePipeline:
    """Predict `happy`; for `no face`, no face. Otherwise as `FakeVideoPipeline`."""

    def predict(self, data: bytes, *, model: str | None = None, draw: bool = False, copy: bool = False) -> Any:
        _execute(data, model)
        return ImageResult(
            faces=() if data == b"no face" else (FACE,),
            width=300,
            height=400,
            model=MODEL,
            timings={"decode": 1.2, "faces": 3.4, "model": 5.6},
            drawn=b"a JPEG" if draw else None,
            copy=b"a copy of " + data if copy else None,
        )

    def predict_batch(self, files: list[bytes], *, model: str | None = None, copy: bool = False) -> Any:
        results: list[Any] = []
        for data in files:
            try:
                results.append(self.predict(data, model=model, copy=copy))
            except (errors.UnsupportedMedia, errors.ImageCorrupt, errors.ImageTooBig) as error:
                results.append(error)
        return SimpleNamespace(results=results, model=MODEL, timings={"decode": 1.2, "faces": 3.4, "model": 5.6})


class FakeImageOrVideoPipeline:
    """Take `no face` and data that begins with `picture` as an image, other data as a video; both show `happy`."""

    def predict(self, data: bytes, *, model: str | None = None, fps: float | None = None, copy: bool = False) -> Any:
        if data.startswith((b"picture", b"no face")):
            return FakeImagePipeline().predict(data, model=model, copy=copy)
        video = vars(FakeVideoPipeline().predict(data, model=model, fps=fps))
        face = {name: getattr(FACE, name) for name in ("emotion", "confidence", "probabilities", "certain")}
        return SimpleNamespace(**video | face, all_emotions=SEVEN_PROBABILITIES)


def _execute(data: bytes, model: str | None) -> None:
    if model not in (None, "fake"):
        raise errors.ModelNotFound(f"There is no model {model!r}; there are fake.")
    if not data:
        raise errors.UnsupportedMedia("This is no video. Send an MP4.")
    command, _, argument = data[:100].partition(b" ")
    if command == b"raise":
        try:
            raise OSError("/a/secret/path")
        except OSError as error:
            raise getattr(errors, argument.decode())("A sentence for the caller. Do this next.") from error
    if command == b"crash":
        raise RuntimeError("/a/secret/path")
    if command == b"sleep":
        time.sleep(float(argument))


EKMAN_SCORES = {
    "anger": 0.02,
    "disgust": 0.01,
    "fear": 0.01,
    "joy": 0.94,
    "neutral": 0.05,
    "sadness": 0.01,
    "surprise": 0.31,
}


class FakeTextPipeline:
    """Predict `joy`; for a text that begins with `bonjour`, in French. Otherwise as `FakeVideoPipeline`."""

    def predict(self, texts: list[str], *, model: str | None = None) -> Any:
        for result in (results := self.predict_batch(texts, model=model).results):
            if isinstance(result, errors.MoodreelError):
                raise result
        return results

    def predict_batch(self, texts: list[str], *, model: str | None = None) -> Any:
        results: list[Any] = []
        for text in texts:
            try:
                results.append(self._result(text, model))
            except (errors.TextEmpty, errors.TextTooLong) as error:
                results.append(error)
        return SimpleNamespace(results=results, model=MODEL, timings={"tokens": 0.4, "language": 0.1, "model": 5.6})

    def _result(self, text: str, model: str | None) -> Any:
        _execute(text.encode("utf-8", "replace") or b"raise TextEmpty", model)
        french = text.startswith("bonjour")
        return SimpleNamespace(
            label="joy",
            score=0.94,
            scores=EKMAN_SCORES,
            labels=("joy", "surprise"),
            language="fr" if french else "en",
            language_supported=not french,
            characters=len(text),
            windows=1,
            model=MODEL,
            timings={"tokens": 0.4, "language": 0.1, "model": 5.6},
        )


EIGHT = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
EIGHT_PROBABILITIES = (0.05, 0.03, 0.8, 0.02, 0.04, 0.03, 0.01, 0.02)


class FakeAudioVisualPipeline:
    """Predict `happy`; for `silent` from video alone, for `mock` as a mock model. Otherwise as `FakeVideoPipeline`."""

    def predict(self, data: bytes, *, model: str | None = None, fps: float | None = None) -> Any:
        _execute(data, model)
        modalities = ("video",) if data == b"silent" else ("video", "audio")
        card = SimpleNamespace(commercial=data != b"research", licence="MIT")
        return SimpleNamespace(
            labels=EIGHT,
            probabilities=EIGHT_PROBABILITIES,
            best=2,
            modalities=modalities,
            missing={} if "audio" in modalities else {"audio": "none"},
            windows=(SimpleNamespace(start=0.0, end=3.0, probabilities=EIGHT_PROBABILITIES, modalities=modalities),),
            seconds=3.0,
            frames=8,
            faces=1,
            model=SimpleNamespace(**vars(MODEL), card=card),
            mock=data == b"mock",
            timings={"sound": 3.2, "decode": 12.3, "faces": 45.6, "model": 7.8},
        )


app = create_app(
    engine=ENGINE,
    video_pipeline=FakeVideoPipeline(),
    image_pipeline=FakeImagePipeline(),
    image_or_video_pipeline=FakeImageOrVideoPipeline(),
    text_pipeline=FakeTextPipeline(),
    audiovisual_pipeline=FakeAudioVisualPipeline(),
)
