"""One record of the audit log, and the closed list of actions.

Invariant: every text of a record comes through `bounded`, so both databases can store it: it has no unsafe characters
(a NUL, escape sequences of a terminal, hidden ones) and is no longer than its column.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from pilothouse.kit.ids import new_id
from pilothouse.kit.printable import cleaned

Action = Literal[
    "approval.decided",
    "audit.lost",
    "conversation.deleted",
    "key.created",
    "key.revoked",
    "request.refused",
    "run.cancelled",
    "run.forked",
    "run.released",
    "tool.called",
]
"""What can have been done. `request.refused` is a 401 or 403 of any other route; `audit.lost` says how many records
could not be kept."""

Outcome = Literal["ok", "refused", "failed"]
"""`refused`: 401 or 403. `failed`: any other error; from status 500 up it may have taken effect."""

MOST_DETAIL_CHARS = 2_000


def new_record_id() -> str:
    """An id for a new record."""
    return new_id("aud")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One act, or several equal refusals together.

    Attributes:
        at: when it was done, milliseconds since the Unix epoch; of several, the first.
        last_at: of several, the last; else as `at`.
        tenant: None if nobody could be recognised.
        credential: id of the API key (`key_…`), `jti` of the JWT (`jwt` if it has none), `local` or `cli`; for an API
            key that was refused the public beginning of its token.
        code: of the problem document, if there was one.
        detail: further facts; no secrets and no content of messages.
        count: for how many equal requests the record stands.
        client: the peer's address, as the ASGI server tells it.
    """

    id: str = field(default_factory=new_record_id)
    at: int
    last_at: int
    tenant: str | None = None
    subject: str | None = None
    credential: str | None = None
    action: Action
    outcome: Outcome
    code: str | None = None
    object_kind: str | None = None
    object_id: str | None = None
    detail: dict[str, Any] | None = None
    count: int = 1
    request_id: str | None = None
    client: str | None = None
    user_agent: str | None = None


def bounded(text: str | None, most: int) -> str | None:
    """At most `most` characters of `text`, with U+FFFD for unsafe characters: see `pilothouse.kit.printable`."""
    return None if text is None else cleaned(text[:most], "\N{REPLACEMENT CHARACTER}")
