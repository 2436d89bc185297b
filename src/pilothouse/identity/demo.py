"""A ready API key for `pilothouse demo`."""

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path

from pilothouse.db import Database
from pilothouse.db.private_files import make_private_folder, tighten
from pilothouse.errors import StartupError, Unauthenticated
from pilothouse.identity.keys import Keys
from pilothouse.identity.principal import Principal, local_principal

DEMO_SUBJECT = "demo"
_FILE = "demo.key"


async def ensure_local_key(database: Database, data_dir: Path) -> str:
    """A token of tenant `local`, subject `demo`, that may do everything: the one kept in `data_dir`, or a new one.

    The file is readable by its owner only.

    Raises:
        StartupError: the folder can't be read or written.
    """
    keys = Keys(database)
    maker = local_principal(DEMO_SUBJECT)
    file = data_dir / _FILE
    try:
        kept = await asyncio.to_thread(_read, file)
        if kept is not None and await _is_good(keys, kept, maker):
            return kept
        _, token = await keys.create(maker, "demo", scopes=["*"])
        await asyncio.to_thread(_write, file, token)
    except OSError as error:
        raise StartupError(f"The demo's key can't be kept in {file}: {error.strerror}.") from error
    finally:
        await keys.close()
    return token


async def _is_good(keys: Keys, token: str, maker: Principal) -> bool:
    try:
        principal = await keys.authenticate(token)
    except Unauthenticated:
        return False
    return (principal.tenant, principal.subject) == (maker.tenant, maker.subject) and principal.has("*")


def _read(file: Path) -> str | None:
    try:
        tighten(file)
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None


def _write(file: Path, token: str) -> None:
    make_private_folder(file.parent)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=".demo-")  # made with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as output:
            output.write(token + "\n")
        Path(temporary).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
