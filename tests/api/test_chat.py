"""`POST /v1/chat`."""

from tests.support.server import running

from pilothouse.testing.provider import Script


async def test_a_message_is_answered(database_url):
    async with running(database_url, Script(turns=["Hello there."])) as server:
        answer = await server.chat("Hi")
        assert answer["text"] == "Hello there."
        assert answer["state"] == "completed"
        async with server.stream("Hi again", conversation_id=answer["conversation_id"]) as stream:
            events = await stream.rest()
        print([(e.id, e.type) for e in events])
        assert events[-1].type == "run.completed"
