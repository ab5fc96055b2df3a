"""POST /auth/verify-token: whether a token is good. Open: it tells nobody more than they could find out by using it."""

from typing import Any

from flask import g, request

from api.auth import authentication
from api.auth.tokens import MAX_CHARACTERS, Token
from api.errors import ApiError
from api.middleware import request_body
from api.openapi import SECURITY_SCHEMES, Blueprint
from api.schemas.auth import TokenSchema, VerifiedTokenSchema
from api.services import services

MAX_BYTES = 2 * MAX_CHARACTERS
"""Of a body, which anybody may send."""

blueprint = Blueprint("tokens", __name__, description="Whether a token is good")


@blueprint.route("/auth/verify-token", methods=["POST"])
@blueprint.doc(
    security=[{}, *({name: []} for name in SECURITY_SCHEMES if name != "api_key")],
    requestBody={"required": False, "content": {"application/json": {"schema": TokenSchema}}},
)
@blueprint.response(200, VerifiedTokenSchema)
@blueprint.error_responses(
    "bad_json",
    "unauthorized",
    "invalid_token",
    "token_expired",
    "forbidden",
    "too_large",
    "unsupported_media",
    "invalid_request",
    "internal",
    "keys_unavailable",
    "overloaded",
)
def verify_token() -> dict[str, Any]:
    """Tell what a token says, if it is good: that of the Authorization header, else of the body, else of a cookie."""
    return vars(_token())


def _token() -> Token:
    if authentication.bearer_token(request) is None and (
        request.content_length or "Transfer-Encoding" in request.headers
    ):
        return services().token_verifier.verify(_text_in_body())
    if g.auth_error:
        raise g.auth_error
    if g.caller is None or g.caller.token is None:
        raise ApiError(
            "unauthorized",
            'Send the token as Authorization: Bearer, as {"token": "…"} or as the cookie access_token.',
            headers={"WWW-Authenticate": 'Bearer realm="moodreel"'},
        )
    authentication.require_same_origin()
    return g.caller.token


def _text_in_body() -> str:
    request.max_content_length = MAX_BYTES
    return TokenSchema().load(request_body.read_json('{"token": "…"}'))["token"]
