"""/auth: who I am, what I used, a new token before the old one expires."""

from typing import Any

from flask import Response, g, jsonify

from api.auth.tokens import RenewedToken
from api.errors import ApiError
from api.openapi import GuardedBlueprint
from api.schemas.auth import ProfileSchema, RenewedTokenSchema, UsageQuery, UsageSchema
from api.services import services

blueprint = GuardedBlueprint("auth", __name__, description="Who calls, and what they used", dated=False)


@blueprint.route("/auth/profile", methods=["GET"])
@blueprint.response(200, ProfileSchema)
def profile() -> dict[str, Any]:
    """Tell who calls, as the service sees them."""
    token = g.caller.token
    if token is None:
        names = ("user_id", "subject", "issuer", "issued_at", "expires_at")
        said = {**dict.fromkeys(names), "kind": "api_key"}
    else:
        said = {**vars(token), "kind": "token"}
    return {**said, "id": g.caller.id, "roles": sorted(g.caller.roles)}


@blueprint.route("/auth/usage", methods=["GET"])
@blueprint.response(200, UsageSchema)
@blueprint.error_responses("invalid_request")
@blueprint.query(UsageQuery)
def usage(query: dict[str, Any]) -> dict[str, Any]:
    """Tell how many calls the caller made and how many minutes of video they had analysed, by day."""
    days = services().call_log.usage(g.caller.id, **query, exclude_id=g.row_id)
    return {
        "start_date": query["first"],
        "end_date": query["last"],
        "tz": query["zone"].key,
        "calls": sum(day.calls for day in days),
        "minutes": sum(day.minutes for day in days),
        "days": days,
    }


@blueprint.route("/auth/refresh-token", methods=["POST"])
@blueprint.response(200, RenewedTokenSchema)
def refresh_token() -> Response:
    """Give a new token of the same length for one of this service's own that has not expired yet.

    The time since signing in is limited (`SECURITY_MAX_AGE_SECONDS`), and no new token reaches beyond. A token that
    came in a cookie goes back into that cookie (HttpOnly, Secure, SameSite=Strict) and is not in the body.
    """
    if g.caller.token is None:
        raise ApiError("forbidden", "An API key needs no refreshing. Send the token to refresh.")
    renewed = services().token_verifier.renew(g.caller.token)
    if g.caller.cookie is None:
        return _answer(renewed.text, renewed)
    response = _answer(None, renewed)
    response.set_cookie(
        g.caller.cookie, renewed.text, expires=renewed.expires_at, httponly=True, secure=True, samesite="Strict"
    )
    return response


def _answer(text: str | None, renewed: RenewedToken) -> Response:
    return jsonify(RenewedTokenSchema().dump({"token": text, "expires_at": renewed.expires_at}))
