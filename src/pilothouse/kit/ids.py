"""Sortable random identifiers."""

import os
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str) -> str:
    """A new identifier such as `run_01kb2m...`: 48 bits of milliseconds, then 80 random bits, in base 32.

    Identifiers made later sort after those made earlier (to the millisecond), as in the ULID specification
    (https://github.com/ulid/spec), so a primary key on them grows at one end.
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    digits = [""] * 26
    for index in range(25, -1, -1):
        digits[index] = _ALPHABET[value & 31]
        value >>= 5
    return f"{prefix}_{''.join(digits)}"
