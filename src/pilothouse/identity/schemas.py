"""What the identity endpoints take and give."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from pilothouse.identity.principal import MOST_KEY_NAME_CHARS, MOST_SCOPES, SCOPE_PATTERN

Scope = Annotated[str, StringConstraints(pattern=SCOPE_PATTERN)]


class Me(BaseModel):
    """The caller as the server knows it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"tenant": "acme", "subject": "ada", "scopes": ["chat", "runs:*"], "kind": "api_key"}]
        }
    )

    tenant: str
    subject: str = Field(description="Owns what this caller makes.")
    scopes: list[str]
    kind: Literal["api_key", "jwt", "local"] = Field(description="How the caller identified itself.")


class NewKey(BaseModel):
    """An API key to make."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"name": "nightly job", "scopes": ["chat", "runs:read"], "expires_at": "2030-01-31T00:00:00Z"}]
        },
    )

    name: str = Field(min_length=1, max_length=MOST_KEY_NAME_CHARS, description="For people to recognise it by.")
    scopes: list[Scope] = Field(
        min_length=1, max_length=MOST_SCOPES, description="What it may do: at most what the token of this request may."
    )
    expires_at: AwareDatetime | None = Field(
        default=None, description="When it ends: at most when the token of this request does. Null: when that one does."
    )


class Key(BaseModel):
    """An API key, without its secret."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "key_01kb2m9w4c8t5v3q7r1x6y0z2a",
                    "name": "nightly job",
                    "prefix": "ph_7k2m9x4c",
                    "owner": "ada",
                    "parent_id": None,
                    "scopes": ["chat", "runs:read"],
                    "created_at": "2026-11-02T08:30:00Z",
                    "expires_at": "2030-01-31T00:00:00Z",
                    "revoked_at": None,
                    "last_used_at": "2026-11-02T09:00:00Z",
                }
            ]
        }
    )

    id: str
    name: str
    prefix: str = Field(description="How its token begins.")
    owner: str
    parent_id: str | None = Field(
        default=None, description="The key it was made with, if it was one: revoked together."
    )
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")


class CreatedKey(Key):
    """A new API key, with its secret."""

    token: str | None = Field(
        description="Send it as `Authorization: Bearer <token>`. It is shown this once only: null where the request "
        "was answered before."
    )
