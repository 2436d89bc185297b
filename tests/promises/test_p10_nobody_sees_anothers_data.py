"""P10: what is someone else's is not found, by whichever route, with whatever id."""

import re

import pytest
from sqlalchemy import update
from tests.promises.test_p5_stop_means_stopped import Tools, calling
from tests.support.server import running

from pilothouse.runs.tables import runs
from pilothouse.testing.provider import Script, ToolCall

BODIES = {
    ("post", "/v1/runs/{run_id}/input"): {"call_id": "c", "approve": True},
    ("post", "/v1/runs/{run_id}/fork"): {},
    ("patch", "/v1/conversations/{conversation_id}"): {"title": "mine now"},
    ("put", "/v1/conversations/{conversation_id}/messages/{key}/pin"): {"pinned": True},
}


async def test_every_route_that_names_a_thing_gives_404_to_everybody_else(database_url):
    tools = Tools()
    async with running(database_url, calling(ToolCall(name="ask")), setup=tools.agent()) as server:
        note = {"media_type": "text/plain", "data": "bWluZQ==", "name": "note.txt"}
        waiting = (await server.send("go", attachments=[note])).json()
        [question, *_] = await server.messages(waiting["conversation_id"])
        key = (await server.post("/v1/keys", {"name": "mine", "scopes": ["chat"]})).json()
        ids = {
            "run_id": waiting["run_id"],
            "conversation_id": waiting["conversation_id"],
            "key": "1.1",
            "attachment_id": question["attachments"][0]["id"],
            "key_id": key.get("id") or key["key"]["id"],
        }
        before = (await server.get("/v1/conversations")).json(), await server.run(ids["run_id"])
        document = (await server.get("/openapi.json")).json()
        tried = 0
        who = (("bob", "acme"), ("ada", "other"), ("bob", "other"))
        strangers = [server.person(name, tenant=tenant) for name, tenant in who]
        operators = [server.person(name, tenant=tenant, scope="admin") for name, tenant in who]
        for path, operations in document["paths"].items():
            names = re.findall(r"{(\w+)}", path)
            if not names or not set(names) <= set(ids):
                continue
            for method in operations:
                for person in operators if path.endswith("/release") else strangers:
                    body = BODIES.get((method, path), {} if method in ("post", "put", "patch") else None)
                    response = await person.http.request(method, path.format(**ids), json=body)
                    assert response.status_code == 404, (method, path, response.status_code, response.text)
                    assert ids["run_id"] not in response.text
                    tried += 1
        assert tried >= 3 * 12
        assert ((await server.get("/v1/conversations")).json(), await server.run(ids["run_id"])) == before


async def test_lists_show_only_ones_own(database_url):
    async with running(database_url, Script(turns=["Hello."])) as server:
        answer = await server.chat("hi")
        for person in (server.person("bob"), server.person("ada", tenant="other")):
            for path in ("/v1/runs", "/v1/conversations", "/v1/keys"):
                assert (await person.get(path)).json()["items"] == [], path
            assert (await person.get("/v1/runs", conversation_id=answer["conversation_id"])).json()["items"] == []
            response = await person.send("hi", conversation_id=answer["conversation_id"])
            assert (response.status_code, response.json()["code"]) == (404, "conversation_not_found")
            headers = {"Accept": "application/json"}
            assert (await person.http.get(f"/v1/runs/{answer['run_id']}/events", headers=headers)).status_code == 404
        assert len(await server.messages(answer["conversation_id"])) == 2


async def test_an_idempotency_key_is_its_owners_own(database_url):
    async with running(database_url, Script(turns=["Hello."])) as server:
        mine = await server.chat("hi", key="same")
        for person in (server.person("bob"), server.person("ada", tenant="other")):
            theirs = await person.chat("hi", key="same")
            assert theirs["run_id"] != mine["run_id"]


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/stream", "/v1/runs", "/v1/conversations", "/v1/me"])
async def test_nobody_gets_in_without_a_token(sqlite_url, path):
    async with running(sqlite_url) as server:
        nobody = server.nobody()
        method = "post" if "chat" in path else "get"
        response = await nobody.http.request(method, path, json={"message": "hi"} if method == "post" else None)
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")


async def test_a_token_without_the_scope_is_forbidden(sqlite_url):
    async with running(sqlite_url, Script(turns=["Hello."])) as server:
        run_id = (await server.chat("hi"))["run_id"]
        reader = server.person("ada", scope="runs:read")
        assert (await reader.get(f"/v1/runs/{run_id}")).status_code == 200
        for response in (await reader.send("hi"), await reader.post(f"/v1/runs/{run_id}/cancel")):
            assert (response.status_code, response.json()["code"]) == (403, "missing_scope")


async def test_only_an_operator_lets_somebody_elses_parked_run_go_on_and_sees_nothing_of_it(database_url):
    """Seen in review: `runs:*`, which every user holds, was enough, and the answer held the whole run."""
    async with running(database_url, Script(turns=["My secret."])) as server:
        answer = await server.chat("hi")
        parked = {"state": "failed", "error": {"code": "poisoned", "message": "", "category": "fatal"}}
        await server.database.write(lambda c: c.execute(update(runs).values(**parked)) and None)
        path = f"/v1/runs/{answer['run_id']}/release"
        for scope in ("chat runs:* conversations:* agents:read tools:call", "runs:*"):
            assert (await server.person("bob", scope=scope).post(path)).status_code == 403
        assert (await server.person("eve", tenant="other", scope="admin").post(path)).status_code == 404
        released = await server.person("olga", scope="admin").post(path)
        assert (released.status_code, released.json()) == (202, {"run_id": answer["run_id"], "state": "running"})
