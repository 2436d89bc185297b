"""Timeouts that end early."""

import asyncio
import contextlib


def expire(timeout: asyncio.Timeout) -> None:
    """Let `timeout`, which has been entered, end now what it is around. Nothing happens if it has ended already."""
    with contextlib.suppress(RuntimeError):
        timeout.reschedule(0)
