"""Count the open connections in Redis, for several machines that share the work.

One hash with a field per process. All times are those of the Redis server, and one script reads the hash: nobody sees
a row half written, and no machine's clock matters.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from moodreel.storage.presence import STALE_SECONDS, PresenceError, ProcessCount

KEY = "moodreel:connections"
TIMEOUT_SECONDS = 1.0
"""Timeout of a Redis call. It blocks the thread that counts, and no connection."""

_NOW = "local time = redis.call('TIME'); local now = time[1] * 1000 + math.floor(time[2] / 1000)"
_WRITE = f"""{_NOW}
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[4] * 10)
"""
_READ = f"""{_NOW}
local found, counting = redis.call('HGETALL', KEYS[1]), {{}}
for index = 1, #found, 2 do
  local connections, changes, beat = found[index + 1]:match('^(%d+) (%d+) (%d+)$')
  if beat and now - beat < tonumber(ARGV[1]) then
    counting[#counting + 1] = {{found[index], connections, changes}}
  else
    redis.call('HDEL', KEYS[1], found[index])
  end
end
return counting
"""


class RedisPresenceStore:
    """Rows in Redis. It connects at first use, and again after a lost connection."""

    def __init__(self, url: str) -> None:
        """Parse the URL. Raises PresenceError if it is malformed."""
        try:
            self._redis = Redis.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 1),
                decode_responses=True,
            )
        except ValueError as error:
            # The library's message may contain the URL with its password.
            raise PresenceError("REDIS_URL is malformed. Write it like redis://host:6379/0.") from error
        self._write = self._redis.register_script(_WRITE)
        self._read = self._redis.register_script(_READ)

    def write(self, name: str, count: ProcessCount) -> None:
        """Insert or update a row; it expires when it is stale."""
        with _translate_errors():
            self._write([KEY], [name, count.connections, count.changes, int(STALE_SECONDS * 1000)])

    def delete(self, name: str) -> None:
        """Delete a row."""
        with _translate_errors():
            self._redis.hdel(KEY, name)

    def read(self) -> Mapping[str, ProcessCount]:
        """Read the rows that are not stale, and delete the others."""
        with _translate_errors():
            rows = self._read([KEY], [int(STALE_SECONDS * 1000)])
        return {name: ProcessCount(int(connections), int(changes)) for name, connections, changes in rows}


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        reason = str(error).rstrip(".")
        raise PresenceError(
            f"The Redis of REDIS_URL cannot be used: {reason}. Start it, correct REDIS_URL, or leave that empty."
        ) from error
