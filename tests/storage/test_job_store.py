"""Jobs: who may claim, answer, read and delete them, how many wait, and what is left of what was sent."""

import json
import multiprocessing
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from moodreel.storage.job_store import (
    LEASE_SECONDS,
    MAX_ATTEMPTS,
    WEBHOOK_DELAYS,
    Job,
    JobState,
    JobStore,
    TooManyJobs,
    Webhook,
)
from tests.storage.conftest import Clock

CALL = {"path": "/predict"}
SENT = b"a video \0 of somebody"


@pytest.fixture
def store(location: Path | str, clock: Clock) -> Iterator[JobStore]:
    store = JobStore(location, keep_seconds=100, max_jobs=3, max_bytes=1000)
    yield store
    store.close()


def add(store: JobStore, owner: str = "ann", body: bytes = SENT, webhook: str | None = None) -> str:
    return store.add(owner, CALL, body, webhook)


def claim(store: JobStore) -> Job:
    job = store.claim()
    assert job is not None
    return job


def test_a_job_waits_runs_and_is_done(store: JobStore, clock: Clock) -> None:
    id_ = add(store)
    assert store.get("ann", id_) == JobState("waiting", 1000.0, None, None)
    job = claim(store)
    assert (job.id, json.loads(job.call), job.body, job.attempts) == (id_, CALL, SENT, 1)
    assert store.get("ann", id_) == JobState("running", 1000.0, None, None)
    assert store.claim() is None
    assert store.finish(job, 200, '{"emotion": "Happy"}')
    assert store.get("ann", id_) == JobState("done", 1000.0, 200, '{"emotion": "Happy"}')
    clock.now += 101
    assert store.get("ann", id_) is None
    store.prune()
    clock.now -= 101
    assert store.get("ann", id_) is None


def test_another_caller_finds_no_job_and_deletes_none(store: JobStore) -> None:
    id_ = add(store)
    assert store.get("bob", id_) is None
    assert not store.delete("bob", id_)
    assert store.get("ann", id_) is not None


def test_the_first_job_is_claimed_first(store: JobStore, clock: Clock) -> None:
    ids = []
    for _ in range(3):
        ids.append(add(store))
        clock.now += 1
    assert [claim(store).id for _ in ids] == ids


def test_a_job_whose_worker_died_is_claimed_again_and_only_the_new_worker_may_answer(
    store: JobStore, clock: Clock
) -> None:
    add(store)
    dead = claim(store)
    clock.now += LEASE_SECONDS - 1
    assert store.renew(dead)
    clock.now += LEASE_SECONDS - 1
    assert store.claim() is None
    clock.now += 2
    again = claim(store)
    assert (again.id, again.attempts) == (dead.id, 2)
    assert not store.renew(dead)
    assert not store.finish(dead, 200, "{}")
    store.release(dead)
    assert store.finish(again, 200, "{}")


def test_a_released_job_is_claimed_again_and_the_attempt_does_not_count(store: JobStore, clock: Clock) -> None:
    add(store)
    for _ in range(MAX_ATTEMPTS + 1):
        job = claim(store)
        assert job.attempts == 1
        store.release(job, 5)
        assert store.claim() is None
        clock.now += 6


def test_a_deleted_job_gets_no_answer(store: JobStore) -> None:
    id_ = add(store)
    job = claim(store)
    assert store.delete("ann", id_)
    assert not store.renew(job)
    assert not store.finish(job, 200, "{}")
    assert store.get("ann", id_) is None


def test_the_number_and_the_bytes_of_open_jobs_are_bounded(store: JobStore) -> None:
    with pytest.raises(TooManyJobs):
        add(store, body=bytes(1001))
    for _ in range(3):
        add(store, body=bytes(100))
    with pytest.raises(TooManyJobs):
        add(store)
    store.finish(claim(store), 200, "{}")
    with pytest.raises(TooManyJobs):
        add(store, body=bytes(801))
    add(store, body=bytes(800))


def test_what_was_sent_is_erased_when_the_job_ends(tmp_path: Path) -> None:
    path = tmp_path / "data" / "jobs.db"
    store = JobStore(path, keep_seconds=100, max_jobs=3, max_bytes=100_000)
    video = b"a-unique-frame" * 1000
    ends = (lambda: store.finish(claim(store), 200, "{}"), lambda: store.delete("ann", id_))
    for end in ends:
        id_ = add(store, body=video)
        assert b"unique" in b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert {stat.S_IMODE(file.stat().st_mode) for file in (path.parent, *path.parent.iterdir())} == {0o700, 0o600}
        end()
        assert b"unique" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_a_webhook_is_due_until_it_has_answered_or_was_tried_often_enough(store: JobStore, clock: Clock) -> None:
    add(store, webhook="https://example.com/hook")
    assert store.claim_webhook() is None
    job = claim(store)
    store.finish(job, 200, "{}")
    for delay in WEBHOOK_DELAYS:
        assert store.claim_webhook() == Webhook(job.id, job.call, "https://example.com/hook", 200)
        assert store.claim_webhook() is None
        clock.now += delay
    assert store.claim_webhook() is not None
    clock.now += 10_000
    assert store.claim_webhook() is None
    add(store, webhook="https://example.com/hook")
    store.finish(answered := claim(store), 422, "{}")
    assert store.claim_webhook() == Webhook(answered.id, answered.call, "https://example.com/hook", 422)
    store.end_webhook(answered.id)
    clock.now += 10_000
    assert store.claim_webhook() is None


def test_a_clock_that_was_set_back_delays_nothing_and_keeps_no_answer_longer(store: JobStore, clock: Clock) -> None:
    clock.now += 7200
    running, done = add(store), add(store, webhook="https://example.com/hook")
    claim(store)
    store.finish(claim(store), 200, "{}")
    assert store.claim_webhook() is not None
    waiting = add(store)
    clock.now -= 7200
    assert {claim(store).id, claim(store).id} == {running, waiting}, "nobody renews a claim from then"
    assert store.claim() is None
    store.prune()
    clock.now += WEBHOOK_DELAYS[-1]
    assert store.claim_webhook() == Webhook(done, json.dumps(CALL), "https://example.com/hook", 200)
    store.prune()
    assert store.get("ann", done) is None
    assert store.get("ann", running) == JobState("running", 1000.0, None, None)


def _claim_all(location: Path | str, claimed: "multiprocessing.SimpleQueue[str]") -> None:
    store = JobStore(location, keep_seconds=100, max_jobs=100, max_bytes=100_000)
    while job := store.claim():
        store.finish(job, 200, "{}")
        claimed.put(job.id)
    store.close()


def test_each_job_is_claimed_by_one_of_several_processes(location: Path | str) -> None:
    store = JobStore(location, keep_seconds=100, max_jobs=100, max_bytes=100_000)
    ids = {add(store, body=b"clip") for _ in range(40)}
    store.close()
    fork = multiprocessing.get_context("fork")
    claimed = fork.SimpleQueue()
    processes = [fork.Process(target=_claim_all, args=(location, claimed)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 3
    received = []
    while not claimed.empty():
        received.append(claimed.get())
    assert sorted(received) == sorted(ids)
