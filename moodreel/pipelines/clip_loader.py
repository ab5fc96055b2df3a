"""Load a clip as the windows that audio-visual networks read, for serving, training and evaluation.

`media.audio` decodes all of the audio. `people_extractor` finds the people in the frames of the windows, and
`main_face` selects one of them. `_align_timelines` places video and audio on the clock of the file, so that a voice
matches its face even if one of the two starts later or lasts longer.

A clip yields what it has: damaged audio does not affect the video, nor damaged video the audio. If either exceeds a
limit, the whole clip fails. A clip with neither a face nor audio is an error.
"""

import bisect
import itertools
from collections import Counter
from collections.abc import Collection, Mapping
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
from moodreel.faces.features import CropKind
from moodreel.media import audio
from moodreel.media.audio import AudioClip
from moodreel.media.container import audio_demuxer, video_demuxer
from moodreel.media.isolated import decode_audio, open_video
from moodreel.media.mel_spectrogram import HOP_LENGTH, MEL_BANDS, log_mel
from moodreel.media.timestamps import TIME_SLACK
from moodreel.media.video_decoder import MediaSpan, VideoLimits
from moodreel.models.model_card import MODALITIES
from moodreel.models.networks.audiovisual import AudioVisualBatch
from moodreel.models.networks.resnet18 import INPUT_SIDE
from moodreel.pipelines import clip_sampler
from moodreel.pipelines.clip_sampler import ClipTimeline
from moodreel.pipelines.engine import NO_FACE_IN_VIDEO, Engine
from moodreel.pipelines.main_face import main_face_crops
from moodreel.pipelines.people_extractor import PeopleExtractor
from moodreel.timing import stage

NONE = "none"
"""Why a clip lacks a modality: the file has no such stream, or the audio is silent."""
NO_FACE = "no_face"
"""Why a clip lacks a modality: no face was found."""
CORRUPT = "corrupt"
"""Why a clip lacks a modality: the stream is damaged."""
UNSUPPORTED = "unsupported"
"""Why a clip lacks a modality: the codec is not supported."""
NOT_REQUESTED = "not_read"
"""Why a clip lacks a modality: the caller did not request it."""

MEL_STEPS = 1 + round(clip_sampler.SECONDS * audio.SAMPLE_RATE) // HOP_LENGTH
"""Time steps of the spectrogram of one window."""


@dataclass(frozen=True, eq=False)
class LoadedClip:
    """The windows of one clip.

    Attributes:
        batch: The windows with a face or audio; at least one.
        starts: Start of each of them, in seconds of the clip.
        seconds: Duration, from the earlier start of video and audio to the later end.
        frames: Number of video frames that were read.
        faces: The largest number of people in one of them.
        missing: For each modality that no window has, why: `NONE`, `NO_FACE`, `CORRUPT`, `UNSUPPORTED` or
            `NOT_REQUESTED`.
        timings: Milliseconds by stage. `faces` runs in parallel with `decode`, so the two overlap.
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
        """The modalities that it has, in the order of `MODALITIES`."""
        return tuple(name for name in MODALITIES if name not in self.missing)


class ClipLoader:
    """Load clips and sound files. Thread-safe. It takes no slot of the engine: that is left to the caller."""

    def __init__(self, engine: Engine, *, limits: VideoLimits | None = None) -> None:
        """Create a loader.

        Args:
            engine: The face landmarker and threads of this process.
            limits: What the video of one clip may cost, and the audio.
        """
        self._people = PeopleExtractor(engine)
        self._limits = limits or VideoLimits()

    def load(self, data: bytes, *, fps: float | None = None, modalities: Collection[str] = MODALITIES) -> LoadedClip:
        """Load the windows of a clip.

        Args:
            data: A video file with or without audio, or a sound file.
            fps: Frames a second of a video whose container has no timing.
            modalities: Which of `MODALITIES` to read. Others are not decoded.

        Raises:
            NoFaceNoAudio: The requested modalities show no face and hold no audio. `NoFace` if only video was
                requested.
            UnsupportedMedia: Neither video nor audio can be read, as for the next three.
            VideoCorrupt: The video is damaged.
            VideoTooShort: The video has no frame.
            AudioCorrupt: The audio is damaged.
            VideoTooLong: The video reached a limit.
            VideoTooBig: The video reached a limit.
            AudioTooLong: The audio reached a limit.
        """
        report = _LoadReport(modalities)
        sound = None
        if "audio" in modalities:
            with stage("sound", report.timings):
                sound = self._load_audio(data, report)
        crops = self._load_frames(data, fps, sound, report) if "video" in modalities else None
        return _assemble(crops, sound, report)

    def _load_audio(self, data: bytes, report: "_LoadReport") -> AudioClip | None:
        sound = None
        try:
            sound = decode_audio(data, self._limits)
            if sound is None:
                report.set_missing("audio", NONE)
        except AudioCorrupt as error:
            report.set_missing("audio", CORRUPT, error)
        except UnsupportedMedia as error:
            report.set_missing("audio", UNSUPPORTED, error)
        except AudioTooLong:
            # If the video is too long as well, the error of the video is raised.
            with suppress(UnsupportedMedia, VideoCorrupt), open_video(data, self._limits) as reader:
                reader.probe_span()
            raise
        return sound

    def _load_frames(
        self, data: bytes, fps: float | None, sound: AudioClip | None, report: "_LoadReport"
    ) -> "_FrameCrops | None":
        try:
            if audio_demuxer(data):
                raise NoVideoStream("There is only sound in this file. Send a clip with pictures.")
            with open_video(data, self._limits, fps=fps) as reader:
                timeline = _align_timelines(reader.probe_span(), sound, self._limits.seconds)
                video = self._people.extract(reader, crop_kind=CropKind.SMALL_SQUARE, times=timeline.all_frame_times())
        except NoVideoStream as error:
            report.set_missing("video", NONE, error)
        except (VideoCorrupt, VideoTooShort) as error:
            report.set_missing("video", CORRUPT, error)
        except UnsupportedMedia as error:
            # In an unknown format there may be only sound: the error of the sound names both.
            report.set_missing("video", UNSUPPORTED if video_demuxer(data) else NONE, error)
        else:
            report.timings |= video.timings
            return _FrameCrops(
                times=[frame.time for frame in video.frames],
                crops=main_face_crops(video),
                duration=reader.duration,
                faces=max(Counter(itertools.chain(*video.tracks.values())).values(), default=0),
                timeline=timeline,
            )
        return None


class _LoadReport:
    """Collect what one clip lacks, why, and how long each stage took."""

    def __init__(self, requested: Collection[str]) -> None:
        self.missing = {name: NOT_REQUESTED for name in MODALITIES if name not in requested}
        self.timings: dict[str, float] = {}
        self._errors: dict[str, MoodreelError] = {}

    def set_missing(self, modality: str, reason: str, error: MoodreelError | None = None) -> None:
        self.missing[modality] = reason
        if error:
            self._errors[modality] = error

    def to_error(self) -> MoodreelError:
        """Return the error of a clip without any window. That of the video comes first: most clips have one."""
        audio_only = self.missing["video"] == NONE and self.missing["audio"] != NOT_REQUESTED
        error = self._errors.get("audio" if audio_only or self.missing["video"] == NOT_REQUESTED else "video")
        if error:
            return error
        if self.missing["audio"] == NOT_REQUESTED:
            return NoFace(NO_FACE_IN_VIDEO)
        if audio_only or self.missing["video"] == NOT_REQUESTED:
            return NoFaceNoAudio(
                "There is no audible sound in this file. Turn the microphone on, speak, and send it again."
            )
        return NoFaceNoAudio(
            "No face and no audible sound were found in the clip. Face the camera in good light, or turn "
            "the microphone on."
        )


@dataclass(frozen=True, eq=False)
class _FrameCrops:
    """The video frames that were read.

    Attributes:
        times: Seconds since the first frame.
        crops: uint8 (INPUT_SIDE, INPUT_SIDE, 3) around the main face, None where it was not found.
        duration: Seconds of the video, as decoded.
        faces: The largest number of people in one frame.
        timeline: Of the clip.
    """

    times: list[float]
    crops: list[np.ndarray | None]
    duration: float
    faces: int
    timeline: ClipTimeline

    def at(self, time: float) -> np.ndarray | None:
        """Return the crop of the frame that is shown at `time`; None without a face or a frame."""
        index = bisect.bisect_right(self.times, time + TIME_SLACK) - 1
        return self.crops[index] if index >= 0 and time < self.duration else None


def _align_timelines(video: MediaSpan, sound: AudioClip | None, max_seconds: float) -> ClipTimeline:
    """Place video and audio on one clock, from the earlier start to the later end.

    If they start further apart than `max_seconds`, which no clip may last, the times of the file are wrong: both are
    then taken to start together.
    """
    offset = sound.start - video.start if sound else 0.0
    offset = offset if abs(offset) <= max_seconds else 0.0
    zero = min(0.0, offset)
    ends = [video.duration, *([offset + sound.duration] if sound else [])]
    return ClipTimeline(max(ends) - zero, video_start=-zero, audio_start=offset - zero)


def _assemble(frames: _FrameCrops | None, sound: AudioClip | None, report: _LoadReport) -> LoadedClip:
    """Fill the windows. Raises what `_LoadReport.to_error` returns if all are empty."""
    timeline = frames.timeline if frames else ClipTimeline(sound.duration if sound else 0.0)
    faces, has_face = _face_windows(frames, timeline)
    with stage("sound", report.timings):
        samples, mels, has_audio = _audio_windows(sound, timeline)
    filled = has_face.any(axis=1) | has_audio
    if not has_face.any():
        report.missing.setdefault("video", NO_FACE)
    if not has_audio.any():
        report.missing.setdefault("audio", NONE)
    if not filled.any():
        raise report.to_error()
    return LoadedClip(
        batch=AudioVisualBatch(
            *(torch.from_numpy(array[filled]) for array in (faces, has_face, mels, has_audio, samples))
        ),
        starts=tuple(start for start, keep in zip(timeline.starts, filled.tolist(), strict=True) if keep),
        seconds=timeline.seconds,
        frames=len(frames.times) if frames else 0,
        faces=frames.faces if frames else 0,
        missing=report.missing,
        timings=report.timings,
    )


def _face_windows(frames: _FrameCrops | None, timeline: ClipTimeline) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 (W, FRAMES, INPUT_SIDE, INPUT_SIDE, 3) crops and bool (W, FRAMES), where there is one."""
    shape = len(timeline.starts), clip_sampler.FRAMES
    faces, has_face = np.zeros((*shape, INPUT_SIDE, INPUT_SIDE, 3), np.uint8), np.zeros(shape, bool)
    for row, start in enumerate(timeline.starts):
        for column, frame_time in enumerate(timeline.frame_times(start)):
            crop = frames.at(frame_time) if frames else None
            if crop is not None:
                faces[row, column], has_face[row, column] = crop, True
    return faces, has_face


def _audio_windows(sound: AudioClip | None, timeline: ClipTimeline) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return float32 (W, M) samples, float32 (W, MEL_BANDS, MEL_STEPS) spectrograms and bool (W,), where sound is.

    Rows without sound are zeros.
    """
    count = len(timeline.starts)
    samples = np.zeros((count, round(clip_sampler.SECONDS * audio.SAMPLE_RATE)), np.float32)
    mels, has_audio = np.zeros((count, MEL_BANDS, MEL_STEPS), np.float32), np.zeros(count, bool)
    for row, start in enumerate(timeline.starts):
        part = sound.slice(start - timeline.audio_start, clip_sampler.SECONDS) if sound else None
        if part is not None and not audio.is_silent(part):
            samples[row], mels[row], has_audio[row] = part, log_mel(part), True
    return samples, mels, has_audio
