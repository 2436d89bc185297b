"""What the audit log looks like on the wire."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pilothouse.audit.record import Action, AuditRecord, Outcome
from pilothouse.kit.clock import to_datetime


class AuditEntry(BaseModel):
    """One record of the audit log."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "aud_01kb2m9w4c8t5v3q7r1x6y0z2a",
                    "at": "2026-11-02T08:30:00Z",
                    "last_at": "2026-11-02T08:30:00Z",
                    "tenant": "acme",
                    "subject": "ada",
                    "credential": "key_01kb2m9w4c8t5v3q7r1x6y0z2b",
                    "action": "approval.decided",
                    "outcome": "ok",
                    "code": None,
                    "object_kind": "run",
                    "object_id": "run_01kb2m9w4c8t5v3q7r1x6y0z2c",
                    "detail": {"call_id": "call_7k2m", "approve": True},
                    "count": 1,
                    "request_id": "req_01kb2m9w4c8t5v3q7r1x6y0z2d",
                    "client": "203.0.113.7",
                    "user_agent": "curl/8.5.0",
                }
            ]
        }
    )

    id: str
    at: datetime
    last_at: datetime = Field(description="Of several equal requests, when the last one came; else as `at`.")
    tenant: str | None
    subject: str | None = Field(description="Who; null if nobody could be recognised.")
    credential: str | None = Field(
        description="Id of the API key, `jti` of the JWT (`jwt` if it has none), `local` or `cli`; of an API key that "
        "was refused the public beginning of its token."
    )
    action: Action
    outcome: Outcome = Field(
        description="`refused`: 401 or 403. `failed`: another error; from status 500 up it may have taken effect."
    )
    code: str | None = Field(description="`code` of the problem the caller was answered with.")
    object_kind: str | None
    object_id: str | None
    detail: dict[str, Any] | None
    count: int = Field(description="For how many equal requests this record stands: refusals are counted by minute.")
    request_id: str | None
    client: str | None = Field(description="Address of the peer, or of whom a trusted proxy names.")
    user_agent: str | None

    @classmethod
    def of(cls, record: AuditRecord) -> "AuditEntry":
        """The record on the wire."""
        values: dict[str, Any] = {name: getattr(record, name) for name in cls.model_fields}
        return cls.model_validate({**values, "at": to_datetime(record.at), "last_at": to_datetime(record.last_at)})
