"""The store of analyses: how long, how many, and over several processes."""

import multiprocessing
import random
from pathlib import Path

import pytest

from moodreel.storage import analysis_store
from moodreel.storage.analysis_store import AnalysisStore, AnalysisStoreError
from tests.storage.conftest import Clock


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> AnalysisStore:
    return AnalysisStore(tmp_path / "data" / "analyses.db", seconds=60)


def test_a_value_is_kept_for_its_time_only(store: AnalysisStore, clock: Clock) -> None:
    store.put("a", "one")
    assert (store.get("a"), store.get("b")) == ("one", None)
    clock.now += 59
    assert store.get("a") == "one"
    clock.now += 2
    assert store.get("a") is None
    clock.now -= 500  # the machine was restarted, and its monotonic clock starts again
    assert store.get("a") is None
    store.put("c", "three")
    clock.now += 500
    assert store.get("a") is None, "it was deleted"


def test_a_newer_value_replaces_an_older_one_and_its_age(store: AnalysisStore, clock: Clock) -> None:
    store.put("a", "one")
    clock.now += 50
    store.put("a", "two")
    clock.now += 50
    assert store.get("a") == "two"


def test_old_values_are_deleted_from_the_file(store: AnalysisStore, clock: Clock, tmp_path: Path) -> None:
    store.put("a", "a word that is easy to find")
    clock.now += 61
    store.put("b", "another")
    with store._database.read() as db:
        assert db.execute("select count(*) from analyses").fetchone() == (1,)


def test_the_oldest_of_too_many_are_deleted(
    store: AnalysisStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis_store, "MAX_ROWS", 3)
    for name in "abcde":
        clock.now += 1
        store.put(name, name)
    assert [store.get(name) for name in "abcde"] == [None, None, "c", "d", "e"]


def test_a_value_that_is_too_large_is_not_kept(store: AnalysisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analysis_store, "MAX_VALUE_BYTES", 200)
    store.put("a", "x" * 10_000)
    store.put("b", random.Random(5).randbytes(500).hex())
    assert (store.get("a"), store.get("b")) == ("x" * 10_000, None), "what counts is the compressed size"


def _put(path: Path, name: str) -> None:
    AnalysisStore(path, seconds=60).put(name, name)


def test_processes_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "analyses.db"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_put, args=(path, name)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    store = AnalysisStore(path, seconds=60)
    assert [store.get(name) for name in "ab"] == ["a", "b"]


def test_a_prefix_keeps_analyses_apart(store: AnalysisStore, tmp_path: Path) -> None:
    other = AnalysisStore(tmp_path / "data" / "analyses.db", seconds=60, prefix="other settings ")
    store.put("a", "one")
    assert (store.get("a"), other.get("a")) == ("one", None)


def test_a_file_that_cannot_be_used_is_told_to_the_operator(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnalysisStoreError, match="ANALYSIS_CACHE_PATH"):
        AnalysisStore(tmp_path / "file" / "analyses.db", seconds=60)
