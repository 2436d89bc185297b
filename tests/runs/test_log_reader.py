"""Reads of logs that are made together, and who is woken when."""

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.function import FunctionModel
from tests.support.node import Node
from tests.support.watching import WatchedDatabase, until

from pilothouse.db import Database
from pilothouse.errors import Unavailable
from pilothouse.runs import log_repository, repository
from pilothouse.runs.events import START, EventPlace, EventRow
from pilothouse.runs.log_reader import LogLook, LogReader
from pilothouse.runs.watches import Watches


async def logs(node: Node, lengths: list[int]) -> list[str]:
    """Runs with so many further rows in their logs."""
    run_ids: list[str] = []
    for length in lengths:
        accepted = await node.start("hi")
        await node.runs.wait(node.new("").principal, accepted)
        rows = [EventRow(2, number, "run.started", f'{{"n": {number}}}') for number in range(1, length + 1)]
        if rows:
            await node.database.write(repository.insert_events, accepted.run_id, rows, 1)
        run_ids.append(accepted.run_id)
    return run_ids


def helper() -> Agent[Any, Any]:
    return Agent(FunctionModel(lambda _messages, _info: ModelResponse(parts=[TextPart("hello")])), name="helper")


async def whole(reader: LogReader, run_id: str, after: EventPlace) -> list[EventPlace]:
    places: list[EventPlace] = []
    while True:
        look = await reader.read(run_id, after)
        places += [event.place for event in look.events]
        if look.complete:
            assert look.ended
            return places
        after = places[-1]


async def test_logs_read_together_are_whole_however_long_they_are(database: Database) -> None:
    lengths = [0, 1, 450, 0, 199, 200, 201, 700, 3, 1100, 0]
    watched = WatchedDatabase(database)
    async with Node(watched, helper()) as node:
        run_ids = await logs(node, lengths)
        watched.reads.clear()
        reader = LogReader(watched)
        read = await asyncio.gather(*(whole(reader, run_id, (2, 0)) for run_id in run_ids))
        assert read == [[(2, number) for number in range(1, length + 1)] for length in lengths]
        assert watched.reads["read_pages"] < 20


async def test_those_who_ask_for_the_same_at_the_same_time_share_one_read(database: Database) -> None:
    watched = WatchedDatabase(database)
    async with Node(watched, helper()) as node:
        [run_id] = await logs(node, [5])
        watched.reads.clear()
        reader = LogReader(watched)
        looks = await asyncio.gather(*(reader.read(run_id, START) for _ in range(300)))
        assert watched.reads["read_pages"] == 1
        assert all(look is looks[0] for look in looks)
        gone = await reader.read("run_unknown", START)
        assert (gone.events, gone.state, gone.ended) == ([], None, True)


async def test_a_read_that_had_begun_before_the_question_is_no_answer_to_it(database: Database) -> None:
    watched = WatchedDatabase(database)
    async with Node(watched, helper()) as node:
        [run_id] = await logs(node, [1])
        reader = LogReader(watched)
        gate = watched.hold("read_pages")
        early = asyncio.create_task(reader.read(run_id, (2, 0)))
        await until(lambda: watched.at_gate["read_pages"])
        await database.write(repository.insert_events, run_id, [EventRow(2, 2, "run.started", "{}")], 1)
        late = asyncio.create_task(reader.read(run_id, (2, 0)))
        await until(lambda: watched.at_gate["read_pages"] == 2)
        gate.set()
        assert [len((await task).events) for task in (early, late)] == [1, 2]


async def test_a_reader_who_leaves_takes_nobody_with_it_and_an_error_is_everyones_own(database: Database) -> None:
    watched = WatchedDatabase(database)
    async with Node(watched, helper()) as node:
        [run_id] = await logs(node, [1])
        reader = LogReader(watched)
        leaving, staying = (asyncio.create_task(reader.read(run_id, START)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).complete
        watched.away = True
        errors = await asyncio.gather(*(reader.read(run_id, START) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in errors] == [Unavailable] * 3
        assert len({id(error) for error in errors}) == 3
        watched.away = False
        assert (await reader.read(run_id, START)).complete


@pytest.mark.parametrize(("place", "state"), [((2, 5), ""), ((1, 0), ""), ((9, 0), "completed")])
async def test_a_look_finds_what_has_ended_whatever_is_known_of_it(
    database: Database, place: EventPlace, state: str
) -> None:
    async with Node(database, helper()) as node:
        [run_id] = await logs(node, [5])
        assert await database.read(log_repository.changed, [(run_id, *place, state)] * 3) == [0, 1, 2]


async def test_a_look_finds_new_events_new_states_and_runs_that_are_gone_and_nothing_else(database: Database) -> None:
    async with Node(database, helper()) as node:
        accepted = await node.start("hi")
        run_id = accepted.run_id
        await node.runs.wait(node.new("").principal, accepted)
        (last,) = await database.read(lambda connection: [repository.last_event_number(connection, run_id)])

        def rest(connection: Any) -> None:
            assert repository.write_fenced(connection, run_id, 1, {"state": "awaiting_input"}, state="completed")

        await database.write(rest)
        wanted = [
            (run_id, 1, last, ""),
            (run_id, 1, last - 1, ""),
            (run_id, 0, 99, ""),
            (run_id, 2, 0, ""),
            (run_id, 2, 0, "awaiting_input"),
            (run_id, 2, 0, "running"),
            ("run_gone", 1, 1, ""),
        ]
        assert sorted(await database.read(log_repository.changed, wanted)) == [1, 2, 5, 6]


async def test_many_are_woken_some_at_a_time_so_that_others_get_their_turn() -> None:
    watches = Watches()
    mine = [watches.add("run_1") for _ in range(1000)]
    for watch in mine:
        watch.arm(START)
    tasks = [asyncio.create_task(watch.wait()) for watch in mine]
    await asyncio.sleep(0)
    assert len(watches.waiting()) == 1000
    watches.changed("run_1")
    turns = 0
    while not all(task.done() for task in tasks):
        turns += 1
        done = sum(task.done() for task in tasks)
        await asyncio.sleep(0)
        assert sum(task.done() for task in tasks) - done <= 128
    assert turns >= 1000 / 128
    for watch in mine:
        watch.close()
    assert len(watches) == 0


async def test_a_watch_notes_what_changes_while_nobody_waits() -> None:
    watches = Watches()
    watch = watches.add("run_1")
    watch.arm(START)
    watches.changed("run_1")
    async with asyncio.timeout(60):
        await watch.wait()
    watch.arm(START)
    waiting = asyncio.create_task(watch.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    watches.changed("run_2")
    await asyncio.sleep(0)
    assert not waiting.done()
    watches.close()
    async with asyncio.timeout(60):
        await waiting
    watch.arm(START)
    await watch.wait()


def test_a_look_is_the_end_only_if_it_is_complete() -> None:
    assert LogLook([], complete=True, state="completed").ended
    assert LogLook([], complete=True, state=None).ended
    assert not LogLook([], complete=False, state="completed").ended
    assert not LogLook([], complete=True, state="running").ended
