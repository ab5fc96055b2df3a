"""Define the errors of a batch."""

from moodreel.errors import MoodreelError


class BatchError(MoodreelError):
    """Report why a batch cannot run or go on. The message is for the person who started it."""


class SourceUnreadable(MoodreelError):
    """Report a file that its storage did not return."""

    code = "source_unreadable"


class WorkerCrashed(MoodreelError):
    """Report a file whose analysis ended the process of its worker."""

    code = "worker_crashed"
