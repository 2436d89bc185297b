"""Demo, keys, runs, db and doctor."""

import json
import socket
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.commands import environment, ran, started
from tests.support.processes import free_port
from tests.support.server import Person

from pilothouse.cli.actions.keys import parse_expiry
from pilothouse.errors import InvalidRequest


async def test_the_demo_prints_what_one_needs_and_keeps_its_token(tmp_path):
    tokens = []
    for _ in range(2):
        async with started("demo", "--port", "0", cwd=tmp_path) as server:
            await server.wait_for("Ctrl-C stops it")
            url, token = await server.url(), (await server.wait_for(r"(?m)^token: (\S+)$"))[1]
            assert f"console: {url}/console/#token={token}\n" in server.out
            assert "model: a scripted offline model" in server.out
            assert f"curl -N {url}/v1/chat/stream" in server.out
            tokens.append(token)
            person = Person(url, token)
            assert "**packed**" in (await person.chat("Where is order 1042?"))["text"]
            await person.close()
    assert tokens[0] == tokens[1]
    assert (tmp_path / ".pilothouse" / "shop.db").exists()


async def test_the_demo_says_so_where_its_port_is_taken(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, out, err = await ran("demo", "--port", str(port), cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"Port {port} of 127.0.0.1 is taken by another program.")
    assert not (tmp_path / ".pilothouse").exists()


async def test_keys_are_made_listed_and_revoked_while_the_server_runs(project, env):
    async with started("serve", "main:app", cwd=project, env=env) as server:
        url = await server.url()
        create = ("keys", "create", "robot", "--subject", "ada", "--tenant", "acme")
        code, token, err = await ran(*create, "--scopes", "chat,runs:*", "--expires", "90d", cwd=project, env=env)
        assert (code, token.count("\n")) == (0, 1)
        assert "It may: chat, runs:*." in err
        person = Person(url, token.strip())
        assert (await person.chat("Hi"))["text"] == "Hello there."
        assert (await person.get("/v1/agents")).status_code == 403

        code, out, err = await ran("runs", "list", "--url", url, "--json", "--token", token.strip(), cwd=project)
        (run,) = json.loads(out)["items"]
        told = {"PILOTHOUSE_URL": url, "PILOTHOUSE_TOKEN": token.strip()}
        code, out, err = await ran("runs", "list", cwd=project, env={**environment(), **told})
        assert run["id"] in out
        assert "completed" in out
        code, out, err = await ran("runs", "show", run["id"], cwd=project, env={**environment(), **told})
        assert (code, "Hello there." in out, "model" in out) == (0, True, True)
        code, out, err = await ran("runs", "cancel", run["id"], cwd=project, env={**environment(), **told})
        assert (code, out) == (0, "It had ended before: completed.\n")
        code, out, err = await ran("runs", "show", "run_none", cwd=project, env={**environment(), **told})
        assert (code, out, err) == (1, "", "You have no run with this id.\n")

        code, out, _ = await ran("keys", "list", "--tenant", "acme", "--json", cwd=project, env=env)
        (key,) = json.loads(out)
        assert (key["name"], key["subject"], key["scopes"]) == ("robot", "ada", ["chat", "runs:*"])
        assert token.strip() not in out
        code, out, _ = await ran("keys", "revoke", key["id"], "--tenant", "acme", cwd=project, env=env)
        assert (code, out.startswith(f"Revoked key {key['id']}")) == (0, True)
        await person.close()


async def test_a_leaked_token_is_found_by_its_beginning_whatever_tenant_it_is_of(project, env):
    create = ("keys", "create", "robot", "--subject", "ada", "--tenant")
    code, token, err = await ran(*create, "acme", "--scopes", "chat runs:read, keys:read", cwd=project, env=env)
    assert (code, "It may: chat, keys:read, runs:read." in err) == (0, True)
    assert (await ran(*create, "other", cwd=project, env=env))[0] == 0
    keys = json.loads((await ran("keys", "list", "--json", cwd=project, env=env))[1])
    assert sorted(key["tenant"] for key in keys) == ["acme", "other"]
    code, out, _ = await ran("keys", "list", cwd=project, env=env)
    assert ("acme" in out, "other" in out) == (True, True)
    leaked = token.strip()[:11]
    code, out, err = await ran("keys", "revoke", leaked, "--tenant", "other", cwd=project, env=env)
    assert (code, out) == (1, "")
    assert err == "There is no such key. `pilothouse keys list` shows all of them.\n"
    code, out, _ = await ran("keys", "revoke", leaked, cwd=project, env=env)
    assert (code, out.startswith("Revoked key "), "of ada, tenant acme" in out) == (0, True, True)
    (other,) = (key["id"] for key in keys if key["tenant"] == "other")
    assert (await ran("keys", "revoke", other, cwd=project, env=env))[0] == 0
    code, _, err = await ran(*create, "acme", "--scopes", " , ", cwd=project, env=env)
    assert (code, "separated by commas or spaces" in err) == (1, True)


async def test_keys_that_can_not_be_made_are_a_sentence(project, env):
    create = ("keys", "create", "robot", "--subject", "ada")
    code, out, err = await ran(*create, "--scopes", "Everything!", cwd=project, env=env)
    assert (code, out, "is not a scope" in err) == (1, "", True)
    code, out, err = await ran(*create, "--expires", "soon", cwd=project, env=env)
    assert (code, out, "Write 12h, 90d, 2w, 1y" in err) == (1, "", True)


def test_an_expiry_is_a_span_or_a_day():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert parse_expiry("12h", now) - now == timedelta(hours=12)
    assert parse_expiry(" 90d", now) - now == timedelta(days=90)
    assert parse_expiry("2030-01-31", now).isoformat() == "2030-01-31T23:59:59+00:00"
    for wrong in ("", "90", "d", "2030-13-01", "99999y"):
        with pytest.raises(InvalidRequest):
            parse_expiry(wrong, now)


async def test_upgrading_says_from_where_to_where(project, env):
    code, out, _ = await ran("db", "upgrade", cwd=project, env=env)
    assert (code, out.startswith("The database was upgraded from nothing to ")) == (0, True)
    code, out, _ = await ran("db", "upgrade", cwd=project, env=env)
    assert (code, out.endswith(" already.\n")) == (0, True)


async def test_the_doctor_finds_nothing_wrong_where_nothing_is(project, env):
    env = {**env, "PILOTHOUSE_SERVER_PORT": str(free_port())}
    code, out, err = await ran("doctor", "main:app", cwd=project, env=env)
    assert (code, err) == (0, ""), out
    assert "problem" not in out
    assert "application: main:app serves helper." in out
    assert "model openai:scripted: the provider does not refuse our key." in out
    assert not (project / ".pilothouse").exists()


async def test_the_doctor_says_what_to_do_about_each_problem(project, env, provider):
    await provider.stop()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        wrong = {
            "PILOTHOUSE_SERVER_PORT": str(other.getsockname()[1]),
            "PILOTHOUSE_SERVER_ENVIRONMENT": "production",
            "PILOTHOUSE_REDIS_URL": f"redis://:secret@127.0.0.1:{free_port()}",
        }
        code, out, err = await ran("doctor", "main:app", cwd=project, env={**env, **wrong})
    assert (code, err) == (1, "")
    problems = [line for line in out.splitlines() if line.startswith("problem")]
    names = [line.split("  ")[1].split(":")[0] for line in problems]
    assert names == ["identity", "redis", "model openai", "port"]
    assert "secret" not in out
    code, out, _ = await ran("doctor", cwd=project, env={**env, "PILOTHOUSE_SERVER_PORT": "many"})
    assert (code, "PILOTHOUSE_SERVER_PORT is wrong" in out) == (1, True)
