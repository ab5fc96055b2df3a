"""Detect cross-site requests: a browser adds the cookies of this service to requests from any page.

Sources: OWASP's Cross-Site Request Forgery Prevention Cheat Sheet, W3C Fetch Metadata, RFC 6454.
"""

from collections.abc import Iterable

from werkzeug.wrappers import Request

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_PORTS = {"https": ":443", "http": ":80"}


def is_same_origin(request: Request, allowed_origins: Iterable[str]) -> bool:
    """Return whether a page of this service, or of an allowed origin (`*` allows none), makes the request.

    It decides by headers that browsers set and no page can forge. A request without them is not of the same origin.
    """
    origin, site = request.headers.get("Origin", ""), request.headers.get("Sec-Fetch-Site")
    if origin != "*" and origin in allowed_origins:
        return True
    if site is not None:
        # `none`: the user did it and not a page, with the address bar or a bookmark.
        return site in ("same-origin", "none")
    return _has_same_host(origin, request)


def _has_same_host(origin: str, request: Request) -> bool:
    """Compare host and port only: behind a TLS proxy the scheme of the page is https, and that of the request http."""
    scheme, separator, host = origin.lower().partition("://")
    if not separator or scheme not in ("https", request.scheme):
        return False
    own_host = request.headers.get("Host", "").lower()
    return bool(host) and host.removesuffix(_PORTS[scheme]) == own_host.removesuffix(_PORTS[scheme])
