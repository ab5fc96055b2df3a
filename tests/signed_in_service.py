"""The fake service with a way to sign in by name."""

from api import security
from tests.fake_service import app

__all__ = ["app"]


def _by_name(request):  # type: ignore[no-untyped-def]
    name = request.headers.get("x-test-user")
    return security.Caller(f"user-{name}", user=name) if name else None


security._WAYS = (*security._WAYS, _by_name)
