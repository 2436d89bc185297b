"""`GET /v1/audit`. Needs `app.state.audit`, an `Audit`. There is no route that changes or deletes a record."""

from datetime import datetime
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime

from pilothouse.audit.record import Action, Outcome
from pilothouse.audit.schemas import AuditEntry
from pilothouse.audit.service import Audit, Wanted
from pilothouse.http.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, encode_cursor
from pilothouse.http.problems import problem_responses
from pilothouse.identity.http import Scoped
from pilothouse.identity.principal import MOST_CREDENTIAL_CHARS, MOST_SUBJECT_CHARS, Principal

router = APIRouter(prefix="/v1", tags=["audit"])


async def _audit(request: Request) -> Audit:
    return cast("Audit", request.app.state.audit)


@router.get("/audit", summary="The audit log, newest first", responses=problem_responses(401, 403, 422, 503))
async def list_audit_records(
    principal: Annotated[Principal, Scoped("audit:read")],
    audit: Annotated[Audit, Depends(_audit)],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    action: Annotated[Action | None, Query(description="Only this action.")] = None,
    outcome: Annotated[Outcome | None, Query(description="Only what ended so.")] = None,
    subject: Annotated[str | None, Query(max_length=MOST_SUBJECT_CHARS, description="Only of this subject.")] = None,
    credential: Annotated[
        str | None,
        Query(max_length=MOST_CREDENTIAL_CHARS, description="Only with this one: an API key's id, a JWT's `jti`."),
    ] = None,
    since: Annotated[AwareDatetime | None, Query(description="Only from this time on.")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Only before this time.")] = None,
) -> Page[AuditEntry]:
    """Who did what in the caller's tenant: all subjects. Needs the scope `audit:read`. Refused requests of callers that
    could not be recognised belong to no tenant: `pilothouse audit` shows them.
    """
    wanted = Wanted(
        action=action,
        outcome=outcome,
        subject=subject,
        credential=credential,
        since=_millis(since),
        until=_millis(until),
    )
    before = decode_cursor(cursor, int, str) if cursor is not None else None
    found = await audit.page(principal, wanted=wanted, limit=limit + 1, before=before)
    shown = found[:limit]
    more = encode_cursor(shown[-1].at, shown[-1].id) if len(found) > limit else None
    return Page(items=[AuditEntry.of(record) for record in shown], next_cursor=more)


def _millis(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp() * 1000)
