import asyncio
import signal
import socket
import time

import pytest
from tests.support.commands import ran, started
from tests.support.server import Person

from pilothouse.testing.provider import Script, Turn

SLOW = Script(turns=[Turn(tokens=40, gate="hold", gate_after_tokens=10), Turn(text="All done.")])


async def told(*arguments, **options):
    """The sentence of a command that can't begin."""
    code, out, err = await ran(*arguments, **options)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    return err.strip()


async def test_what_keeps_a_server_from_starting_is_one_sentence_and_exit_code_2(project, env, provider):
    assert "There is no module nowhere" in await told("serve", "nowhere:app", cwd=project, env=env)
    sentence = await told("serve", "main:app", cwd=project, env={**env, "PILOTHOUSE_SERVER_PROT": "1"})
    assert sentence == "PILOTHOUSE_SERVER_PROT is not a setting. Did you mean PILOTHOUSE_SERVER_PORT?"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sentence = await told("serve", "main:app", "--port", str(port), cwd=project, env=env)
    assert sentence.startswith(f"Port {port} of 127.0.0.1 is taken by another program.")
    await provider.stop()
    sentence = await told("serve", "main:app", cwd=project, env=env)
    assert "openai can't be reached" in sentence
    assert "\n" not in sentence


async def test_beyond_this_machine_it_listens_only_once_somebody_can_log_in(project, env):
    sentence = await told("serve", "main:app", "--host", "0.0.0.0", cwd=project, env=env)
    assert "can't listen on '0.0.0.0' before callers can identify themselves" in sentence
    sentence = await told("serve", "main:app", "--host", "0.0.0.0", "--local", cwd=project, env=env)
    assert "local development mode" in sentence
    code, token, _ = await ran("keys", "create", "mine", "--subject", "ada", cwd=project, env=env)
    assert code == 0
    async with started("serve", "main:app", "--host", "0.0.0.0", cwd=project, env=env) as server:
        person = Person(await server.url(), token.strip())
        assert (await person.chat("Hi"))["text"] == "Hello there."
        await person.close()
        nobody = Person(person.url, None)
        response = await nobody.send("Hi")
        await nobody.close()
        assert response.status_code == 401
        assert "server" not in response.headers


async def test_options_win_over_the_environment_and_a_taken_folder_is_a_sentence(project, env):
    env = {**env, "PILOTHOUSE_DATA_DIR": "from-environment", "PILOTHOUSE_MODELS_CHECK": "true"}
    env["PILOTHOUSE_OPENAI_BASE_URL"] = "http://127.0.0.1:1/v1"
    serve = ("serve", "main:app", "--local", "--no-check", "--data-dir", "from-option")
    async with started(*serve, cwd=project, env=env) as server:
        await server.url()
        assert (project / "from-option" / "pilothouse.db").exists()
        assert not (project / "from-environment").exists()
        assert "Another Pilothouse process" in await told(*serve, cwd=project, env=env)


async def test_sigterm_ends_it_within_the_grace_and_the_run_is_continued_after_the_restart(project, env, provider):
    provider.script = SLOW
    env = {**env, "PILOTHOUSE_SERVER_SHUTDOWN_SECONDS": "0.5"}
    async with started("serve", "main:app", "--local", cwd=project, env=env) as server:
        person = Person(await server.url(), None)
        async with person.stream("Go on") as stream:
            first = await stream.until("text.delta")
            whole = asyncio.create_task(person.send("Whole, please"))
            await provider.wait_for_gate("hold")
            began = time.monotonic()
            server.signal(signal.SIGTERM)
            seen = await stream.rest()
        assert seen[-1].type != "run.completed"
        assert (await server.ended(), time.monotonic() - began < 6) == (0, True)
        assert "Traceback" not in server.err
        await whole
        await person.close()
    provider.release("hold")
    async with started("serve", "main:app", "--local", cwd=project, env=env) as server:
        person = Person(await server.url(), None)
        async with person.follow(stream.run_id, after=seen[-1].id) as rest:
            events = await rest.rest()
        await person.close()
    assert events[-1].type == "run.completed"
    assert [event.place for event in events] == sorted({event.place for event in events})
    assert events[0].place > seen[-1].place >= first.place
    assert {event.type for event in events} >= {"run.started", "message"}


async def test_while_it_stops_new_runs_are_refused_and_those_that_run_may_end(project, env, provider):
    provider.script = SLOW
    async with started("serve", "main:app", "--local", cwd=project, env=env) as server:
        person = Person(await server.url(), None)
        async with person.stream("Go on") as stream:
            await stream.until("text.delta")
            server.signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                while (ready := await person.get("/health/ready")).status_code == 200:
                    pass
            assert (ready.status_code, ready.json()["reason"]) == (
                503,
                "This server is stopping. Send the request again: another one will answer.",
            )
            refused = await person.send("Another")
            assert (refused.status_code, refused.json()["code"]) == (503, "stopping")
            assert refused.headers["retry-after"] == "1"
            provider.release("hold")
            assert (await stream.rest())[-1].type == "run.completed"
        assert await server.ended() == 0
        await person.close()


async def test_a_caller_who_waits_for_a_whole_answer_is_told_where_to_find_it(project, env, provider):
    provider.script = Script(turns=[Turn(text="Late.", gate="hold")])
    env = {**env, "PILOTHOUSE_SERVER_SHUTDOWN_SECONDS": "0"}
    async with started("serve", "main:app", "--local", cwd=project, env=env) as server:
        person = Person(await server.url(), None)
        waiting = asyncio.create_task(person.send("Hi"))
        await provider.wait_for_gate("hold")
        server.signal(signal.SIGTERM)
        answer = await waiting
        assert (answer.status_code, answer.json()["code"]) == (503, "stopping")
        assert answer.json()["run_id"] in answer.json()["detail"]
        assert await server.ended() == 0
        await person.close()


async def test_a_second_signal_stops_it_at_once(project, env, provider):
    provider.script = SLOW
    async with started("serve", "main:app", "--local", cwd=project, env=env) as server:
        person = Person(await server.url(), None)
        async with person.stream("Go on") as stream:
            await stream.until("text.delta")
            server.signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                while (await person.get("/health/ready")).status_code == 200:
                    pass
            server.signal(signal.SIGTERM)
            assert await server.ended() == 128 + signal.SIGTERM
        await person.close()
        assert "Stopped at once." in server.err


async def test_reload_starts_anew_when_a_file_changes(project, env, provider):
    provider.script = Script(turns=["Hello there."])
    async with started("serve", "main:app", "--local", "--reload", cwd=project, env=env) as server:
        person = Person(await server.url(), None)
        assert (await person.chat("Hi"))["agent"] == "helper"
        main = project / "main.py"
        main.write_text(main.read_text().replace('"helper"', '"renamed"'))
        await server.wait_for("Listening on", count=2)
        assert "renamed" in (await person.get("/v1/agents")).text
        await person.close()
        server.signal(signal.SIGTERM)
        assert await server.ended() == 0


@pytest.mark.parametrize("module", ["pilothouse", "pilothouse.cli"])
def test_importing_the_package_starts_nothing(module):
    assert __import__(module)
