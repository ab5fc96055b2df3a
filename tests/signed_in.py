"""Who signs in to a service under test."""

from tests.serving import DATE

FAKE, REAL = "tests.signed_in_service:fake()", "tests.signed_in_service:real()"
SETTINGS: dict[str, str] = {}


def as_user(name: str) -> dict[str, str]:
    """Give the headers that somebody sends."""
    return {"x-test-user": name, "date": DATE}
