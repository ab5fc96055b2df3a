"""The count of connections in Redis: for several machines that share the work.

One hash with a field for each process. Every time in it is the server's own, and what reads it is one script, so that
nobody sees a row half way and nobody's clock matters.
"""

from collections.abc import Mapping

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from moodreel.storage.presence import STALE_SECONDS, PresenceError, ProcessCount

KEY = "moodreel:connections"
TIMEOUT_SECONDS = 1.0
"""A server that doesn't answer holds up the thread that counts, and nobody who is connected, for so long."""

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
    """Rows in Redis. Nothing is connected before it is needed, and a connection that broke is made anew."""

    def __init__(self, url: str) -> None:
        """Raises PresenceError for a URL that cannot be one."""
        try:
            self._redis = Redis.from_url(
                url,
                socket_timeout=TIMEOUT_SECONDS,
                socket_connect_timeout=TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 1),
                decode_responses=True,
            )
        except ValueError as error:
            # Its own message may hold the URL, and that a password.
            raise PresenceError("REDIS_URL is none: it looks like redis://host:6379/0.") from error
        self._write = self._redis.register_script(_WRITE)
        self._read = self._redis.register_script(_READ)

    def write(self, name: str, held: ProcessCount) -> None:
        with _named_errors():
            self._write([KEY], [name, held.connections, held.changes, int(STALE_SECONDS * 1000)])

    def delete(self, name: str) -> None:
        with _named_errors():
            self._redis.hdel(KEY, name)

    def read(self) -> Mapping[str, ProcessCount]:
        with _named_errors():
            found = self._read([KEY], [int(STALE_SECONDS * 1000)])
        return {name: ProcessCount(int(connections), int(changes)) for name, connections, changes in found}


class _named_errors:  # noqa: N801 - reads as a statement
    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, RedisError | OSError):
            raise PresenceError(
                f"The Redis of REDIS_URL cannot be used: {error}. Start it, correct REDIS_URL, or leave that empty."
            ) from error
