"""Keep calls that are answered later: what was sent, until it is analyzed, and the answer for an hour.

- A job holds the body of its call, such as a video. It is deleted in the transaction that writes the answer.
- A worker claims a job for `LEASE_SECONDS` and renews that while it works. If the worker dies, another one claims it,
  `MAX_ATTEMPTS` times in all: a clip that kills workers is not analyzed forever.
- Only the worker that holds the claim may write the answer. A job that was deleted meanwhile gets no answer.
- The file of SQLite is readable by its owner only (0600), and deleted rows are overwritten.
"""

import json
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from moodreel.storage.connect import open_database
from moodreel.storage.database import Connection, StorageError, StoreDefinition

LEASE_SECONDS = 15.0
MAX_ATTEMPTS = 3
WAITING, RUNNING, DONE = "waiting", "running", "done"
WEBHOOK_DELAYS = (5.0, 30.0, 120.0, 600.0)
"""Seconds from one attempt to call a webhook to the next; after the last there is none."""


class JobStoreError(StorageError):
    """The jobs cannot be read or written. The message tells operators what to do."""


class TooManyJobs(Exception):
    """No further job is taken: too many jobs, or too many bytes of them, wait already."""


@dataclass(frozen=True)
class Job:
    """A claimed job.

    Attributes:
        id: Random, so that it reveals nothing.
        call: What is needed to answer it, as JSON: path, headers, caller. No credentials.
        body: What was sent.
        attempts: How often it was claimed, this time included.
        claim: Proves that the worker still has it.
    """

    id: str
    call: str
    body: bytes
    attempts: int
    claim: str


@dataclass(frozen=True)
class JobState:
    """The state of a job, as its caller may see it. It has an answer, as JSON, once it is `DONE`.

    Attributes:
        status: `WAITING`, `RUNNING` or `DONE`.
        created: Seconds since the epoch.
    """

    status: str
    created: float
    answer_status: int | None
    answer: str | None


@dataclass(frozen=True)
class Webhook:
    """A webhook to call: its job, what was stored of its call, its URL and the status of the answer."""

    job: str
    call: str
    url: str
    answer_status: int


def m001_jobs(db: Connection) -> None:
    """Create the table of jobs."""
    db.execute("""
        create table jobs (
            id text primary key, owner text not null, created double precision not null, status text not null,
            call text not null, body blob, size bigint not null, claim text, lease double precision not null,
            attempts bigint not null, finished double precision, answer_status bigint, answer text,
            webhook text, webhook_due double precision, webhook_attempts bigint not null
        )
    """)
    db.execute("create index idx_jobs_open on jobs (created) where status <> 'done'")
    db.execute("create index idx_jobs_finished on jobs (finished) where finished is not null")
    db.execute("create index idx_jobs_webhook_due on jobs (webhook_due) where webhook_due is not null")


DEFINITION = StoreDefinition(
    "jobs",
    "jobs",
    JobStoreError,
    (m001_jobs,),
    file_setting="JOBS_PATH",
    url_setting="HISTORY_DATABASE_URL",
    secret=True,
)


class JobStore:
    """The jobs of all workers. Make one after a fork, never before. Every method raises JobStoreError.

    Args:
        location: A file, or the URL of a PostgreSQL database.
        keep_seconds: How long an answer is kept.
        max_jobs: Jobs that wait or run at the same time.
        max_bytes: Bytes of their bodies.
    """

    def __init__(self, location: Path | str, *, keep_seconds: float, max_jobs: int, max_bytes: int) -> None:
        """Open the jobs; a server that does not answer now may answer later."""
        self._keep_seconds = keep_seconds
        self._max_jobs = max_jobs
        self._max_bytes = max_bytes
        self._database = open_database(location, DEFINITION)

    def add(self, owner: str, call: Mapping[str, object], body: bytes, webhook: str | None = None) -> str:
        """Add a job. Returns its id. Raises TooManyJobs.

        Args:
            owner: Who alone may read and delete it.
            call: What is needed to answer it, without credentials.
            body: What was sent.
            webhook: URL to call when it is done.
        """
        job: dict[str, object] = {"id": secrets.token_hex(16), "owner": owner, "created": time.time()}
        job |= {"call": json.dumps(call), "body": body, "size": len(body), "webhook": webhook}
        with self._database.write() as db:
            self._database.lock(db, "add")
            waiting = "select count(*), coalesce(sum(size), 0) from jobs where status <> 'done'"
            [(count, size)] = db.execute(waiting).fetchall()
            if count >= self._max_jobs or size + len(body) > self._max_bytes:
                raise TooManyJobs
            db.execute(
                "insert into jobs (id, owner, created, status, call, body, size, webhook, lease, attempts,"
                " webhook_attempts) values (:id, :owner, :created, 'waiting', :call, :body, :size, :webhook, 0, 0, 0)",
                job,
            )
        return str(job["id"])

    def claim(self) -> Job | None:
        """Claim the job that has waited for the longest time; None if none waits."""
        now = time.time()
        arguments: dict[str, object] = {"now": now, "lease": now + LEASE_SECONDS, "claim": secrets.token_hex(16)}
        # A claim that lasts for longer is from before the clock was set back. Clocks of machines differ a little.
        arguments["latest"] = now + 2 * LEASE_SECONDS
        with self._database.write() as db:
            sql = (
                "update jobs set status = 'running', attempts = attempts + 1, lease = :lease, claim = :claim"
                " where id = (select id from jobs where status <> 'done' and (lease < :now or lease > :latest)"
                f" order by created limit 1{self._database.skip_locked}) returning id, call, body, attempts, claim"
            )
            rows = db.execute(sql, arguments).fetchall()
        return Job(rows[0][0], rows[0][1], bytes(rows[0][2]), rows[0][3], rows[0][4]) if rows else None

    def renew(self, job: Job) -> bool:
        """Keep a job claimed. Returns False if it was deleted, or is another worker's."""
        renewed: dict[str, object] = {"id": job.id, "claim": job.claim, "lease": time.time() + LEASE_SECONDS}
        with self._database.write() as db:
            sql = "update jobs set lease = :lease where id = :id and claim = :claim"
            return bool(db.execute(sql, renewed).rowcount)

    def release(self, job: Job, seconds: float = 0.0) -> None:
        """Let a job that was not answered be claimed again after some seconds; the attempt does not count."""
        released: dict[str, object] = {"id": job.id, "claim": job.claim, "lease": time.time() + seconds}
        with self._database.write() as db:
            sql = "update jobs set status = 'waiting', claim = null, lease = :lease, attempts = attempts - 1"
            db.execute(f"{sql} where id = :id and claim = :claim", released)

    def finish(self, job: Job, status: int, answer: str) -> bool:
        """Write the answer and delete what was sent. Returns False if the job was deleted, or is another worker's."""
        now = time.time()
        done: dict[str, object] = {"id": job.id, "claim": job.claim, "now": now, "status": status, "answer": answer}
        with self._database.write() as db:
            sql = (
                "update jobs set status = 'done', finished = :now, answer_status = :status, answer = :answer,"
                " body = null, claim = null, webhook_due = case when webhook is null then null else :now end"
                " where id = :id and claim = :claim"
            )
            finished = bool(db.execute(sql, done).rowcount)
        self._erase()
        return finished

    def get(self, owner: str, job_id: str) -> JobState | None:
        """Return the state of a caller's job; None if there is none, or its answer has expired."""
        arguments: dict[str, object] = {"owner": owner, "id": job_id, "oldest": time.time() - self._keep_seconds}
        with self._database.read() as db:
            sql = (
                "select status, created, answer_status, answer from jobs where id = :id and owner = :owner"
                " and (finished is null or finished >= :oldest)"
            )
            row = db.execute(sql, arguments).fetchone()
        return JobState(*row) if row else None

    def delete(self, owner: str, job_id: str) -> bool:
        """Delete a caller's job with what was sent and its answer; returns False if there is none."""
        with self._database.write() as db:
            sql = "delete from jobs where id = :id and owner = :owner"
            deleted = bool(db.execute(sql, {"id": job_id, "owner": owner}).rowcount)
        self._erase()
        return deleted

    def prune(self) -> None:
        """Delete the jobs whose answers have expired, and correct times if the clock was set back."""
        now = time.time()
        with self._database.write() as db:
            for column, latest in (("finished", now), ("webhook_due", now + WEBHOOK_DELAYS[-1])):
                db.execute(f"update jobs set {column} = :latest where {column} > :latest", {"latest": latest})
            db.execute("update jobs set created = :now where created > :now and status <> 'done'", {"now": now})
            oldest: dict[str, object] = {"oldest": now - self._keep_seconds}
            deleted = db.execute("delete from jobs where finished < :oldest", oldest).rowcount
        if deleted:
            self._erase()

    def claim_webhook(self) -> Webhook | None:
        """Claim a webhook that is due; None if none is. It is due again later, unless `end_webhook` is called."""
        now = time.time()
        with self._database.write() as db:
            due = (
                "select id, call, webhook, answer_status, webhook_attempts from jobs where webhook_due <= :now"
                f" order by webhook_due limit 1{self._database.skip_locked}"
            )
            row = db.execute(due, {"now": now}).fetchone()
            if row is None:
                return None
            later = now + WEBHOOK_DELAYS[row[4]] if row[4] < len(WEBHOOK_DELAYS) else None
            sql = "update jobs set webhook_due = :later, webhook_attempts = webhook_attempts + 1 where id = :id"
            db.execute(sql, {"later": later, "id": row[0]})
        return Webhook(*row[:4])

    def end_webhook(self, job_id: str) -> None:
        """Stop calling a webhook: it has answered."""
        with self._database.write() as db:
            db.execute("update jobs set webhook_due = null where id = :id", {"id": job_id})

    def close(self) -> None:
        """Close the idle connections."""
        self._database.close()

    def _erase(self) -> None:
        # The row is deleted even if the journal cannot be emptied; the next deletion empties it.
        with suppress(JobStoreError):
            self._database.erase_deleted()
