"""Python's garbage collector in a server: what is loaded at the start is looked through once, not again and again."""

import gc
from collections.abc import Generator
from contextlib import contextmanager

_THRESHOLDS = (10_000, 10, 10)


@contextmanager
def calm_collector() -> Generator[None]:
    """Collect rarely, and never among what is there now, until the end of the block; for a whole process.

    A full collection walks all modules, schemas and price lists: it stops every stream of the process for a tenth of
    a second, several times a minute under load.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
