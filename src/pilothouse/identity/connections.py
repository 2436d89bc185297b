"""Connections that stay open: counted, and event streams and WebSockets ended with the credential they came with.

Invariant: what is opened is counted until it is closed, however it ends: an owner closes it in a `finally`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Self

from pilothouse.errors import TooMany, Unauthenticated
from pilothouse.identity.keys import Keys
from pilothouse.identity.principal import Principal
from pilothouse.identity.problems import unauthenticated
from pilothouse.kit.clock import now_ms
from pilothouse.observability.logs import get_logger

log = get_logger(__name__)

_LOOK_SECONDS = 2.0
"""Between looks at all credentials: a revoked key's connections end that much later at most, and those that were opened
in the five seconds for which a key's revocation elsewhere may be unknown."""
_RETRY_SECONDS = 5

Tell = Callable[[Unauthenticated], None]


class Connection:
    """One open event stream or WebSocket. Made by `Connections.open`; close it."""

    __slots__ = ("_connections", "_ended", "_tell", "principal")

    def __init__(self, connections: "Connections", principal: Principal) -> None:
        self._connections = connections
        self._tell: Tell | None = None
        self._ended: Unauthenticated | None = None
        self.principal = principal

    def when_ended(self, tell: Tell) -> None:
        """Call `tell`, which returns at once, when the credential is no longer good: now if it is not already."""
        self._tell = tell
        if self._ended is not None:
            tell(self._ended)

    def end(self, error: Unauthenticated) -> bool:
        """The credential is no longer good. Again changes nothing, unless telling failed; returns whether it was the
        first time.
        """
        if self._ended is not None:
            return False
        if self._tell is not None:
            self._tell(error)
        self._ended = error
        return True

    def close(self) -> None:
        """It is not open any more. Again changes nothing."""
        self._connections.forget(self)
        self._tell = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Connections:
    """All of this process. Costs an idle connection one entry, and no timer.

    Args:
        per_credential: most that may be open with one credential.
        per_subject: most that may be open with all credentials of one subject.
        clock: milliseconds since the Unix epoch.
    """

    def __init__(self, keys: Keys, *, per_credential: int, per_subject: int, clock: Callable[[], int] = now_ms) -> None:
        self._keys = keys
        self._per_credential = per_credential
        self._per_subject = per_subject
        self._clock = clock
        self._by_credential: dict[str, set[Connection]] = {}
        self._of_subject: Counter[tuple[str, str]] = Counter()

    def open(self, principal: Principal) -> Connection:
        """Count one more connection of a caller.

        Raises:
            TooMany: the credential or the subject has as many open as it may.
        """
        held = len(self._by_credential.get(principal.credential, ()))
        if held >= self._per_credential:
            raise _too_many("This token", held, "PILOTHOUSE_SERVER_MAX_CONNECTIONS_PER_CREDENTIAL")
        subject = (principal.tenant, principal.subject)
        if self._of_subject[subject] >= self._per_subject:
            raise _too_many("You", self._per_subject, "PILOTHOUSE_SERVER_MAX_CONNECTIONS_PER_SUBJECT")
        connection = Connection(self, principal)
        self._by_credential.setdefault(principal.credential, set()).add(connection)
        self._of_subject[subject] += 1
        return connection

    def forget(self, connection: Connection) -> None:
        """Count a connection no longer. Again changes nothing."""
        principal = connection.principal
        mine = self._by_credential.get(principal.credential)
        if mine is None or connection not in mine:
            return
        mine.discard(connection)
        if not mine:
            del self._by_credential[principal.credential]
        subject = (principal.tenant, principal.subject)
        self._of_subject[subject] -= 1
        if not self._of_subject[subject]:
            del self._of_subject[subject]

    def __len__(self) -> int:
        return sum(map(len, self._by_credential.values()))

    async def round(self) -> None:
        """One round of a background loop: wait, then look."""
        await asyncio.sleep(_LOOK_SECONDS)
        await self.look()

    async def look(self) -> None:
        """End the connections whose credential has expired or was revoked: one query for all API keys together.

        Raises:
            Unavailable: the database is away; what expired by itself has ended.
        """
        self._end_expired()
        asked = {key_id for principal in self._principals() if (key_id := principal.key_id) is not None}
        if not asked:
            return
        ended = asked - await self._keys.usable(list(asked))
        for principal in self._principals():
            if principal.key_id in ended:
                self._end(principal, "The API key of this connection has been revoked or has expired. Use another one.")

    def _end_expired(self) -> None:
        now = self._clock()
        for principal in self._principals():
            if principal.expires_at is not None and principal.expires_at <= now:
                self._end(principal, "The token of this connection has expired. Connect again with a new one.")

    def _principals(self) -> list[Principal]:
        """One for each credential that has connections."""
        return [next(iter(mine)).principal for mine in self._by_credential.values()]

    def _end(self, principal: Principal, message: str) -> None:
        error = unauthenticated(message)
        told = sum(_told(connection, error) for connection in list(self._by_credential.get(principal.credential, ())))
        if told:
            log.info("connections_ended", by=principal.credential_id, subject=principal.subject, connections=told)


def _told(connection: Connection, error: Unauthenticated) -> bool:
    """End one connection. The others are told whatever goes wrong with this one; it is told again."""
    try:
        return connection.end(error)
    except Exception:
        log.exception("connection_not_ended", by=connection.principal.credential_id)
        return False


def _too_many(whose: str, held: int, setting: str) -> TooMany:
    have = "has" if whose != "You" else "have"
    return TooMany(
        f"{whose} {have} {held} event streams, WebSockets and waiting requests open at this server, which is the "
        f"limit. Close some, or ask the operator to raise {setting}.",
        code="too_many_connections",
        headers={"Retry-After": str(_RETRY_SECONDS)},
    )
