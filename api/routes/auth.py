"""/auth: the profile, the usage and the token of the caller."""

from flask import Response, g, jsonify

from api.auth.token_verifiers import RenewedToken
from api.errors import ApiError
from api.openapi import GuardedBlueprint
from api.schemas.auth import ProfileSchema, RenewedTokenSchema, UsageQuery, UsageSchema
from api.schemas.fields import LoadedData
from api.services import services

blueprint = GuardedBlueprint("auth", __name__, description="The caller's profile, usage and token", dated=False)


@blueprint.route("/auth/profile", methods=["GET"])
@blueprint.doc(operationId="getProfile")
@blueprint.response(200, ProfileSchema)
def profile() -> dict[str, object]:
    """Return who is calling."""
    token = g.caller.token
    if token is None:
        names = ("user_id", "subject", "issuer", "issued_at", "expires_at")
        fields = {**dict.fromkeys(names), "kind": "api_key"}
    else:
        fields = {**vars(token), "kind": "token"}
    return {**fields, "id": g.caller.id, "roles": sorted(g.caller.roles)}


@blueprint.route("/auth/usage", methods=["GET"])
@blueprint.doc(operationId="getUsage")
@blueprint.response(200, UsageSchema)
@blueprint.error_responses("invalid_request")
@blueprint.query(UsageQuery)
def usage(query: LoadedData) -> dict[str, object]:
    """Return the calls of the caller and the minutes of video they had analyzed, by day."""
    days = services().call_log.usage(g.caller.id, **query, exclude_id=g.call.id)
    return {
        "start_date": query["first"],
        "end_date": query["last"],
        "tz": query["zone"].key,
        "calls": sum(day.calls for day in days),
        "minutes": sum(day.minutes for day in days),
        "days": days,
    }


@blueprint.route("/auth/refresh-token", methods=["POST"])
@blueprint.doc(operationId="refreshToken")
@blueprint.response(200, RenewedTokenSchema)
def refresh_token() -> Response:
    """Replace a token that this service signed, before it expires, by a new one of the same lifetime.

    No new token is valid beyond `SECURITY_MAX_AGE_SECONDS` after the user signed in. A token that was sent in a cookie
    is returned in that cookie (HttpOnly, Secure, SameSite=Strict) and not in the body.
    """
    if g.caller.token is None:
        raise ApiError("forbidden", "An API key does not expire. Send the token to refresh.")
    renewed = services().token_verifier.renew(g.caller.token)
    if g.caller.cookie is None:
        return _to_response(renewed.text, renewed)
    response = _to_response(None, renewed)
    response.set_cookie(
        g.caller.cookie, renewed.text, expires=renewed.expires_at, httponly=True, secure=True, samesite="Strict"
    )
    return response


def _to_response(text: str | None, renewed: RenewedToken) -> Response:
    return jsonify(RenewedTokenSchema().dump({"token": text, "expires_at": renewed.expires_at}))
