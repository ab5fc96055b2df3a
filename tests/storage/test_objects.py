import stat
import threading
import time
import uuid
from pathlib import Path

import fsspec
import pytest

from moodreel.storage import objects
from moodreel.storage.objects import ObjectStorage, ObjectStorageError, new_key

DATA = bytes(range(256)) * 40


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStorage:
    return ObjectStorage(f"file://{tmp_path}/media" if request.param == "file" else f"memory://{uuid.uuid4().hex}")


def test_an_object_can_be_read_until_it_is_deleted(storage: ObjectStorage) -> None:
    key, other = new_key("ann", "loop.mp4"), new_key("ann", "loop.mp4")
    storage.put(key, DATA)
    storage.put(other, b"another")
    assert storage.get(key) == DATA
    storage.delete(key)
    assert storage.get(key) is None
    assert storage.get(other) == b"another"


def test_deleting_a_missing_object_succeeds(storage: ObjectStorage) -> None:
    storage.delete(new_key("ann", "loop.mp4"))


def test_keys_are_unique_and_contain_no_name(storage: ObjectStorage) -> None:
    keys = {new_key(user, "thumbnail.mp4") for user in ("ann@app.example", "bob") for _ in range(50)}
    assert len(keys) == 100
    assert len({key.partition("/")[0] for key in keys}) == 2
    assert all(key.endswith(".mp4") and "ann" not in key and "thumbnail" not in key for key in keys)


def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    ObjectStorage(f"file://{tmp_path}/a/b").put(new_key("ann", "loop.mp4"), DATA)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a" / "b").rglob("*")}
    assert sorted(modes.values()) == [0o600, 0o700]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_an_interrupted_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = ObjectStorage(f"file://{tmp_path}")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    key = new_key("ann", "loop.mp4")
    with pytest.raises(ObjectStorageError, match="No space left"):
        storage.put(key, DATA)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert storage.get(key) is None


def test_the_temporary_file_of_a_killed_write_is_deleted_with_its_key(tmp_path: Path) -> None:
    storage, key = ObjectStorage(f"file://{tmp_path}"), new_key("ann", "loop.mp4")
    path = tmp_path / key
    path.parent.mkdir()
    path.with_name(f".{path.name}.part").write_bytes(b"half")
    storage.delete(key)
    assert list(tmp_path.iterdir()) == []


def test_writes_succeed_while_another_thread_removes_empty_folders(tmp_path: Path) -> None:
    storage = ObjectStorage(f"file://{tmp_path}")
    failures: list[Exception] = []

    def write_read_delete() -> None:
        for _ in range(100):
            key = new_key("ann", "loop.mp4")
            try:
                storage.put(key, b"x")
                assert storage.get(key) == b"x"
                storage.delete(key)
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=write_read_delete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_disk_is_an_error_and_not_a_deletion(tmp_path: Path) -> None:
    storage, key = ObjectStorage(f"file://{tmp_path}/media"), new_key("ann", "loop.mp4")
    storage.put(key, DATA)
    (tmp_path / "media").rename(tmp_path / "unmounted")
    with pytest.raises(ObjectStorageError, match="cannot be emptied"):
        storage.delete(key)
    with pytest.raises(ObjectStorageError, match="cannot be written"):
        storage.put(key, DATA)
    (tmp_path / "unmounted").rename(tmp_path / "media")
    assert storage.get(key) == DATA


def test_a_hanging_storage_does_not_block_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "TIMEOUT_SECONDS", 0.05)
    storage, release = ObjectStorage("memory://slow"), threading.Event()

    class Slow:
        def get(self, _key: str) -> bytes:
            release.wait(30)
            return b""

    storage._backend = Slow()  # type: ignore[assignment]
    start = time.monotonic()
    with pytest.raises(ObjectStorageError, match="cannot be read"):
        storage.get("a/b")
    release.set()
    assert time.monotonic() - start < 25


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_the_error_of_a_missing_package_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch, scheme: str, package: str
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ImportError(f"No module named {package}")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(
        ObjectStorageError,
        match=rf"^MEDIA_STORAGE={scheme}://… needs {package}: pip install 'moodreel\[storage\]' "
        r"\(in a clone: pip install -r requirements-extras\.txt\)\.$",
    ):
        ObjectStorage(f"{scheme}://bucket/folder")


def test_a_folder_that_cannot_be_created_is_an_error_at_the_start() -> None:
    with pytest.raises(ObjectStorageError, match=r"^MEDIA_STORAGE=file://… cannot be opened"):
        ObjectStorage("file:///proc/nowhere")
