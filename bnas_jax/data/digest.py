"""Hashes by which a run notices that its data has changed."""

import hashlib
from typing import Any

import numpy as np


def digest_of(*parts: Any) -> str:
    """SHA-256 of texts and arrays in hexadecimal; the same on every machine."""
    total = hashlib.sha256()
    for part in parts:
        array = part
        if isinstance(part, str):
            # Names of files may have bytes that are no UTF-8.
            encoded = part.encode(errors="surrogateescape")
            array = np.frombuffer(encoded, np.uint8)

        # Little-endian, so that machines of either byte order agree.
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        # Type and shape tell arrays of the same bytes apart.
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.data)
    return total.hexdigest()
