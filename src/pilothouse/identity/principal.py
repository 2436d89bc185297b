"""Who is calling, and what they may do."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from pilothouse.errors import Forbidden
from pilothouse.kit.printable import has_unsafe

SCOPES = MappingProxyType(
    {
        "chat": "Start chat runs: send messages to agents.",
        "runs:read": "Read one's own runs and their events.",
        "runs:write": "Start, cancel, fork and answer one's own runs.",
        "approvals:decide": "See and decide other subjects' waiting calls of tools that need four eyes. The tool's own "
        "scopes are needed too.",
        "conversations:read": "Read one's own conversations.",
        "conversations:write": "Make, rename and delete one's own conversations.",
        "agents:read": "See which agents and tools there are.",
        "tools:call": "Call tools without a model.",
        "keys:read": "List one's own API keys.",
        "keys:write": "Make and revoke one's own API keys.",
        "audit:read": "Read the audit log of the tenant: what everyone did, without content.",
        "admin": "List and revoke everyone's API keys in the tenant, let parked runs go on. Opens nobody's data.",
    }
)
"""The scopes Pilothouse itself asks for. Tools may ask for further ones. `runs:*` stands for every scope that begins
with `runs:`, and `*` for every scope there is."""

USER_SCOPES = frozenset({"chat", "runs:*", "conversations:*", "agents:read", "tools:call"})
"""What a person may do whose token names no scopes."""

MOST_TENANT_CHARS = 128
MOST_SUBJECT_CHARS = 256
MOST_KEY_NAME_CHARS = 100
MOST_CREDENTIAL_CHARS = 64
MOST_SCOPES = 64
SCOPE_PATTERN = r"^(\*|[a-z][a-z0-9_-]{0,31}(:([a-z0-9_-]{1,31}|\*))?)$"

PrincipalKind = Literal["api_key", "jwt", "local"]


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller. `tenant` and `subject` together own things; nobody sees what another owns.

    Args:
        key_id: the API key it came with, if it was one.
        token_id: `jti` of the JWT it came with, if it was one and has one.
        credential: names what it came with, without revealing it; the same for each request with the same credential.
        expires_at: when the credential expires, milliseconds since the Unix epoch; None: never by itself.
    """

    tenant: str
    subject: str
    scopes: frozenset[str]
    kind: PrincipalKind
    key_id: str | None = None
    credential: str = field(default="", compare=False)
    expires_at: int | None = field(default=None, compare=False)
    token_id: str | None = field(default=None, compare=False)

    @property
    def credential_id(self) -> str:
        """The credential on audit records and lines of the log: the id of the API key, `jti` of the JWT (`jwt` if it
        has none), or `local`.
        """
        if self.kind == "jwt":
            return (self.token_id or "jwt")[:MOST_CREDENTIAL_CHARS]
        return self.key_id or self.kind

    def has(self, scope: str) -> bool:
        """Whether this caller holds `scope`, by its name, its group's star (`runs:*`) or the star of all."""
        group, colon, _ = scope.partition(":")
        return scope in self.scopes or "*" in self.scopes or (bool(colon) and f"{group}:*" in self.scopes)

    def require(self, scope: str) -> None:
        """Go on only with `scope`.

        Raises:
            Forbidden: the caller lacks it; names it.
        """
        if not self.has(scope):
            raise Forbidden(
                f"This needs the scope {scope}, which your token does not have. Use a token that has it.",
                code="missing_scope",
                missing_scope=scope,
            )


def local_principal(subject: str = "local") -> Principal:
    """The one caller of a server in local development mode: all scopes in tenant `local`."""
    return Principal("local", subject, frozenset({"*"}), "local", credential="local")


def is_name(text: object, *, most: int) -> bool:
    """Whether this can be a tenant's or subject's name: 1 to `most` characters, none of them a control character (a
    NUL, which PostgreSQL can't store), half of a surrogate pair, or one that hides or turns the direction of writing.
    """
    return isinstance(text, str) and 0 < len(text) <= most and not has_unsafe(text)


def sorted_scopes(scopes: Iterable[str]) -> list[str]:
    """Scopes as they are stored and shown."""
    return sorted(set(scopes))
