"""Run stand-ins of Google Cloud Storage and S3 for the tests; `./init.sh test` installs them."""

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest
import requests

from tests.support.server import free_port


@contextmanager
def object_storages() -> Iterator[list[str]]:
    """Serve an empty bucket of each storage on this machine, and point the environment to them. Yields their URLs."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="gs:// needs gcp-storage-emulator")
    moto = pytest.importorskip("moto.server", reason="s3:// needs moto[server]")
    pytest.importorskip("gcsfs", reason="gs:// needs gcsfs")
    pytest.importorskip("s3fs", reason="s3:// needs s3fs")
    google_port, amazon_port = free_port(), free_port()
    google = emulator.create_server("127.0.0.1", google_port, in_memory=True, default_bucket="diary")
    amazon = moto.ThreadedMotoServer("127.0.0.1", amazon_port, verbose=False)
    google.start()
    amazon.start()
    requests.post(f"http://127.0.0.1:{amazon_port}/moto-api/reset", timeout=10)  # moto keeps buckets in the process
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{google_port}")
            patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # the emulator does not know it
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{amazon_port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "testing")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            for kind in ("gs", "s3"):
                fsspec.get_filesystem_class(kind).clear_instance_cache()  # those of an earlier stand-in
            fsspec.filesystem("s3").mkdir("diary")
            yield ["gs://diary", "s3://diary"]
    finally:
        amazon.stop()
        google.stop()
