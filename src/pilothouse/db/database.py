"""The port through which everything reads and writes.

A unit of work is a plain function of a SQLAlchemy `Connection`: repositories are such functions. The adapter
decides where it runs, so one text serves both databases, a whole transaction costs one hop, and nothing can hold
a connection while it waits for a model or a client (docs/decisions/0003-units-of-work.md).
"""

from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection

P = ParamSpec("P")
T = TypeVar("T")

Unit = Callable[Concatenate[Connection, P], T]


class Database(Protocol):
    """What both adapters promise. Open it with `pilothouse.db.open_database`."""

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        ...

    async def read(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(connection, *args)` in a transaction that is rolled back; return its result.

        It may be run more than once, until its time is over.

        Raises:
            Unavailable: the database can't be reached, is overloaded, or did not answer in time.
        """
        ...

    async def write(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `unit(connection, *args)` in a transaction and commit it. Returns once the commit is durable.

        An exception from the unit rolls back its own changes only, even if the adapter commits several
        units together, and is raised here. A unit that the server has surely rolled back for a reason that passes
        (a deadlock, a cancelled statement, a lock held by others) is run again until its time is over; so a unit must
        change nothing but the database.

        Raises:
            Unavailable: the database can't be reached, refuses for now, or did not answer in time. Nothing was
                written, as far as is known: a commit whose answer was lost may have been made.
        """
        ...

    async def maintain(self, unit: Unit[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `write`, once and without a time limit: for migrations and clearing out, which may take minutes.

        Raises:
            Unavailable: as `write`.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted, then let go of all connections."""
        ...
