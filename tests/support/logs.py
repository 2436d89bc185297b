"""What one module logs, whatever logging was configured before."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import structlog
from structlog.testing import LogCapture
from structlog.typing import EventDict


@contextmanager
def logged_by(module: ModuleType) -> Iterator[list[EventDict]]:
    """The lines that `module.log` writes inside the block. (`capture_logs` misses loggers that are cached.)"""
    capture, before = LogCapture(), module.log
    module.log = structlog.wrap_logger(None, processors=[capture], wrapper_class=structlog.stdlib.BoundLogger)
    try:
        yield capture.entries
    finally:
        module.log = before
