"""Call a webhook when a job ends, signed as Standard Webhooks say (https://www.standardwebhooks.com).

A URL comes from a caller, so it could aim at what only this machine can reach. Its host must be one that the operator
lists. The connection goes to the address that was checked, which must be a public one unless it is listed, and no
redirect is followed. The message says which job ended, never what was in it.
"""

import base64
import hashlib
import hmac
import http.client
import ipaddress
import json
import logging
import socket
import ssl
import threading
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from urllib.parse import SplitResult, urlsplit

from api.errors import ApiError
from moodreel.storage.job_store import JobStore, Webhook

HEADER = "x-webhook-url"
SOCKET_SECONDS = 5.0
"""How long to wait for a connection, and for each part of the answer."""
TOTAL_SECONDS = 15.0
"""How long one call of a webhook may take in all."""
MAX_URL_LENGTH = 500

_GONE = 410
_TRACE_HEADERS = ("traceparent", "tracestate")
_LOCAL = ("localhost", "127.0.0.1", "::1")

logger = logging.getLogger(__name__)


class WebhookSender:
    """Call webhooks on the hosts that the operator lists.

    Args:
        hosts: Names of hosts, addresses, and networks such as 10.0.0.0/8.
        secret: Key of the signatures.
    """

    def __init__(self, hosts: tuple[str, ...], secret: bytes) -> None:
        self._names = {host.lower() for host in hosts}
        self._secret = secret
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for host in hosts:
            with suppress(ValueError):
                self._networks.append(ipaddress.ip_network(host))
        if "localhost" in self._names:
            self._networks += [ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128")]

    def check(self, url: str) -> None:
        """Check the URL that a caller sent. Raises ApiError."""
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            parts, host = SplitResult("", "", "", "", ""), None
        if len(url) > MAX_URL_LENGTH:
            raise ApiError("bad_header", f"{HEADER} has {len(url)} characters; at most {MAX_URL_LENGTH} are allowed.")
        if not url.isascii() or not url.isprintable() or " " in url or parts.username:
            host = None
        if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOCAL)):
            raise ApiError("bad_header", f"{HEADER} must be the address of a webhook, and begin with https://.")
        if host not in self._names and not self._is_listed(host):
            raise ApiError("bad_header", f"This service may not call the host in {HEADER}. Ask its operator.")

    def call_next(self, store: JobStore) -> bool:
        """Call the webhook that has been due for the longest. Returns False if none is due. Raises JobStoreError."""
        webhook = store.claim_webhook()
        if webhook is None:
            return False
        try:
            status = self._post(webhook)
        except (ApiError, OSError, http.client.HTTPException, ValueError) as error:
            logger.warning("the webhook of job %s was not called: %r", webhook.job, error)
            return True
        if 200 <= status < 300 or status == _GONE:
            store.end_webhook(webhook.job)
        else:
            logger.warning("the webhook of job %s answered %d", webhook.job, status)
        return True

    def sign(self, message_id: str, timestamp: int, body: bytes) -> str:
        """Return the signature of a message, as its receiver verifies it."""
        signed = f"{message_id}.{timestamp}.".encode() + body
        return "v1," + base64.b64encode(hmac.new(self._secret, signed, hashlib.sha256).digest()).decode()

    def _post(self, webhook: Webhook) -> int:
        self.check(webhook.url)  # the operator may have changed the list
        status = "failed" if webhook.answer_status >= 400 else "done"
        data = {"id": webhook.job, "status": status, "answer_status": webhook.answer_status}
        message = {"type": "job.finished", "timestamp": datetime.now(UTC).isoformat(), "data": data}
        body, now = json.dumps(message).encode(), int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "moodreel",
            "webhook-id": webhook.job,
            "webhook-timestamp": str(now),
            "webhook-signature": self.sign(webhook.job, now, body),
        }
        call = json.loads(webhook.call)["headers"]
        headers |= {name: call[name] for name in _TRACE_HEADERS if name in call}
        parts = urlsplit(webhook.url)
        with closing(self._connect(parts)) as connection:
            # A server that sends a byte now and then would hold the thread forever.
            timer = threading.Timer(TOTAL_SECONDS, _shut_down, [connection])
            timer.daemon = True
            timer.start()
            try:
                connection.request(
                    "POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers
                )
                return connection.getresponse().status
            finally:
                timer.cancel()

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        """Connect to an address that was checked. Raises OSError."""
        host, is_https = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if is_https else 80)
        # The first address of each family: a name, such as localhost, may have one of IPv6 where only IPv4 is served.
        by_family: dict[int, str] = {}
        for family, _, _, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            address = by_family.setdefault(family, str(target[0]))
            if not (ipaddress.ip_address(address).is_global or self._is_listed(address)):
                raise OSError(f"{host} has the private address {address}, which WEBHOOK_HOSTS does not list")
        sock = _connect_to_first([*by_family.values()], port)
        if not is_https:
            connection = http.client.HTTPConnection(host, port, timeout=SOCKET_SECONDS)
        else:
            connection = http.client.HTTPSConnection(host, port, timeout=SOCKET_SECONDS)
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        connection.sock = sock
        return connection

    def _is_listed(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def _connect_to_first(addresses: list[str], port: int) -> socket.socket:
    """Connect to the first address that accepts. Raises OSError."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return socket.create_connection((address, port), SOCKET_SECONDS)
    return socket.create_connection((addresses[-1], port), SOCKET_SECONDS)


def _shut_down(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)
