import pytest

from pilothouse.errors import Forbidden
from pilothouse.identity.principal import SCOPES, USER_SCOPES, Principal, is_name, local_principal


def principal(*scopes: str) -> Principal:
    return Principal("acme", "ada", frozenset(scopes), "api_key")


@pytest.mark.parametrize(
    ("held", "asked"),
    [("runs:read", "runs:read"), ("runs:*", "runs:read"), ("*", "runs:read"), ("*", "*"), ("runs:*", "runs:*")],
)
def test_a_scope_is_held_by_name_by_group_or_by_the_star_of_all(held: str, asked: str) -> None:
    assert principal(held).has(asked)


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("runs:read", "runs:write"),
        ("runs:read", "runs:*"),
        ("runs:*", "*"),
        ("runs", "runs:read"),
        ("run:*", "runs:read"),
        ("chat:*", "chat"),
        (":*", ""),
        ("admin", "runs:read"),
        ("runs:*", "keys:write"),
    ],
)
def test_no_other_scope_is_held(held: str, asked: str) -> None:
    assert not principal(held).has(asked)


def test_a_missing_scope_is_named() -> None:
    with pytest.raises(Forbidden, match="runs:write") as caught:
        principal("runs:read").require("runs:write")
    assert caught.value.status == 403
    assert caught.value.extra == {"missing_scope": "runs:write"}


def test_users_without_named_scopes_use_agents_but_manage_nothing() -> None:
    user = principal(*USER_SCOPES)
    refused = {scope for scope in SCOPES if not user.has(scope)}
    assert refused == {"keys:read", "keys:write", "approvals:decide", "audit:read", "admin"}


def test_the_local_principal_may_do_everything() -> None:
    assert all(local_principal().has(scope) for scope in SCOPES)


@pytest.mark.parametrize("name", ["a", "Ada Lovelace", "渡辺", "user|auth0:1", "x" * 10, "👩‍🚀"])
def test_names_may_hold_any_script(name: str) -> None:
    assert is_name(name, most=20)


@pytest.mark.parametrize("name", ["", "a\x00b", "a\nb", "\x7f", "\x85", "\ud800", "x" * 21, None, 7, ["a"]])
def test_what_a_database_or_a_log_line_chokes_on_is_no_name(name: object) -> None:
    assert not is_name(name, most=20)
