"""The options of a PostgreSQL address (`?sslmode=verify-full&…`), read by the driver's own rules.

SQLAlchemy hands the options of an address to the driver as arguments of the same name, but libpq's names are no
arguments of asyncpg: it reads them in a connection string only.
"""

from pathlib import Path
from urllib.parse import urlencode

from sqlalchemy import URL

from pilothouse.errors import StartupError

_OF_SQLALCHEMY = frozenset({"host", "port", "ssl", "prepared_statement_cache_size"})
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


def split_options(url: URL) -> tuple[URL, dict[str, str]]:
    """The address without libpq's options, and the driver's argument that holds them.

    asyncpg gives options that it does not know to the server as settings of the session.

    Raises:
        StartupError: an option names a file that is not there.
    """
    options = {name: value for name, value in url.query.items() if name not in _OF_SQLALCHEMY}
    for name in _FILES:
        file = options.get(name)
        if isinstance(file, str) and not Path(file).is_file():
            raise StartupError(f"{name} in PILOTHOUSE_DATABASE_URL names a file that can't be found: {file}.")
    if not options:
        return url, {}
    return url.difference_update_query(options), {"dsn": f"postgresql:///?{urlencode(options, doseq=True)}"}
