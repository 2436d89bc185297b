"""Work is done once for a key, on both databases."""

import asyncio

import pytest

from pilothouse.errors import CallerError, Conflict, InvalidRequest, Unavailable
from pilothouse.idempotency import repository
from pilothouse.idempotency import service as module
from pilothouse.idempotency.service import Idempotency, key_use


def use(key="k", body="b", owner="ada", route="keys"):
    return key_use("acme", owner, key, route=route, body=body)


async def wrong():
    raise CallerError("no")


async def right():
    return {"ok": True}


async def test_a_hundred_simultaneous_copies_do_the_work_once_and_get_equal_answers(database):
    done = []

    async def work():
        done.append(1)
        await asyncio.sleep(0)
        return {"made": len(done)}

    answers = await asyncio.gather(*(Idempotency(database).once(use(), work) for _ in range(100)))
    assert done == [1]
    assert answers == [{"made": 1}] * 100


async def test_the_same_key_with_another_body_or_route_is_refused(database):
    once = Idempotency(database)

    async def work():
        return {}

    await once.once(use(), work)
    for other in (use(body="c"), use(route="tools")):
        with pytest.raises(InvalidRequest) as error:
            await once.once(other, work)
        assert error.value.code == "idempotency_key_reused"


async def test_the_same_key_of_another_owner_is_another_key(database):
    once, count = Idempotency(database), []

    async def work():
        count.append(1)
        return {"count": len(count)}

    assert await once.once(use(), work) == {"count": 1}
    assert await once.once(use(owner="bob"), work) == {"count": 2}


async def test_a_request_at_fault_gives_its_key_back(database):
    once = Idempotency(database)

    with pytest.raises(CallerError):
        await once.once(use(), wrong)
    assert await once.once(use(), right) == {"ok": True}


async def test_a_request_whose_process_died_is_not_done_again_on_a_guess(database, monkeypatch):
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.2)
    await database.write(repository.claim, use(), "", 0)  # all that a process wrote that died at its work

    async def again():
        raise AssertionError

    with pytest.raises(Conflict) as error:
        await Idempotency(database).once(use(), again)
    assert error.value.code == "idempotency_unfinished"


@pytest.mark.parametrize("key", ["", "x" * 256, "k\n", "ü"])
def test_keys_are_short_printable_ascii(key):
    with pytest.raises(InvalidRequest) as error:
        use(key=key)
    assert (error.value.code, error.value.status) == ("bad_idempotency_key", 400)


class Away:
    """A database that takes no answers and gives no keys back, until `back` is set."""

    def __init__(self):
        self.back, self.asked, self.released = asyncio.Event(), asyncio.Event(), []

    async def write(self, unit, *args):
        if unit is repository.claim:
            return
        if unit is repository.release and self.released:
            self.asked.set()
            await self.back.wait()
            return
        self.released.append(args)
        raise Unavailable("away")

    async def read(self, unit, *args):
        return None


async def test_a_key_that_is_forgotten_while_it_is_given_back_can_be_used(monkeypatch):
    monkeypatch.setattr(module, "_MOST_UNWRITTEN", 1)
    away = Away()
    once = Idempotency(away)

    with pytest.raises(CallerError):
        await once.once(use(), wrong)
    again = asyncio.create_task(once.once(use(), right))
    await away.asked.wait()
    await once.once(use(key="other"), right)  # its answer can't be written: it takes the only place
    away.back.set()
    assert await again == {"ok": True}
