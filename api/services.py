"""The objects that all requests of a worker process share. `api.bootstrap` builds them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Flask, current_app

from api.auth.token_verifiers import TokenVerifier
from api.call_log_writer import CallLogWriter
from api.companion.companion import Companion
from api.limits import ConcurrencyLimiter, ConnectionLimiter
from api.settings import Settings
from api.shutdown import ShutdownHooks
from api.websocket.broadcaster import ConnectionBroadcaster
from moodreel.live.scheduler import FrameScheduler
from moodreel.pipelines.audiovisual import AudioVisualPipeline
from moodreel.pipelines.engine import Engine
from moodreel.pipelines.image import ImagePipeline
from moodreel.pipelines.image_or_video import ImageOrVideoPipeline
from moodreel.pipelines.text import TextPipeline
from moodreel.pipelines.video import VideoPipeline
from moodreel.storage.answer_store import AnswerStore
from moodreel.storage.call_log import CallLog
from moodreel.storage.history import History

if TYPE_CHECKING:
    from api.jobs import JobRunner
    from api.tracing import Tracing

_EXTENSION = "moodreel"


@dataclass(frozen=True)
class Services:
    """The service container, one per process.

    Attributes:
        engine: The models, threads and slots that the pipelines share.
        frame_scheduler: Runs the frames of live sessions.
        concurrency_limiter: Bounds the requests whose bodies are in memory.
        connection_limiter: Bounds long-lived connections.
        shutdown_hooks: Run when the worker is stopped.
        connections: The open WebSockets, and their count over all processes.
        history: The users' histories; None if HISTORY is off.
        answers: The answers to calls with an Idempotency-Key; None if none are kept.
        jobs: Runs the calls that are answered later; None if JOBS is off.
        companion: Asks a question about a journal entry; None if LLM_BASE_URL is not set.
        tracing: Sends traces; None if OTEL_EXPORTER_OTLP_ENDPOINT is not set.
    """

    settings: Settings
    engine: Engine
    video_pipeline: VideoPipeline
    image_pipeline: ImagePipeline
    image_or_video_pipeline: ImageOrVideoPipeline
    text_pipeline: TextPipeline
    audiovisual_pipeline: AudioVisualPipeline
    frame_scheduler: FrameScheduler
    call_log: CallLog
    call_log_writer: CallLogWriter
    token_verifier: TokenVerifier
    concurrency_limiter: ConcurrencyLimiter
    connection_limiter: ConnectionLimiter
    shutdown_hooks: ShutdownHooks
    connections: ConnectionBroadcaster
    history: History | None = None
    answers: AnswerStore | None = None
    jobs: "JobRunner | None" = None
    companion: Companion | None = None
    tracing: "Tracing | None" = None


def init_app(app: Flask, container: Services) -> None:
    """Attach the services to an app."""
    app.extensions[_EXTENSION] = container


def services(app: Flask | None = None) -> Services:
    """Return the services of `app`, or of the current app."""
    container: Services = (app or current_app).extensions[_EXTENSION]
    return container
