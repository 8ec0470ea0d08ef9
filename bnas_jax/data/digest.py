"""Hashes by which a run notices that its data has changed."""

import hashlib
from typing import Any

import numpy as np


def digest_of(*parts: Any) -> str:
    """The SHA-256 hash of texts and arrays, in hexadecimal; the same on any machine."""
    total = hashlib.sha256()
    for part in parts:
        array = part
        if isinstance(part, str):
            # Names of files may have bytes that are not UTF-8.
            encoded = part.encode(errors="surrogateescape")
            array = np.frombuffer(encoded, np.uint8)

        # Little-endian, so that the hash does not depend on the machine's byte order.
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        # Arrays of the same bytes may differ in type and shape.
        total.update(f"{array.dtype.str}{array.shape}".encode())
        total.update(array.data)
    return total.hexdigest()
