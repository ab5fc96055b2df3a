"""Whether a page of our own makes a call: a browser adds its cookies to whatever any page sends here.

Sources: OWASP's Cross-Site Request Forgery Prevention Cheat Sheet, W3C Fetch Metadata, RFC 6454.
"""

from collections.abc import Iterable

from werkzeug.wrappers import Request

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_PORTS = {"https": ":443", "http": ":80"}


def is_same_origin(request: Request, allowed_origins: Iterable[str]) -> bool:
    """Tell it from what the browser says, and no page can forge; a call that says nothing is none of ours.

    listed: origins that count as ours; `*` is none.
    """
    origin, site = request.headers.get("Origin", ""), request.headers.get("Sec-Fetch-Site")
    if origin != "*" and origin in allowed_origins:
        return True
    if site is not None:
        # `none`: the person did it and not a page, by the address bar or a bookmark.
        return site in ("same-origin", "none")
    return _is_here(origin, request)


def _is_here(origin: str, request: Request) -> bool:
    """Compare host and port only: behind a proxy with TLS the page's scheme is https where ours is http."""
    scheme, separator, host = origin.lower().partition("://")
    if not separator or scheme not in ("https", request.scheme):
        return False
    here = request.headers.get("Host", "").lower()
    return bool(host) and host.removesuffix(_PORTS[scheme]) == here.removesuffix(_PORTS[scheme])
