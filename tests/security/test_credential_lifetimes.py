"""What was opened or made with a credential does not outlive it."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from tests.promises.test_p5_stop_means_stopped import Tools, calling
from tests.support.server import Person, RunningServer, running, token_for

from pilothouse.identity import Keys, Principal
from pilothouse.testing.provider import Script, ToolCall, Turn

HELLO = Script(turns=[Turn(text="Hello, {user}.")])
HOLD = calling(ToolCall(name="hold", arguments={"name": "x"}))
NO_LEEWAY = {"leeway_seconds": 0}


async def make_key(maker: Person, *scopes: str, **body: Any) -> dict[str, Any]:
    wanted = {"name": "a key", "scopes": list(scopes) or ["chat", "runs:*", "keys:*"], **body}
    response = await maker.post("/v1/keys", wanted)
    assert response.status_code == 201, response.text
    return response.json()


async def revoke_elsewhere(server: RunningServer, key_id: str) -> None:
    """As another node would, or `pilothouse keys revoke`."""
    admin = Principal("acme", "root", frozenset({"*"}), "local")
    await Keys(server.database).revoke(admin, key_id)


async def closing(socket: aiohttp.ClientWebSocketResponse) -> tuple[list[dict[str, Any]], int | None]:
    """The frames to the end of a socket, and its close code."""
    async with asyncio.timeout(30):
        frames = [json.loads(message.data) async for message in socket]
    return frames, socket.close_code


# --- open connections


async def test_what_a_revoked_key_has_open_ends_and_its_run_goes_on(database_url):
    tools = Tools()
    async with running(database_url, HOLD, setup=tools.agent()) as server:
        key = await make_key(server)
        caller = server.bearer(key["token"])
        async with (
            caller.stream("go", on_disconnect="cancel") as stream,
            caller.follow(stream.run_id) as follower,
            caller.session.ws_connect("/v1/chat/ws/new") as socket,
        ):
            await tools.entered.wait()
            await socket.send_json({"type": "resume", "run_id": stream.run_id})
            await revoke_elsewhere(server, key["id"])
            async with asyncio.timeout(30):
                ends = [(await each.rest())[-1] for each in (stream, follower)]
            frames, code = await closing(socket)
        for end in ends:
            assert (end.type, end.id) == ("stream.closed", "")
            assert (end.data["run_id"], end.data["error"]["code"]) == (stream.run_id, "unauthenticated")
        assert (frames[-1]["type"], frames[-1]["error"]["code"], code) == ("error", "unauthenticated", 4401)
        assert (await caller.get(f"/v1/runs/{stream.run_id}")).status_code == 401
        tools.go_on.set()
        assert (await server.events(stream.run_id))[-1].type == "run.completed"


async def test_what_an_expired_jwt_has_open_ends_and_its_run_goes_on(database_url):
    tools = Tools()
    async with running(database_url, HOLD, setup=tools.agent(), auth=NO_LEEWAY) as server:
        caller = server.bearer(token_for("ada", seconds=3))
        async with caller.stream("go") as stream, caller.session.ws_connect("/v1/chat/ws/new") as socket:
            await tools.entered.wait()
            async with asyncio.timeout(30):
                end = (await stream.rest())[-1]
            _, code = await closing(socket)
        assert (end.type, end.data["error"]["code"], code) == ("stream.closed", "unauthenticated", 4401)
        tools.go_on.set()
        assert (await server.events(stream.run_id, after=stream.events[-2].id))[-1].type == "run.completed"


async def test_a_run_that_ends_with_its_socket_goes_on_when_it_is_the_credential_that_ends(database_url):
    tools = Tools()
    async with running(database_url, HOLD, setup=tools.agent()) as server:
        key = await make_key(server)
        async with server.bearer(key["token"]).session.ws_connect("/v1/chat/ws/new") as socket:
            await socket.send_json({"type": "message", "message": "go", "on_disconnect": "cancel"})
            await tools.entered.wait()
            await revoke_elsewhere(server, key["id"])
            _, code = await closing(socket)
        assert code == 4401
        [run] = (await server.get("/v1/runs")).json()["items"]
        tools.go_on.set()
        assert (await server.events(run["id"]))[-1].type == "run.completed"


async def test_what_others_have_open_stays_open(database_url):
    tools = Tools()
    async with running(database_url, HOLD, setup=tools.agent()) as server:
        mine, other = await make_key(server), await make_key(server)
        async with (
            server.bearer(mine["token"]).stream("go") as stream,
            server.bearer(other["token"]).follow(stream.run_id) as follower,
        ):
            await tools.entered.wait()
            await revoke_elsewhere(server, mine["id"])
            async with asyncio.timeout(30):
                assert (await stream.rest())[-1].type == "stream.closed"
            tools.go_on.set()
            async with asyncio.timeout(30):
                assert (await follower.rest())[-1].type == "run.completed"


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "message", "message": "Ada"},
        {"type": "cancel", "run_id": "run_x"},
        {"type": "resume", "run_id": "run_x"},
    ],
    ids=lambda frame: frame["type"],
)
async def test_a_frame_that_acts_is_authenticated_anew(database_url, frame, monkeypatch):
    """Before the look at all open connections comes to it."""
    monkeypatch.setattr("pilothouse.identity.connections._LOOK_SECONDS", 3600)
    async with running(database_url, HELLO) as server:
        key = await make_key(server)
        async with server.bearer(key["token"]).session.ws_connect("/v1/chat/ws/new") as socket:
            assert (await server.http.delete(f"/v1/keys/{key['id']}")).status_code == 204
            await socket.send_json(frame)
            frames, code = await closing(socket)
        assert [each["error"]["code"] for each in frames] == ["unauthenticated"]
        assert code == 4401
        assert (await server.get("/v1/runs")).json()["items"] == []


async def test_an_expired_jwt_starts_no_run_on_an_open_socket(database_url, monkeypatch):
    monkeypatch.setattr("pilothouse.identity.connections._LOOK_SECONDS", 3600)
    async with running(database_url, HELLO, auth=NO_LEEWAY) as server:
        expiry = int(time.time() + 2)
        caller = server.bearer(token_for("ada", seconds=2))
        async with caller.session.ws_connect("/v1/chat/ws/new") as socket:
            while time.time() < expiry + 1:
                await socket.send_json({"type": "ping"})
                assert (await socket.receive_json())["type"] == "pong"
                await asyncio.sleep(0.1)
            await socket.send_json({"type": "message", "message": "Ada"})
            frames, code = await closing(socket)
        assert ([each["error"]["code"] for each in frames], code) == (["unauthenticated"], 4401)
        assert (await server.get("/v1/runs")).json()["items"] == []


async def test_an_answer_that_was_waited_for_comes_though_its_token_has_expired(database_url):
    """`POST /v1/chat` was allowed when it was asked; it ends with the run."""
    tools = Tools()
    async with running(database_url, HOLD, setup=tools.agent()) as server:
        key = await make_key(server)
        asking = asyncio.create_task(server.bearer(key["token"]).send("go"))
        await tools.entered.wait()
        await revoke_elsewhere(server, key["id"])
        await server.services.connections.look()
        tools.go_on.set()
        assert (await asking).status_code == 200


# --- keys made with keys


def at(**later: float) -> str:
    return (datetime.now(UTC) + timedelta(**later)).isoformat()


async def test_a_key_expires_no_later_than_the_key_it_is_made_with(database_url):
    async with running(database_url, HELLO) as server:
        first = await make_key(server, expires_at=at(minutes=30))
        maker = server.bearer(first["token"])
        assert (await make_key(maker))["expires_at"] == first["expires_at"]
        assert (await make_key(maker, expires_at=at(minutes=5)))["expires_at"] < first["expires_at"]
        refused = await maker.post("/v1/keys", {"name": "n", "scopes": ["chat"], "expires_at": at(minutes=31)})
        assert (refused.status_code, refused.json()["code"]) == (422, "expiry_too_late")
        assert refused.json()["latest"][:19] == first["expires_at"][:19]


async def test_a_key_expires_no_later_than_the_jwt_it_is_made_with(database_url):
    async with running(database_url, HELLO, auth=NO_LEEWAY) as server:
        maker = server.bearer(token_for("ada", seconds=600))
        key = await make_key(maker)
        assert datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC) + timedelta(seconds=600)
        refused = await maker.post("/v1/keys", {"name": "n", "scopes": ["chat"], "expires_at": at(days=365)})
        assert (refused.status_code, refused.json()["code"]) == (422, "expiry_too_late")


async def test_revoking_a_key_revokes_all_that_were_made_with_it(database_url):
    async with running(database_url, HELLO) as server:
        root = await make_key(server)
        family = [root]
        for _ in range(5):
            family.append(await make_key(server.bearer(family[-1]["token"])))
        family.append(await make_key(server.bearer(root["token"])))
        stranger = await make_key(server)
        listed = {key["id"]: key["parent_id"] for key in (await server.get("/v1/keys")).json()["items"]}
        assert [listed[key["id"]] for key in family[:6]] == [None, *(key["id"] for key in family[:5])]
        for key in family:
            assert (await server.bearer(key["token"]).get("/v1/me")).status_code == 200
        assert (await server.http.delete(f"/v1/keys/{root['id']}")).status_code == 204
        for key in family:
            assert (await server.bearer(key["token"]).get("/v1/me")).status_code == 401
        assert (await server.bearer(stranger["token"]).get("/v1/me")).status_code == 200


async def test_no_key_is_left_that_was_made_while_its_maker_was_revoked(database_url):
    async with running(database_url, HELLO) as server:
        for _ in range(4):
            root = await make_key(server)
            child = await make_key(server.bearer(root["token"]))
            makers = [server.bearer(key["token"]) for key in (root, child) for _ in range(6)]
            wanted = {"name": "n", "scopes": ["chat"]}
            making = [asyncio.create_task(maker.post("/v1/keys", wanted)) for maker in makers]
            await asyncio.gather(revoke_elsewhere(server, root["id"]), server.http.delete(f"/v1/keys/{child['id']}"))
            made = [answer.json()["token"] for answer in await asyncio.gather(*making) if answer.status_code == 201]
            fresh = Keys(server.database)  # remembers nothing
            for token in made:
                with pytest.raises(Exception, match="revoked"):
                    await fresh.authenticate(token)
