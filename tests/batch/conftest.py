"""Folders in which batches read and write: on disk, in Google Cloud Storage and in S3."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.object_storage import object_storages


@pytest.fixture(scope="package")
def buckets() -> Iterator[dict[str, str]]:
    with object_storages() as urls:
        yield {url.partition(":")[0]: url for url in urls}


@pytest.fixture(params=["file", "gs", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new folder of each kind."""
    if request.param == "file":
        return f"file://{tmp_path}"
    return f"{request.getfixturevalue('buckets')[request.param]}/{tmp_path.name}"
