"""`/v1/me` and `/v1/keys`."""

from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from pilothouse.http.auditing import add_to_audit
from pilothouse.http.pages import DEFAULT_LIMIT, Cursor, Limit, Page, decode_cursor, encode_cursor
from pilothouse.http.problems import problem_responses
from pilothouse.idempotency.http import IdempotencyKey, Once
from pilothouse.idempotency.service import key_use
from pilothouse.identity.http import CurrentPrincipal, Scoped
from pilothouse.identity.keys import ApiKey, Keys
from pilothouse.identity.principal import Principal, sorted_scopes
from pilothouse.identity.schemas import CreatedKey, Key, Me, NewKey
from pilothouse.identity.service import Identity
from pilothouse.kit.clock import to_datetime

router = APIRouter(prefix="/v1", tags=["identity"])


async def _keys(request: Request) -> Keys:
    return cast("Identity", request.app.state.identity).keys


KeysService = Annotated[Keys, Depends(_keys)]


@router.get("/me", summary="Who you are", responses=problem_responses(401, 503))
async def me(principal: CurrentPrincipal) -> Me:
    """The caller: its tenant, its name and what it may do."""
    return Me(
        tenant=principal.tenant,
        subject=principal.subject,
        scopes=sorted_scopes(principal.scopes),
        kind=principal.kind,
    )


@router.get("/keys", summary="Your API keys, newest first", responses=problem_responses(400, 401, 403, 422, 503))
async def list_keys(
    principal: CurrentPrincipal,
    keys: KeysService,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    everyone: Annotated[bool, Query(description="Of all owners in the tenant; needs the scope admin.")] = False,
) -> Page[Key]:
    """The caller's API keys, newest first, revoked and expired ones too. Needs the scope `keys:read`."""
    after = decode_cursor(cursor, int, str) if cursor is not None else None
    found = await keys.page(principal, limit=limit + 1, after=after, everyone=everyone)
    shown = found[:limit]
    more = len(found) > limit
    return Page(
        items=[_shown(key) for key in shown],
        next_cursor=encode_cursor(shown[-1].created_at, shown[-1].id) if more else None,
    )


@router.post(
    "/keys", summary="Make an API key", status_code=201, responses=problem_responses(400, 401, 403, 413, 422, 503)
)
async def create_key(
    request: Request,
    principal: Annotated[Principal, Scoped("keys:write")],
    keys: KeysService,
    once: Once,
    body: NewKey,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> CreatedKey:
    """Make an API key for the caller. Needs the scope `keys:write`, and every scope the key is to have.

    It expires no later than the credential of this request (422 `expiry_too_late`), and with it if `expires_at` is left
    out. A key that is made with a key is revoked with that one.

    The answer is the only one that holds the token: a repeated request with the same `Idempotency-Key` makes no
    second key, but can't show the token again. Where the answer was lost, revoke that key and make another.
    """
    response.headers["Cache-Control"] = "no-store"
    keys.check(principal, body.name, scopes=body.scopes)  # a repeated request needs what the first one needed
    shown: list[str] = []

    async def create() -> dict[str, Any]:
        key, token = await keys.create(principal, body.name, scopes=body.scopes, expires_at=body.expires_at)
        shown.append(token)
        return _shown(key).model_dump(mode="json")

    document = body.model_dump(mode="json")
    use = key_use(principal.tenant, principal.subject, idempotency_key, route="keys", body=document)
    key = await once.once(use, create)
    add_to_audit(request, object_id=key["id"], scopes=" ".join(key["scopes"]), expires_at=key["expires_at"])
    return CreatedKey.model_validate({**key, "token": shown[0] if shown else None})


@router.delete(
    "/keys/{key_id}", summary="Revoke an API key", status_code=204, responses=problem_responses(401, 403, 404, 503)
)
async def revoke_key(
    principal: CurrentPrincipal, keys: KeysService, key_id: Annotated[str, Path(description="The key's `id`.")]
) -> None:
    """Revoke an API key, and all that were made with it, which ends them at once (within five seconds on other nodes,
    and with it the event streams and WebSockets they opened). Again changes nothing.

    Needs the scope `keys:write`; with `admin`, anyone's key in the tenant.
    """
    await keys.revoke(principal, key_id)


def _shown(key: ApiKey) -> Key:
    return Key(
        id=key.id,
        name=key.name,
        prefix=key.prefix,
        owner=key.owner,
        parent_id=key.parent_id,
        scopes=list(key.scopes),
        created_at=to_datetime(key.created_at),
        expires_at=None if key.expires_at is None else to_datetime(key.expires_at),
        revoked_at=None if key.revoked_at is None else to_datetime(key.revoked_at),
        last_used_at=None if key.last_used_at is None else to_datetime(key.last_used_at),
    )
