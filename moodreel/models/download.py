"""Download an EmotiMesh-Net checkpoint from Google Drive."""

import os
import re
from pathlib import Path

from moodreel.errors import ModelInvalid
from moodreel.models.face_registry import load_face_model


def download_checkpoint(drive_id: str, folder: Path) -> Path:
    """Return the checkpoint of a Drive id in `folder`; download it first if it is not there.

    The download has a temporary name until it has been loaded as a model, so that a partial file, or a web page that
    Google serves in its place, never becomes a model.

    Raises:
        ModelInvalid: The id is not valid, or the download failed or is not a model.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{10,128}", drive_id):
        raise ModelInvalid(
            "MODEL_DOWNLOAD_ID must be the id in a Google Drive link: letters, digits, - and _; check it."
        )
    checkpoint = folder / f"{drive_id}.pth"
    if checkpoint.exists():
        return checkpoint
    folder.mkdir(parents=True, exist_ok=True)
    # Several workers may start at once; each downloads to its own file.
    partial = folder / f"{drive_id}.{os.getpid()}.partial"
    try:
        _download(drive_id, partial)
        load_face_model(partial)
        partial.replace(checkpoint)
    finally:
        partial.unlink(missing_ok=True)
    return checkpoint


def _download(drive_id: str, path: Path) -> None:
    # Imported here: it takes a second, which only this download should cost.
    import gdown

    failure = (
        "The checkpoint could not be downloaded from Google Drive; check MODEL_DOWNLOAD_ID, that the file is shared "
        "with anyone who has the link, and the network, or download it by hand and set MODEL_PATH."
    )
    try:
        downloaded = gdown.download(id=drive_id, output=str(path), quiet=True)
    except Exception as error:  # gdown passes on errors of its own, of requests and of the file system
        raise ModelInvalid(failure) from error
    if downloaded is None or not path.exists():
        raise ModelInvalid(failure)
