"""Validate Socket.IO packets. A malformed or oversized packet becomes the event `MALFORMED`."""

import socketio

NAMESPACE = "/emotion-detection"
MALFORMED = "malformed"
"""The namespace answers this event like any other unknown event."""
MAX_JSON_PUNCTUATION = 500
"""Commas and brackets of a packet: each may create an object. Base64 has none."""


class Packet(socketio.packet.Packet):
    """A packet with the name of an event and at most one binary attachment."""

    def decode(self, encoded_packet: object) -> int:
        """Parse a packet. Returns the number of attachments that follow."""
        try:
            return self._decode(encoded_packet)
        except Exception:
            self.packet_type, self.namespace, self.id = socketio.packet.EVENT, NAMESPACE, None
            self.data = [MALFORMED]
            return 0

    def add_attachment(self, attachment: object) -> bool:
        """Put an attachment into its place. Returns True: the packet is complete."""
        try:
            if not isinstance(attachment, bytes):
                raise ValueError("not binary data")
            return bool(super().add_attachment(attachment))
        except Exception:
            # An incomplete packet would swallow all that follow.
            self.data = [MALFORMED]
            return True

    def _decode(self, encoded: object) -> int:
        if not isinstance(encoded, str) or sum(encoded.count(mark) for mark in ",[{") > MAX_JSON_PUNCTUATION:
            raise ValueError("too complex or not text")
        attachments = super().decode(encoded) or 0
        if self.packet_type in (socketio.packet.EVENT, socketio.packet.BINARY_EVENT):
            if not isinstance(self.data, list) or not self.data or not isinstance(self.data[0], str):
                raise ValueError("not an event")
        elif self.packet_type not in (socketio.packet.CONNECT, socketio.packet.DISCONNECT, socketio.packet.ACK):
            raise ValueError("not a client's packet")
        if attachments != (self.packet_type == socketio.packet.BINARY_EVENT):
            raise ValueError("more than one attachment")
        return int(attachments)
