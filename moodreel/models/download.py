"""Fetch an EmotiMesh-Net checkpoint from Google Drive, all of it or nothing."""

import os
import re
from pathlib import Path

from moodreel.errors import ModelInvalid
from moodreel.models.face_registry import load_face_model


def download_checkpoint(drive_id: str, folder: Path) -> Path:
    """Return the checkpoint of that Drive id in `folder`, downloading it unless it is there already.

    The download goes to a temporary name and is renamed only once it has loaded as a model: one that broke off, or a
    page that Google serves in place of the file, never becomes a model. Raises ModelInvalid saying what to do.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{10,128}", drive_id):
        raise ModelInvalid("MODEL_DOWNLOAD_ID is the id in a Google Drive link, letters, digits, - and _; check it.")
    checkpoint = folder / f"{drive_id}.pth"
    if checkpoint.exists():
        return checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    # Several workers may start at once, each with a download of its own.
    partial = folder / f"{drive_id}.{os.getpid()}.partial"
    try:
        _download(drive_id, partial)
        load_face_model(partial)
        partial.replace(checkpoint)
    finally:
        partial.unlink(missing_ok=True)
    return checkpoint


def _download(drive_id: str, path: Path) -> None:
    # Imported here: it costs every start a second that only this download needs.
    import gdown

    failure = (
        "The checkpoint could not be downloaded from Google Drive; check MODEL_DOWNLOAD_ID, that the file is shared "
        "with anyone who has the link, and the network, or download it by hand and set MODEL_PATH."
    )
    try:
        downloaded = gdown.download(id=drive_id, output=str(path), quiet=True)
    except Exception as error:  # gdown lets through errors of its own, of requests and of the file system
        raise ModelInvalid(failure) from error
    if downloaded is None or not path.exists():
        raise ModelInvalid(failure)
