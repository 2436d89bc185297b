import asyncio
import contextlib
import signal

import pytest
from tests.support.commands import ran, started
from tests.support.processes import free_port
from tests.support.server import Person

from pilothouse.cli.actions.sse import read_events
from pilothouse.testing.provider import Script, Turn


@pytest.fixture
async def demo(tmp_path):
    async with started("demo", "--port", "0", cwd=tmp_path) as server:
        await server.wait_for("Ctrl-C stops it")
        yield server


def chatting(url, cwd, **options):
    return started("chat", "--url", url, cwd=cwd, tty=True, **options)


async def test_a_person_chats_in_a_terminal_sees_tools_and_leaves_with_ctrl_d(demo, tmp_path):
    async with chatting(await demo.url(), tmp_path) as chat:
        await chat.wait_for("Using the demo's token from .pilothouse/demo.key")
        await chat.wait_for("Chatting with support at http")
        await chat.wait_for(r"> ")
        chat.type("Where is order 1042?\n")
        await chat.wait_for(r"→ order_lookup \{\"order_id\":\"1042\"\}")
        await chat.wait_for(r"← order_lookup .*\(\d+ ms\)")
        await chat.wait_for(r"is \*\*packed\*\*")
        await chat.wait_for(r"\d+ tokens in, \d+ out · cost not known · [\d.]+ s · demo")
        await chat.wait_for("> ", count=2)
        chat.type("And track it\n")
        await chat.wait_for(r"→ shipping_status \{\"order_id\":\"1042\"\}")  # the same conversation
        await chat.wait_for("> ", count=3)
        chat.type("\x04")
        assert await chat.ended() == 0


async def test_ctrl_c_stops_the_answer_and_at_the_prompt_ends_the_chat(demo, tmp_path):
    async with chatting(await demo.url(), tmp_path) as chat:
        await chat.wait_for(r"> ")
        chat.type("Tell me something long\n")
        await chat.wait_for("so that you can watch")
        chat.type("\x03")
        await chat.wait_for("Stopping …")
        await chat.wait_for("Stopped. Nothing had taken effect.")
        await chat.wait_for("> ", count=2)
        assert "That was all." not in chat.out
        chat.type("Where is order 1042?\n")
        await chat.wait_for(r"is \*\*packed\*\*")
        await chat.wait_for("> ", count=3)
        assert await leaves(chat) == 0


async def leaves(chat):
    """Ctrl-C at the prompt. CPython overlooks one that comes in the instant the prompt appears, until the next key."""
    while True:
        chat.type("\x03")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                return await chat.process.wait()


async def test_in_a_pipe_stdout_gets_only_the_answer(demo, tmp_path):
    url = await demo.url()
    code, out, err = await ran("chat", "--url", url, cwd=tmp_path, stdin="Where is order 1042?\n")
    assert code == 0, err
    assert out.startswith("Offline demo model: order **1042**")
    assert out.count("\n") == 1
    assert "\x1b" not in out + err
    assert "→ order_lookup" in err
    code, out, err = await ran("chat", "--url", url, "--token", "ph_no", "-m", "Hi", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert "not an API key of this server" in err
    code, out, err = await ran("chat", "--url", url, "--agent", "nobody", "-m", "Hi", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert "nobody" in err
    assert "Traceback" not in err


async def test_a_server_that_is_not_there_is_a_sentence(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    code, out, err = await ran("chat", "--url", url, "-m", "Hi", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err == f"No server answers at {url}. Start one with `pilothouse demo`, or name it with --url.\n"
    code, _, err = await ran("chat", "--url", "ftp://x", "-m", "Hi", cwd=tmp_path)
    assert (code, "is not a server's address" in err) == (1, True)


async def test_a_chat_goes_on_where_it_was_after_the_server_was_killed_and_started_again(project, env, provider):
    provider.script = Script(
        rules=[],
        turns=[Turn(text="one two three four five six seven eight", gate="hold", gate_after_tokens=3), "one two three"],
    )
    port = str(free_port())
    serve = ("serve", "main:app", "--local", "--port", port)
    async with started(*serve, cwd=project, env=env) as server:
        url = await server.url()
        async with chatting(url, project, env=env) as chat:
            await chat.wait_for(r"> ")
            chat.type("Go on\n")
            await chat.wait_for("one two")
            server.signal(signal.SIGKILL)
            await chat.wait_for("Connection lost; taking it up again")
            provider.release("hold")
            async with started(*serve, cwd=project, env=env) as again:
                await again.url()
                await chat.wait_for("begins again")
                await chat.wait_for("one two three")
                await chat.wait_for("tokens in")
                person = Person(url, None)
                runs = (await person.get("/v1/runs")).json()["items"]
                await person.close()
        assert [(run["state"], run["text"]) for run in runs] == [("completed", "one two three")]


async def test_events_are_read_however_the_bytes_are_cut():
    stream = (
        'id: 1-1\nevent: a\ndata: {"t": "ü\u2028x"}\n\n: hb\n\n'
        'id: 1-2\r\nevent: b\r\ndata: {"t":\r\ndata: 2}\r\n\r\nid: 1-3\ndata: {'
    )
    data = stream.encode()
    for size in (1, 2, 7, len(data)):

        async def pieces(size=size):
            for start in range(0, len(data), size):
                yield data[start : start + size]

        events = [(event.id, event.type, event.data["t"]) async for event in read_events(pieces())]
        assert events == [("1-1", "a", "ü\u2028x"), ("1-2", "b", 2)]
