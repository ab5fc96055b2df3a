"""Download the model that MODEL_DOWNLOAD_ID names. Gunicorn's master imports this."""

import logging
from pathlib import Path

from api.settings import Settings
from moodreel.errors import MoodreelError

logger = logging.getLogger(__name__)


def download_model(settings: Settings) -> Path | None:
    """Return the checkpoint that MODEL_DOWNLOAD_ID names, downloading it unless it is there; None if MODEL_PATH is set.

    Raises:
        MoodreelError: It cannot be downloaded or loaded, and MODEL_FALLBACK is 0.
    """
    if not settings.model_download_id or settings.model_path:
        return None
    # Imported here: Gunicorn's master imports this module for its settings alone, before it sets the libraries up.
    from moodreel.models.download import download_checkpoint

    try:
        return download_checkpoint(settings.model_download_id, settings.model_store / "downloaded")
    except MoodreelError as error:
        if not settings.model_fallback:
            raise
        logger.error("%s MODEL_FALLBACK is 1: the shipped model answers.", error)
        return None
