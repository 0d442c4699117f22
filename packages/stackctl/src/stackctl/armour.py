"""Whether a text is a whole OpenPGP message in armour, without a key to open it.

https://www.rfc-editor.org/rfc/rfc9580#section-6
"""

from __future__ import annotations

import base64

BEGIN, END = "-----BEGIN PGP MESSAGE-----", "-----END PGP MESSAGE-----"
_INITIAL, _GENERATOR = 0xB704CE, 0x864CFB  # of the checksum, section 6.1.1


def fault(text: object) -> str:
    """Return what is wrong with a text, as a predicate of it; empty: it is a whole message."""
    lines = [line.strip() for line in text.strip().splitlines()] if isinstance(text, str) else []
    if not lines or lines[0] != BEGIN:
        return "is not encrypted: it is no PGP message"
    if lines[-1] != END:
        return "is cut off: its PGP message has no end"
    # Headers, which nobody needs, an empty line, the message, and a checksum that may be absent.
    body = lines[lines.index("") + 1 : -1] if "" in lines else []
    checksum = body.pop()[1:] if body and body[-1].startswith("=") else ""
    try:
        data = base64.b64decode("".join(body), validate=True)
        wanted = base64.b64decode(checksum, validate=True)
    except ValueError:
        data, wanted = b"", b""
    if not data or (wanted and int.from_bytes(wanted) != _crc24(data)):
        return "is damaged: its PGP message is not the one that was written"
    return ""


def _crc24(data: bytes) -> int:
    crc = _INITIAL
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (_GENERATOR if crc & 0x800000 else 0)
    return crc & 0xFFFFFF
