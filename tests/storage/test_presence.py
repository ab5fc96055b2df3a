"""The count of connections of several processes, in a file and in a real Redis."""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from moodreel.storage import presence, presence_redis
from moodreel.storage.presence import (
    HEARTBEAT_SECONDS,
    STALE_SECONDS,
    Presence,
    PresenceError,
    ProcessCount,
    SqlitePresenceStore,
)
from moodreel.storage.presence_redis import RedisPresenceStore
from tests.storage.conftest import Clock
from tests.support.redis_server import RedisServer

Member = Callable[[], Presence]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(params=["SQLite", "Redis"])
def member(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Member]:
    """A function that makes the presence of one more process; all share one store."""
    if request.param == "SQLite":
        yield lambda: Presence(SqlitePresenceStore(tmp_path / "data" / "presence.db"))
        return
    server = request.getfixturevalue("redis")
    yield lambda: Presence(RedisPresenceStore(server.url))
    RedisPresenceStore(server.url)._redis.flushall()


def total(counts: Mapping[str, ProcessCount]) -> int:
    return sum(count.connections for count in counts.values())


def test_the_count_covers_all_processes(member: Member) -> None:
    one, other = member(), member()
    assert total(one.heartbeat(ProcessCount(3, 3))) == 3
    assert total(other.heartbeat(ProcessCount(2, 2))) == 5
    assert total(one.heartbeat(ProcessCount(4, 4))) == 6
    assert (one.count_others(), other.count_others()) == (2, 4)


def test_a_connect_and_a_simultaneous_disconnect_change_the_counts(member: Member) -> None:
    one, other = member(), member()
    one.heartbeat(ProcessCount(3, 3))
    before = other.heartbeat(ProcessCount(1, 1))
    assert other.heartbeat(ProcessCount(1, 1)) == before
    one.heartbeat(ProcessCount(3, 5))
    assert other.heartbeat(ProcessCount(1, 1)) != before


def test_a_process_without_connections_has_no_row(member: Member) -> None:
    one, other = member(), member()
    one.heartbeat(ProcessCount(3, 3))
    assert one.heartbeat(ProcessCount(0, 6)) == {}
    assert other.count_others() == 0
    assert total(one.heartbeat(ProcessCount(1, 7))) == 1


def test_a_new_process_reads_recently_written_rows(member: Member) -> None:
    for _ in range(3):
        member().heartbeat(ProcessCount(5, 5))
    assert member().count_others() == 15


def test_a_stale_row_is_not_counted_and_is_deleted(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "presence.db"
    stopped, running = (Presence(SqlitePresenceStore(path)) for _ in range(2))
    stopped.heartbeat(ProcessCount(3, 3))
    running.heartbeat(ProcessCount(1, 1))
    for _ in range(int(STALE_SECONDS / HEARTBEAT_SECONDS)):
        clock.now += HEARTBEAT_SECONDS
        assert total(running.heartbeat(ProcessCount(1, 1))) == 4
    clock.now += HEARTBEAT_SECONDS
    assert total(running.heartbeat(ProcessCount(1, 1))) == 1
    with SqlitePresenceStore(path)._database.read() as db:
        assert db["processes"].count == 1
    assert total(stopped.heartbeat(ProcessCount(3, 3))) == 4


def test_a_row_is_written_when_it_changes_and_at_every_heartbeat(tmp_path: Path, clock: Clock) -> None:
    written = []

    class Counting(SqlitePresenceStore):
        def write(self, name: str, count: ProcessCount) -> None:
            written.append(clock.now)
            super().write(name, count)

    presence = Presence(Counting(tmp_path / "presence.db"))
    for count in (ProcessCount(1, 1), ProcessCount(1, 1), ProcessCount(2, 2)):
        presence.heartbeat(count)
    assert written == [1000, 1000]
    for _ in range(12):
        clock.now += HEARTBEAT_SECONDS / 4
        presence.heartbeat(ProcessCount(2, 2))
    assert written == [1000, 1000, 1001, 1002, 1003]


def test_rows_of_an_earlier_boot_are_not_counted(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "presence.db"
    clock.now = 9_999_999
    Presence(SqlitePresenceStore(path)).heartbeat(ProcessCount(7, 7))
    clock.now = 1000
    monkeypatch.setattr(presence, "_read_boot_id", lambda: "second boot")
    assert total(Presence(SqlitePresenceStore(path)).heartbeat(ProcessCount(1, 1))) == 1


def test_a_stale_row_in_redis_is_not_counted_and_is_deleted(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presence_redis, "STALE_SECONDS", 0.5)
    stopped, running = Presence(RedisPresenceStore(redis.url)), Presence(RedisPresenceStore(redis.url))
    stopped.heartbeat(ProcessCount(3, 3))
    assert running.count_others() == 3
    deadline = time.monotonic() + 30
    while running.count_others():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert RedisPresenceStore(redis.url)._redis.hlen(presence_redis.KEY) == 0


def test_foreign_data_under_the_redis_key_is_ignored(redis: RedisServer) -> None:
    rows = RedisPresenceStore(redis.url)
    rows._redis.hset(presence_redis.KEY, "unknown", "not a row")
    assert total(Presence(rows).heartbeat(ProcessCount(2, 2))) == 2


def test_an_unavailable_redis_is_an_error_and_is_used_again_when_it_is_back(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as redis:
        presence = Presence(RedisPresenceStore(redis.url))
        presence.heartbeat(ProcessCount(1, 1))
        redis.stop()
        with pytest.raises(PresenceError, match="The Redis of REDIS_URL cannot be used"):
            presence.count_others()
        redis.start()
        # It stored nothing: the next heartbeat writes the row again.
        time.sleep(HEARTBEAT_SECONDS)
        assert total(presence.heartbeat(ProcessCount(1, 1))) == 1


def test_the_error_message_contains_no_password(tmp_path: Path) -> None:
    for url in ("redis://:secret@127.0.0.1:1/0", "redis://:secret@127.0.0.1:port/0"):
        with pytest.raises(PresenceError) as raised:
            Presence(RedisPresenceStore(url)).count_others()
        assert "secret" not in str(raised.value)


def test_an_unusable_file_is_an_error_and_is_retried(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "presence.db"
    path.parent.write_text("a file instead of the folder")
    presence = Presence(SqlitePresenceStore(path))
    with pytest.raises(PresenceError, match="PRESENCE_PATH"):
        presence.heartbeat(ProcessCount(1, 1))
    path.parent.unlink()
    assert total(presence.heartbeat(ProcessCount(1, 1))) == 1


def _change_counts(path: Path) -> None:
    presence = Presence(SqlitePresenceStore(path))
    for changes in range(1, 101):
        presence.heartbeat(ProcessCount(1 + changes % 5, changes))
    presence.heartbeat(ProcessCount(0, 101))


def test_concurrent_processes_may_write(tmp_path: Path) -> None:
    path = tmp_path / "presence.db"
    processes = [multiprocessing.get_context("fork").Process(target=_change_counts, args=(path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert Presence(SqlitePresenceStore(path)).count_others() == 0
