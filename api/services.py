"""What views share, made once a process: the settings, what analyses clips, pictures and texts, the log."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flask import Flask, current_app

from api.auth.tokens import Accounts
from api.limits import Places
from api.settings import Settings, SettingsError
from api.websocket.broadcaster import Audience
from api.websocket.gunicorn_socket import Farewell, Seats
from moodreel.errors import MoodreelError
from moodreel.storage.call_log import CallLog
from moodreel.storage.history import History
from moodreel.storage.objects import ObjectStorage
from moodreel.storage.presence import Presence, PresenceError, SqlitePresenceStore

if TYPE_CHECKING:  # These load torch; Gunicorn's master imports this module and must not.
    from moodreel.live.scheduler import FrameScheduler
    from moodreel.media.video import VideoLimits
    from moodreel.pipelines.audiovisual import AudioVisualPipeline
    from moodreel.pipelines.image import ImagePipeline
    from moodreel.pipelines.text import TextPipeline
    from moodreel.pipelines.video import VideoPipeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Services:
    settings: Settings
    analyser: "VideoPipeline"
    detector: "ImagePipeline"
    words: "TextPipeline"
    viewer: "AudioVisualPipeline"
    call_log: CallLog
    accounts: Accounts
    places: Places
    seats: Seats
    farewell: Farewell
    audience: Audience
    desk: "FrameScheduler"
    history: History | None = None


def attach(
    app: Flask, settings: Settings, analyser: Any = None, detector: Any = None, words: Any = None, viewer: Any = None
) -> None:
    """Make what the views share; this loads the models.

    Raises:
        MoodreelError: a model, the log or the history is unusable.
        SettingsError: the keys of OIDC_JWKS are, or REDIS_URL is.
    """
    accounts, call_log, history = Accounts.from_settings(settings), CallLog(settings.log_path), open_history(settings)
    analyser = analyser or load_analyser(settings)
    detector = detector or load_detector(settings, analyser)
    words = words or load_words(settings)
    viewer = viewer or load_viewer(settings, analyser)
    app.extensions["moodreel"] = Services(
        settings=settings,
        analyser=analyser,
        detector=detector,
        words=words,
        viewer=viewer,
        call_log=call_log,
        accounts=accounts,
        places=Places(settings.threads, settings.max_wait_seconds),
        seats=Seats(settings.max_sockets, settings.max_sockets_per_user),
        farewell=Farewell(),
        audience=Audience(open_presence(settings)),
        desk=load_desk(settings, analyser),
        history=history,
    )


def services() -> Services:
    """Give what this process shares."""
    return current_app.extensions["moodreel"]


def open_history(settings: Settings) -> History | None:
    """Open what signed-in users keep, and their media; None where HISTORY is off. Raises MoodreelError."""
    if not settings.history:
        return None
    storage = ObjectStorage(settings.media_storage) if settings.media_storage else None
    return History(settings.history_path, storage)


def open_presence(settings: Settings) -> Presence:
    """Set up the count of connections over all processes. Raises SettingsError for a REDIS_URL that is none."""
    if not settings.redis_url:
        return Presence(SqlitePresenceStore(settings.presence_path))
    # Imported here: few need it.
    from moodreel.storage.presence_redis import RedisPresenceStore

    try:
        return Presence(RedisPresenceStore(settings.redis_url))
    except PresenceError as error:
        raise SettingsError(str(error)) from error


def load_analyser(settings: Settings) -> "VideoPipeline":
    """Load the models as the settings say. Raises MoodreelError."""
    # Imported here: Gunicorn's master imports this package for its settings, and must not import torch and MediaPipe
    # before it forks.
    import torch

    from moodreel.pipelines.video import VideoPipeline

    # The workers share the cores; threads inside one would only wait for each other.
    torch.set_num_threads(1)
    return VideoPipeline.load(
        settings.model_store,
        model_path=settings.model_path or fetch_model(settings),
        model_fallback=settings.model_fallback,
        use_gpu=settings.use_gpu,
        limits=clip_limits(settings),
        sample_rate=settings.analysis_fps,
        slots=settings.analyses_at_once,
        wait_seconds=settings.max_wait_seconds,
    )


def clip_limits(settings: Settings) -> "VideoLimits":
    """Give what one clip may cost."""
    from moodreel.media.video import VideoLimits

    return VideoLimits(
        seconds=settings.max_seconds,
        frames=settings.max_frames,
        frame_pixels=settings.max_frame_pixels,
        total_pixels=settings.max_total_pixels,
        timeout_seconds=settings.max_wall_seconds,
    )


def load_viewer(settings: Settings, analyser: "VideoPipeline") -> "AudioVisualPipeline":
    """Make what looks at clips and listens to them, in the turns of `analyser`. Raises MoodreelError."""
    from moodreel.pipelines.audiovisual import AudioVisualPipeline

    return AudioVisualPipeline.load(
        settings.model_store,
        analyser,
        checkpoint=settings.checkpoint_path,
        model_fallback=settings.model_fallback,
        noncommercial=settings.noncommercial_models,
        mock=settings.emo_mock,
        use_gpu=settings.use_gpu,
        limits=clip_limits(settings),
    )


def load_detector(settings: Settings, analyser: "VideoPipeline") -> "ImagePipeline":
    """Make what reads pictures, with the models and the turns of `analyser`."""
    from moodreel.media.image import ImageLimits
    from moodreel.pipelines.image import ImagePipeline

    return ImagePipeline(analyser, ImageLimits(bytes=settings.max_image_bytes, pixels=settings.max_image_pixels))


def load_words(settings: Settings) -> "TextPipeline":
    """Make what reads texts, with models of its own. Raises MoodreelError."""
    from moodreel.pipelines.text import TextPipeline

    return TextPipeline.load(
        settings.model_store,
        model_path=settings.text_model_path,
        model_fallback=settings.model_fallback,
        use_gpu=settings.use_gpu,
        longest=settings.max_text_characters,
        wait_seconds=settings.max_wait_seconds,
    )


def load_desk(settings: Settings, analyser: "VideoPipeline") -> "FrameScheduler":
    """Make what looks at the frames of live videos, with the models of `analyser`. Its threads start when needed."""
    from moodreel.live.scheduler import FrameScheduler
    from moodreel.media.image import ImageLimits

    limits = ImageLimits(bytes=settings.max_live_frame_bytes, pixels=settings.max_frame_pixels)
    return FrameScheduler(analyser, limits, threads=settings.analyses_at_once)


def fetch_model(settings: Settings) -> Path | None:
    """Give the checkpoint that MODEL_DOWNLOAD_ID names, fetching it unless it is here. Raises MoodreelError."""
    if not settings.model_download_id or settings.model_path:
        return None
    from moodreel.models.download import fetch

    try:
        return fetch(settings.model_download_id, settings.model_store / "downloaded")
    except MoodreelError as error:
        if not settings.model_fallback:
            raise
        log.error("%s MODEL_FALLBACK is 1: the shipped model answers.", error)
        return None
