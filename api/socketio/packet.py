"""Socket.IO's packets, read so that no client can make one that hurts.

Of what is garbled or larger in number than anything here needs, a packet becomes the event `GARBLED`, which the
namespace answers like any other mistake.
"""

from typing import Any

import socketio

NAMESPACE = "/emotion-detection"
GARBLED = "garbled"
MAX_JSON_PUNCTUATION = 500
"""Commas and brackets of one packet: each may become an object of its own. Base64 has none."""


class Packet(socketio.packet.Packet):
    """A packet with an event's name and at most one piece of binary data."""

    def decode(self, encoded_packet: Any) -> int:
        """Read a packet; give how many pieces of binary data follow it."""
        try:
            return self._decode(encoded_packet)
        except Exception:
            self.packet_type, self.namespace, self.id = socketio.packet.EVENT, NAMESPACE, None
            self.data = [GARBLED]
            return 0

    def add_attachment(self, attachment: Any) -> bool:
        """Put the binary data that was announced in its place; tell that the packet is whole."""
        try:
            if not isinstance(attachment, bytes):
                raise ValueError("not binary data")
            return super().add_attachment(attachment)
        except Exception:
            # A packet that stayed unfinished would swallow all that follows.
            self.data = [GARBLED]
            return True

    def _decode(self, encoded: Any) -> int:
        if not isinstance(encoded, str) or sum(encoded.count(mark) for mark in ",[{") > MAX_JSON_PUNCTUATION:
            raise ValueError("not a packet of ours")
        attachments = super().decode(encoded) or 0
        if self.packet_type in (socketio.packet.EVENT, socketio.packet.BINARY_EVENT):
            if not isinstance(self.data, list) or not self.data or not isinstance(self.data[0], str):
                raise ValueError("not an event")
        elif self.packet_type not in (socketio.packet.CONNECT, socketio.packet.DISCONNECT, socketio.packet.ACK):
            raise ValueError("not a client's packet")
        if attachments != (self.packet_type == socketio.packet.BINARY_EVENT):
            raise ValueError("one piece of binary data at most")
        return attachments
