"""Credentials that a client sends in a message: browsers cannot set headers of a WebSocket's handshake."""

from flask import Request
from marshmallow import ValidationError

from api.errors import ApiError
from api.middleware import request_body
from api.schemas.live import CredentialsSchema


def with_credentials(handshake: Request, auth: object) -> Request:
    """Return a request with the credentials in its headers, where authentication looks for them.

    Args:
        handshake: The handshake; it is returned as it is without credentials.
        auth: `{"token": …}` or `{"api_key": …}`, as the client sent it.

    Raises:
        ApiError: `unauthorized`, if `auth` does not have credentials.
    """
    if not auth:
        return handshake
    try:
        credentials = CredentialsSchema().load(auth)  # type: ignore[arg-type]  # it rejects what is not an object
    except ValidationError as error:
        raise ApiError("unauthorized", 'Send {"token": "…"} or {"api_key": "…"} to connect.') from error
    prefixes = ("wsgi.", "SERVER_", "REQUEST_")
    environ = {name: value for name, value in handshake.environ.items() if name.startswith(prefixes)}
    if credentials.get("token"):
        environ["HTTP_AUTHORIZATION"] = f"Bearer {credentials['token']}"
    if credentials.get("api_key"):
        # WSGI decodes headers as Latin-1. A key with half a surrogate pair, which JSON allows, matches no key.
        environ["HTTP_X_API_KEY"] = credentials["api_key"].encode(errors="replace").decode("latin-1")
    return request_body.Request({**environ, "PATH_INFO": "/"})
