"""Decode base64 in the variants that clients send."""

import binascii
import re

_DATA_URL = re.compile(r"\s*data:.{0,300}?;base64,", re.IGNORECASE)
_WHITESPACE = b" \t\r\n\v\f"
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def decode_base64(text: str) -> bytes:
    """Decode standard or URL-safe base64, with or without padding, line breaks or a `data:` prefix.

    Standard base64 is decoded without a copy, which matters for 40 MB. Raises ValueError.
    """
    if prefix := _DATA_URL.match(text):
        text = text[prefix.end() :]
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return binascii.a2b_base64(_to_standard(text), strict_mode=True)


def _to_standard(text: str) -> bytes:
    """Convert any accepted variant to standard, padded base64 without line breaks."""
    compact = text.encode("ascii").translate(None, _WHITESPACE)
    if b"-" in compact or b"_" in compact:
        if b"+" in compact or b"/" in compact:
            raise ValueError("standard and URL-safe base64 are mixed")
        compact = compact.translate(_TO_STANDARD)
    unpadded = compact.rstrip(b"=")
    if len(compact) > len(unpadded):
        return compact
    return unpadded + b"=" * (-len(unpadded) % 4)
