"""A clip -> the windows that audio-visual networks read: one way for serving, training and evaluation.

bytes -> `audio` (all of it) and `video` (one decode, for the pictures of the `windows`) -> `faces` -> `protagonist`
(one person) -> `features.cut`, `logmel` -> `Excerpts`. Pictures and sound are laid over one another by the file's own
clock, so that a voice goes with its face also where one of the two begins later or lasts longer.

A clip gives what it has. Sound that is damaged spoils no picture, and the other way round; only the limits count for
both, and what has neither a face nor sound is an error.
"""

import bisect
import time as clock
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch

from moodreel.errors import (
    AudioCorrupt,
    AudioTooLong,
    MoodreelError,
    NoFace,
    NoFaceNoAudio,
    NoVideoStream,
    UnsupportedMedia,
    VideoCorrupt,
    VideoTooShort,
)
from moodreel.faces.features import crop_square
from moodreel.faces.landmarker import FaceLandmarker
from moodreel.faces.main_face import FrameFaces, main_face_crops
from moodreel.media import audio
from moodreel.media.audio import AudioClip, AudioLimits
from moodreel.media.container import audio_demuxer
from moodreel.media.mel_spectrogram import HOP_LENGTH, MEL_BANDS, log_mel
from moodreel.media.video import Frame, VideoReader
from moodreel.media.video_decoder import MediaSpan, VideoLimits
from moodreel.models.networks.audiovisual import MODALITIES, AudioVisualBatch
from moodreel.models.networks.resnet18 import SIDE
from moodreel.pipelines import clip_sampler
from moodreel.pipelines.clip_sampler import ClipTimeline

LOOK_SIDE = 640
"""Pixels: longest side of the frames in which faces are sought, as in an analysis."""
NONE, NO_FACE, CORRUPT, UNSUPPORTED, NOT_READ = "none", "no_face", "corrupt", "unsupported", "not_read"
"""Why a clip has nothing of a modality: the file holds none, or silence; nobody is to be seen; it is damaged; its codec
is not read here; it was not asked for."""

_STEPS = 1 + round(clip_sampler.SECONDS * audio.SAMPLE_RATE) // HOP_LENGTH
_AHEAD = 8
"""Frames that may wait for the face finder before decoding pauses: bounds memory."""
_TIME_SLACK = 0.001
"""Seconds: containers round times to a millisecond."""


@dataclass(frozen=True, eq=False)
class LoadedClip:
    """What one clip has for an audio-visual network.

    excerpts: its windows, but for those with neither a face nor sound; at least one is left.
    starts: when each of these begins, in seconds of the clip.
    seconds: how long the clip is, from where the first of picture and sound begins to where the last ends.
    frames: how many pictures were looked at. faces: the most people in any of them.
    lacks: why, for each modality that no window has: `NONE`, `NO_FACE`, `CORRUPT`, `UNSUPPORTED` or `NOT_READ`.
    timings: milliseconds by stage; `faces` runs beside `decode`, so they overlap.
    """

    batch: AudioVisualBatch
    starts: tuple[float, ...]
    seconds: float
    frames: int
    faces: int
    missing: Mapping[str, str]
    timings: Mapping[str, float]

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it has, in the order of `MODALITIES`."""
        return tuple(name for name in MODALITIES if name not in self.missing)


class ClipLoader:
    """Reads clips and sound files; one serves any number of threads.

    finder: of faces.
    limits, sound_limits: what one clip may cost; its sound as long as its pictures, unless said otherwise.
    threads: where faces are sought while the next frames are decoded; two of its own unless given.
    """

    def __init__(
        self,
        finder: FaceLandmarker,
        *,
        limits: VideoLimits | None = None,
        sound_limits: AudioLimits | None = None,
        threads: Executor | None = None,
    ) -> None:
        self._finder = finder
        self._limits = limits or VideoLimits()
        self._sound_limits = sound_limits or AudioLimits(self._limits.seconds, self._limits.timeout_seconds)
        self._threads = threads or ThreadPoolExecutor(2, thread_name_prefix="faces")

    def load_batch(self, data: bytes) -> AudioVisualBatch:
        """Give all windows of a clip, or of a sound file, that show a face or have sound. Raises as `watch`."""
        return self.load(data).batch

    def load(self, data: bytes, *, fps: float | None = None, modalities: Collection[str] = MODALITIES) -> LoadedClip:
        """Give all windows of a clip, and what is to be known of it.

        data: the file: a clip with or without sound, or sound alone.
        fps: frames a second, where the container has no timing.
        modalities: which of `MODALITIES` are wanted; others are not even decoded.

        Raises:
            NoFaceNoAudio: of what is wanted nothing is to be seen or heard; NoFace where that is faces alone.
            UnsupportedMedia, VideoCorrupt, VideoTooShort, AudioCorrupt: neither pictures nor sound can be read.
            VideoTooLong, VideoTooBig, AudioTooLong: either of them reached a limit.
        """
        notes = _Notes(modalities)
        sound = self._listen(data, notes) if "audio" in modalities else None
        seen = self._look(data, fps, sound, notes) if "video" in modalities else None
        return _put_together(seen, sound, notes)

    def _listen(self, data: bytes, notes: "_Notes") -> AudioClip | None:
        begun = clock.perf_counter()
        sound = None
        try:
            sound = audio.decode_audio(data, self._sound_limits)
            if sound is None:
                notes.lack("audio", NONE)
        except AudioCorrupt as error:
            notes.lack("audio", CORRUPT, error)
        except UnsupportedMedia as error:
            notes.lack("audio", UNSUPPORTED, error)
        except AudioTooLong:
            # Whose pictures run too long as well has sent a video that does.
            with suppress(UnsupportedMedia, VideoCorrupt):
                VideoReader(data, self._limits).probe_span()
            raise
        notes.timings["sound"] = _since(begun)
        return sound

    def _look(self, data: bytes, fps: float | None, sound: AudioClip | None, notes: "_Notes") -> "_Seen | None":
        try:
            if audio_demuxer(data):
                raise NoVideoStream("There is only sound in this file. Send a clip with pictures.")
            reader = VideoReader(data, self._limits, fps=fps)
            timeline = _lay_out(reader.probe_span(), sound, self._limits.seconds)
            sightings = self._find_all(reader, timeline.pictures_wanted(), notes)
        except NoVideoStream as error:
            notes.lack("video", NONE, error)
        except (VideoCorrupt, VideoTooShort) as error:
            notes.lack("video", CORRUPT, error)
        except UnsupportedMedia as error:
            notes.lack("video", UNSUPPORTED, error)
        else:
            faces = max((len(sighting.faces) for sighting in sightings), default=0)
            times = [sighting.time for sighting in sightings]
            return _Seen(times, main_face_crops(sightings), reader.duration, faces, timeline)
        return None

    def _find_all(self, reader: VideoReader, wanted: Sequence[float], notes: "_Notes") -> list[FrameFaces]:
        """Decode once; look for faces in other threads while the next frames are decoded."""
        sightings: list[FrameFaces] = []
        waiting: deque[Future[FrameFaces]] = deque()
        decode = 0.0
        frames = reader.frames_at(wanted, max_side=LOOK_SIDE)
        try:
            while True:
                begun = clock.perf_counter()
                frame = next(frames, None)
                decode += _since(begun)
                if frame is None:
                    break
                waiting.append(self._threads.submit(self._find, frame))
                if len(waiting) > _AHEAD:
                    sightings.append(waiting.popleft().result())
            sightings.extend(future.result() for future in waiting)
        finally:
            frames.close()
            for future in waiting:
                future.cancel()
        notes.timings |= {"decode": decode, "faces": sum(sighting.detection_ms for sighting in sightings)}
        return sightings

    def _find(self, frame: Frame) -> FrameFaces:
        begun = clock.perf_counter()
        height, width = frame.rgb.shape[:2]
        faces = []
        for face in self._finder.detect(frame.rgb):
            x, y, w, h = face.box
            faces.append(((x * width, y * height, w * width, h * height), crop_square(frame.rgb, face.landmarks, SIDE)))
        return FrameFaces(frame.time, tuple(faces), _since(begun))


class _Notes:
    """What is gathered on the way through one clip: what it lacks, why, and how long the stages took."""

    def __init__(self, wanted: Collection[str]) -> None:
        self.lacks = {name: NOT_READ for name in MODALITIES if name not in wanted}
        self.timings: dict[str, float] = {}
        self._errors: dict[str, MoodreelError] = {}

    def lack(self, modality: str, reason: str, error: MoodreelError | None = None) -> None:
        self.lacks[modality] = reason
        if error:
            self._errors[modality] = error

    def refusal(self) -> MoodreelError:
        """Say what is wrong with a clip that gives nothing at all; pictures come first, since most clips have some."""
        only_sound = self.lacks["video"] == NONE and self.lacks["audio"] != NOT_READ
        error = self._errors.get("audio" if only_sound or self.lacks["video"] == NOT_READ else "video")
        if error:
            return error
        if self.lacks["audio"] == NOT_READ:
            return NoFace("No face was found in the clip. Hold the camera at arm's length, facing you, in good light.")
        if only_sound or self.lacks["video"] == NOT_READ:
            return NoFaceNoAudio("Nothing is to be heard in this. Turn the microphone on, speak, and send it again.")
        return NoFaceNoAudio(
            "No face was found in the clip, and nothing is to be heard in it. Face the camera in good light, or turn "
            "the microphone on."
        )


@dataclass(frozen=True, eq=False)
class _Seen:
    """The pictures that were looked at: their times, and what is around the one person's face, None where hidden.

    duration: seconds of all pictures together, as decoded. faces: the most people in any of them.
    """

    times: list[float]
    crops: list[np.ndarray | None]
    duration: float
    faces: int
    timeline: ClipTimeline

    def crop(self, time: float) -> np.ndarray | None:
        """Give the face in the picture that is shown at that time; None where there is none, or no picture."""
        shown = bisect.bisect_right(self.times, time + _TIME_SLACK) - 1
        return self.crops[shown] if shown >= 0 and time < self.duration else None


def _lay_out(pictures: MediaSpan, sound: AudioClip | None, longest: float) -> ClipTimeline:
    """Lay pictures and sound over one another, from where the first of them begins to where the last ends.

    longest: seconds that a clip may have. Where the two begin further apart than that the file's times are wrong, and
    both are taken to begin at once.
    """
    later = sound.start - pictures.start if sound else 0.0
    later = later if abs(later) <= longest else 0.0
    zero = min(0.0, later)
    ends = [pictures.duration, *([later + sound.duration] if sound else [])]
    return ClipTimeline(max(ends) - zero, pictures=-zero, sound=later - zero)


def _put_together(seen: _Seen | None, sound: AudioClip | None, notes: _Notes) -> LoadedClip:
    timeline = seen.timeline if seen else ClipTimeline(sound.duration if sound else 0.0)
    count = len(timeline.starts)
    faces = np.zeros((count, clip_sampler.FRAMES, SIDE, SIDE, 3), np.uint8)
    shown = np.zeros((count, clip_sampler.FRAMES), bool)
    mels, heard = np.zeros((count, MEL_BANDS, _STEPS), np.float32), np.zeros(count, bool)
    begun = clock.perf_counter()
    for row, start in enumerate(timeline.starts):
        for column, time in enumerate(timeline.times(start)):
            crop = seen.crop(time) if seen else None
            if crop is not None:
                faces[row, column], shown[row, column] = crop, True
        piece = sound.slice(start - timeline.sound, clip_sampler.SECONDS) if sound else None
        if piece is not None and not audio.is_silent(piece):
            mels[row], heard[row] = log_mel(piece), True
    notes.timings["sound"] = notes.timings.get("sound", 0.0) + _since(begun)
    kept = shown.any(axis=1) | heard
    if not shown.any():
        notes.lacks.setdefault("video", NO_FACE)
    if not heard.any():
        notes.lacks.setdefault("audio", NONE)
    if not kept.any():
        raise notes.refusal()
    return LoadedClip(
        batch=AudioVisualBatch(*(torch.from_numpy(array[kept]) for array in (faces, shown, mels, heard))),
        starts=tuple(start for start, keep in zip(timeline.starts, kept.tolist(), strict=True) if keep),
        seconds=timeline.seconds,
        frames=len(seen.times) if seen else 0,
        faces=seen.faces if seen else 0,
        missing=notes.lacks,
        timings=notes.timings,
    )


def _since(begun: float) -> float:
    return (clock.perf_counter() - begun) * 1000
