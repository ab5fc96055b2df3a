"""POST /auth/verify-token: whether a token is valid. It needs no API key: using the token would show the same."""

from flask import g, request

from api import request_parsing
from api.auth import authentication
from api.auth.token_verifiers import MAX_CHARACTERS, Token
from api.errors import ApiError
from api.openapi import SECURITY_SCHEMES, Blueprint
from api.schemas.auth import TokenSchema, VerifiedTokenSchema
from api.services import services

MAX_BYTES = 2 * MAX_CHARACTERS
"""Limit of the body. Anybody may send one."""

blueprint = Blueprint("tokens", __name__, description="Validation of tokens")


@blueprint.route("/auth/verify-token", methods=["POST"])
@blueprint.doc(
    operationId="verifyToken",
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
)
def verify_token() -> dict[str, object]:
    """Return the claims of a valid token, from the Authorization header, else the body, else a cookie."""
    return vars(_token())


def _token() -> Token:
    in_body = _token_in_body() if request_parsing.has_body() else None
    if authentication.bearer_token(request) is None and in_body is not None:
        return services().token_verifier.verify(in_body)
    if g.auth_error:
        raise g.auth_error
    if g.caller is None or g.caller.token is None:
        raise ApiError(
            "unauthorized",
            'Send the token as Authorization: Bearer, as {"token": "…"} or as the cookie access_token.',
            headers={"WWW-Authenticate": 'Bearer realm="moodreel"'},
        )
    authentication.require_same_origin()
    token: Token = g.caller.token
    return token


def _token_in_body() -> str:
    request.max_content_length = MAX_BYTES
    token: str = TokenSchema().load(request_parsing.read_json('{"token": "…"}'))["token"]
    return token
