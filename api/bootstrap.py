"""Build the services from the settings. This loads the models."""

from typing import TYPE_CHECKING, TypedDict, Unpack

import torch

from api.auth.token_verifiers import TokenVerifier
from api.call_log_writer import CallLogWriter
from api.companion.companion import Companion
from api.jobs import JobRunner
from api.limits import ConcurrencyLimiter, ConnectionLimiter
from api.model_download import download_model
from api.services import Services
from api.settings import Settings, SettingsError
from api.shutdown import ShutdownHooks
from api.webhooks import WebhookSender
from api.websocket.broadcaster import ConnectionBroadcaster
from moodreel.live.scheduler import FrameScheduler
from moodreel.media.image import ImageLimits
from moodreel.media.video_decoder import VideoLimits
from moodreel.pipelines.audiovisual import AudioVisualPipeline
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.image import ImagePipeline
from moodreel.pipelines.image_or_video import ImageOrVideoPipeline
from moodreel.pipelines.text import TextPipeline
from moodreel.pipelines.video import VideoPipeline
from moodreel.storage.analysis_store import AnalysisStore
from moodreel.storage.answer_store import AnswerStore
from moodreel.storage.call_log import CallLog
from moodreel.storage.history import History
from moodreel.storage.job_store import JobStore
from moodreel.storage.objects import ObjectStorage
from moodreel.storage.presence import Presence, PresenceError, SqlitePresenceStore

if TYPE_CHECKING:
    from api.tracing import Tracing


class ReadyPipelines(TypedDict, total=False):
    """The engine and the pipelines that a caller has made already."""

    engine: Engine
    video_pipeline: VideoPipeline
    image_pipeline: ImagePipeline
    image_or_video_pipeline: ImageOrVideoPipeline
    text_pipeline: TextPipeline
    audiovisual_pipeline: AudioVisualPipeline


def build_services(settings: Settings, **ready: Unpack[ReadyPipelines]) -> Services:
    """Build the services. Pipelines in `ready` are used as they are; the others load their models.

    Raises:
        MoodreelError: A model, the call log or the history is unusable.
        SettingsError: The keys of OIDC_JWKS are unusable, REDIS_URL is malformed, or LLM_BASE_URL or
            OTEL_EXPORTER_OTLP_ENDPOINT lacks a package.
    """
    # The cheap parts come first: a bad setting is reported before seconds of loading.
    tracing = open_tracing(settings)
    token_verifier, companion = TokenVerifier.from_settings(settings), Companion.from_settings(settings)
    call_log, history = CallLog(settings.log_database_url or settings.log_path, serving=True), open_history(settings)
    analyses = open_analyses(settings)
    engine = ready.get("engine") or load_engine(settings)
    video_pipeline = ready.get("video_pipeline") or VideoPipeline(
        engine, limits=video_limits(settings), analysis_fps=settings.analysis_fps, cache=analyses
    )
    image_limits = ImageLimits(bytes=settings.max_image_bytes, pixels=settings.max_image_pixels)
    frame_limits = ImageLimits(bytes=settings.max_live_frame_bytes, pixels=settings.max_frame_pixels)
    image_pipeline = ready.get("image_pipeline") or ImagePipeline(engine, image_limits)
    return Services(
        settings=settings,
        engine=engine,
        video_pipeline=video_pipeline,
        image_pipeline=image_pipeline,
        image_or_video_pipeline=ready.get("image_or_video_pipeline")
        or ImageOrVideoPipeline(image_pipeline, video_pipeline),
        text_pipeline=ready.get("text_pipeline") or load_text_pipeline(settings),
        audiovisual_pipeline=ready.get("audiovisual_pipeline") or load_audiovisual_pipeline(settings, engine),
        frame_scheduler=FrameScheduler(engine, frame_limits, threads=settings.analyses_at_once),
        call_log=call_log,
        call_log_writer=CallLogWriter(call_log),
        token_verifier=token_verifier,
        concurrency_limiter=ConcurrencyLimiter(settings.threads, settings.max_wait_seconds),
        connection_limiter=ConnectionLimiter(settings.max_sockets, settings.max_sockets_per_user),
        shutdown_hooks=ShutdownHooks(),
        connections=ConnectionBroadcaster(open_presence(settings)),
        history=history,
        answers=open_answers(settings),
        jobs=open_jobs(settings),
        companion=companion,
        tracing=tracing,
    )


def open_tracing(settings: Settings) -> "Tracing | None":
    """Start to send traces; None if no collector is named. Raises SettingsError.

    Without the extra `otel`, or with a variable that the SDK does not accept, it does not start.
    """
    if not settings.otel_exporter_otlp_endpoint and not settings.otel_exporter_otlp_traces_endpoint:
        return None
    # Imported here because OpenTelemetry is optional and slow to import.
    try:
        from api.tracing import Tracing

        return Tracing()
    except ImportError as error:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT needs OpenTelemetry: pip install -r requirements-extras.txt."
        ) from error
    except ValueError as error:
        raise SettingsError(f"OpenTelemetry does not accept its variables: {error}") from error


def open_history(settings: Settings) -> History | None:
    """Open the users' histories and their media; None if HISTORY is off. Raises MoodreelError."""
    if not settings.history:
        return None
    storage = ObjectStorage(settings.media_storage) if settings.media_storage else None
    return History(settings.history_database_url or settings.log_database_url or settings.history_path, storage)


def open_analyses(settings: Settings) -> AnalysisStore | None:
    """Open the cache of analyses; None if it is off, or no file is named. Raises MoodreelError."""
    if not settings.analysis_cache_seconds or not settings.analysis_cache_path:
        return None
    names = ("prior", "analysis_fps", "max_seconds", "max_frames", "max_frame_pixels", "max_total_pixels")
    prefix = f"{[getattr(settings, name) for name in names]} "
    return AnalysisStore(settings.analysis_cache_path, seconds=settings.analysis_cache_seconds, prefix=prefix)


def open_answers(settings: Settings) -> AnswerStore | None:
    """Open the store of answers to calls with an Idempotency-Key; None if it is off. Raises MoodreelError."""
    if not settings.idempotency_seconds or not settings.idempotency_path:
        return None
    call_seconds = 2 * settings.max_wait_seconds + settings.max_wall_seconds + 60
    return AnswerStore(settings.idempotency_path, seconds=settings.idempotency_seconds, call_seconds=call_seconds)


def open_jobs(settings: Settings) -> JobRunner | None:
    """Open the runner of calls that are answered later; None if JOBS is off. Raises MoodreelError."""
    if not settings.jobs:
        return None
    store = JobStore(
        settings.history_database_url or settings.log_database_url or settings.jobs_path,
        keep_seconds=settings.jobs_retention_seconds,
        max_jobs=settings.max_jobs,
        max_bytes=settings.max_jobs_bytes,
    )
    secret = settings.webhook_secret
    return JobRunner(store, WebhookSender(settings.webhook_hosts, secret) if secret else None)


def open_presence(settings: Settings) -> Presence:
    """Open the count of connections over all processes. Raises SettingsError for a malformed REDIS_URL."""
    if not settings.redis_url:
        return Presence(SqlitePresenceStore(settings.presence_path))
    # Imported here because the redis package is optional and slow to import.
    from moodreel.storage.presence_redis import RedisPresenceStore

    try:
        return Presence(RedisPresenceStore(settings.redis_url))
    except PresenceError as error:
        raise SettingsError(str(error)) from error


def load_engine(settings: Settings) -> Engine:
    """Load the face models and the landmarker. Raises MoodreelError."""
    # The workers share the cores; several torch threads in each would only wait for each other.
    torch.set_num_threads(1)
    return Engine.load(
        settings.model_store,
        model_path=settings.model_path or download_model(settings),
        model_fallback=settings.model_fallback,
        use_gpu=settings.use_gpu,
        prior=settings.prior,
        slots=settings.analyses_at_once,
        wait_seconds=settings.max_wait_seconds,
    )


def load_text_pipeline(settings: Settings) -> TextPipeline:
    """Load the text models. Raises MoodreelError."""
    return TextPipeline.load(
        settings.model_store,
        model_path=settings.text_model_path,
        model_fallback=settings.model_fallback,
        use_gpu=settings.use_gpu,
        max_characters=settings.max_text_characters,
        wait_seconds=settings.max_wait_seconds,
    )


def load_audiovisual_pipeline(settings: Settings, engine: Engine) -> AudioVisualPipeline:
    """Load the audio-visual models. Raises MoodreelError."""
    return AudioVisualPipeline.load(
        settings.model_store,
        engine,
        checkpoint=settings.checkpoint_path,
        model_fallback=settings.model_fallback,
        noncommercial=settings.noncommercial_models,
        mock=settings.emo_mock,
        use_gpu=settings.use_gpu,
        limits=video_limits(settings),
    )


def video_limits(settings: Settings) -> VideoLimits:
    """Return the limits of one clip."""
    return VideoLimits(
        seconds=settings.max_seconds,
        frames=settings.max_frames,
        frame_pixels=settings.max_frame_pixels,
        total_pixels=settings.max_total_pixels,
        timeout_seconds=settings.max_wall_seconds,
    )
