"""Caches that callers can't grow without end."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def keep(cache: dict[K, V], key: K, value: V, *, most: int) -> V:
    """Put a value into a cache, which lets go of its oldest where it is full; returns the value."""
    while len(cache) >= most:
        del cache[next(iter(cache))]
    cache[key] = value
    return value
