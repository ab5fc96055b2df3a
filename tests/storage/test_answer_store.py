"""The store of answers: who may answer, how long and how many are kept, and over several processes."""

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from moodreel.storage import answer_store
from moodreel.storage.answer_store import Answer, AnswerStore, AnswerStoreError, KeyInUse, KeyReused
from tests.storage.conftest import Clock
from tests.support.server import wait_until

ANSWER = Answer(200, [("Content-Type", "application/json"), ("x-history-id", "1")], b'{"emotion": "Happy"}')

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux has /proc")


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> AnswerStore:
    return AnswerStore(tmp_path / "answers.db", seconds=60, call_seconds=100)


def rows(store: AnswerStore) -> int:
    with store._database.read() as db:
        return int(db.execute("select count(*) from answers").fetchone()[0])


def test_the_first_claims_a_key_and_the_next_gets_its_answer(store: AnswerStore) -> None:
    assert store.claim("key", "request") is None
    with pytest.raises(KeyInUse):
        store.claim("key", "request")
    store.put("key", ANSWER)
    assert store.claim("key", "request") == ANSWER
    with pytest.raises(KeyReused):
        store.claim("key", "another request")
    assert store.claim("another key", "request") is None


def test_another_request_with_a_key_in_use_is_told_that_first(store: AnswerStore) -> None:
    store.claim("key", "request")
    with pytest.raises(KeyReused):
        store.claim("key", "another request")


def test_a_released_key_can_be_claimed_again(store: AnswerStore) -> None:
    store.claim("key", "request")
    store.release("key")
    assert store.claim("key", "another request") is None


def test_an_answer_is_kept_for_its_time_only(store: AnswerStore, clock: Clock) -> None:
    store.claim("key", "request")
    clock.now += 50
    store.put("key", ANSWER)
    clock.now += 59
    assert store.claim("key", "request") == ANSWER
    clock.now += 2
    assert store.claim("key", "another request") is None


def test_a_call_that_never_ended_gives_its_key_back(store: AnswerStore, clock: Clock) -> None:
    store.claim("key", "request")
    clock.now += 99
    with pytest.raises(KeyInUse):
        store.claim("key", "request")
    clock.now += 2
    assert store.claim("key", "request") is None


def test_what_is_left_from_before_a_restart_of_the_machine_is_forgotten(store: AnswerStore, clock: Clock) -> None:
    store.claim("key", "request")
    clock.now -= 500  # the monotonic clock starts again
    assert store.claim("key", "request") is None


def test_old_answers_are_deleted_without_a_further_call(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path / "answers.db", seconds=0.2, call_seconds=100)
    store.claim("key", "request")
    store.put("key", ANSWER)
    assert rows(store) == 1
    wait_until(lambda: rows(store) == 0, seconds=10)


def test_an_answer_that_is_too_large_is_not_kept(store: AnswerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_store, "MAX_ANSWER_BYTES", 10)
    store.claim("key", "request")
    store.put("key", ANSWER)
    assert store.claim("key", "request") is None


@pytest.mark.parametrize(("limit", "value"), [("MAX_ROWS", 2), ("MAX_BYTES", 2 * len(ANSWER.body))])
def test_the_oldest_of_too_many_are_deleted(
    store: AnswerStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(answer_store, limit, value)
    store.claim("in flight", "request")
    for key in "abcd":
        clock.now += 1
        store.claim(key, "request")
        store.put(key, ANSWER)
    assert rows(store) == 3
    assert store.claim("d", "request") == store.claim("c", "request") == ANSWER
    assert store.claim("b", "request") is None
    with pytest.raises(KeyInUse):
        store.claim("in flight", "request")


def _claim(path: Path, results: "multiprocessing.Queue[str]", end: Event) -> None:
    store = AnswerStore(path, seconds=60, call_seconds=100)
    try:
        results.put("claimed" if store.claim("key", "request") is None else "answered")
    except KeyInUse:
        results.put("in use")
    end.wait(60)


@LINUX
def test_of_several_processes_one_claims_a_key_until_it_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    results: multiprocessing.Queue[str] = context.Queue()
    end = context.Event()
    arguments = (tmp_path / "answers.db", results, end)
    processes = [context.Process(target=_claim, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=60) for _ in processes) == ["claimed", "in use", "in use", "in use"]
    store = AnswerStore(tmp_path / "answers.db", seconds=60, call_seconds=100)
    with pytest.raises(KeyInUse):
        store.claim("key", "request")
    for process in processes:
        process.kill()
        process.join(60)
    assert store.claim("key", "request") is None
    with pytest.raises(KeyInUse):
        store.claim("key", "request")


@LINUX
@pytest.mark.parametrize(("namespace", "dead"), [("own", True), ("pid:[1]", False)])
def test_a_process_that_got_the_id_of_the_claimant_does_not_hold_its_claim(
    store: AnswerStore, namespace: str, dead: bool
) -> None:
    own, pid, _ = str(store._worker).split()
    claimant = f"{own if namespace == 'own' else namespace} {pid} 1"
    assert store._has_died(claimant) is dead


def test_a_file_that_cannot_be_used_is_an_error_for_operators(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnswerStoreError, match="IDEMPOTENCY_PATH"):
        AnswerStore(tmp_path / "file" / "answers.db", seconds=60, call_seconds=100)
