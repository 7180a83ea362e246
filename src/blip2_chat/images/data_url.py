"""Percent-decoding with memory proportional to the length of the text, whatever its content.

`urllib.parse.unquote_to_bytes` creates an object for each escape: 30 MB of them take 2.5 GB.
"""

from __future__ import annotations

import numpy as np

# Bytes processed at a time.
_STRETCH = 1 << 20
_HEX = np.full(256, 255, np.uint8)
for _digits in (b"0123456789abcdef", b"0123456789ABCDEF"):
    _HEX[np.frombuffer(_digits, np.uint8)] = np.arange(16)


def unquoted(text: str) -> bytes:
    """Decodes percent-encoded `text`; invalid escapes are unchanged, as in `urllib`."""
    data = text.encode("utf-8", "surrogatepass")
    if b"%" not in data:
        return data
    found = bytearray()
    start = 0
    while start < len(data):
        end = min(start + _STRETCH, len(data))
        # Do not split an escape.
        cut = data.rfind(b"%", max(start, end - 2), end)
        if end < len(data) and cut > start:
            end = cut
        found += _stretch(np.frombuffer(data, np.uint8, end - start, start))
        start = end
    return bytes(found)


def _stretch(data: np.ndarray) -> bytes:
    places = np.flatnonzero(data[:-2] == ord("%")) if len(data) > 2 else np.empty(0, np.intp)
    high, low = _HEX[data[places + 1]], _HEX[data[places + 2]]
    valid = (high < 16) & (low < 16)
    places = places[valid]
    decoded = data.copy()
    decoded[places] = high[valid] * 16 + low[valid]
    kept = np.ones(len(data), bool)
    kept[places + 1] = kept[places + 2] = False
    return decoded[kept].tobytes()
