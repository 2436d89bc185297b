"""Gather the evidence when all is over: ledgers from their files, runs and transcripts from the API."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any, cast

from pilothouse.testing.chaos.api import Api, GaveUp
from pilothouse.testing.chaos.callers import decide
from pilothouse.testing.chaos.check_work import APART
from pilothouse.testing.chaos.evidence import Document, Evidence, ModelRequest, ToolSpan
from pilothouse.testing.chaos.ledger import read_ledger
from pilothouse.testing.chaos.scenarios import key_of, last_words, message_text
from pilothouse.testing.chaos.stage import process_of

TERMINAL = frozenset({"completed", "failed", "cancelled"})
_AT_ONCE = 6


async def settle(api: Api, *, seconds: float) -> list[Document]:
    """Answer what waits for a person until every run has ended, at most for a while. Returns all runs.

    Raises:
        GaveUp: the server does not answer.
    """
    give_up = monotonic() + seconds
    while True:
        runs = await api.all_items("/v1/runs")
        still = [run for run in runs if run["state"] not in TERMINAL]
        if not still or monotonic() > give_up:
            return runs
        for run in still:
            if run["state"] == "awaiting_input":
                await _answer_all(api, run["id"])
        await asyncio.sleep(0.5)


async def _answer_all(api: Api, run_id: str) -> None:
    answer = await api.ask("GET", f"/v1/runs/{run_id}")
    for step in answer.document.get("steps", ()):
        if step["kind"] == "tool" and step["state"] == "waiting":
            await decide(api, run_id, step["call_id"])


async def read_back(api: Api, evidence: Evidence, runs: Iterable[Document]) -> None:
    """Read the callers' runs, their logs and their conversations into the evidence. Of the other runs only those that
    did not end well are noted: they are many, or huge.

    Raises:
        GaveUp: the server does not answer.
    """
    good = {probe.run_id for probe in evidence.probes if probe.problem is None}
    gate = asyncio.Semaphore(_AT_ONCE)

    async def run(run_id: str) -> None:
        async with gate:
            found = (await api.ask("GET", f"/v1/runs/{run_id}")).document
            key = key_of(found["message"]) or ""
            if key.startswith(APART):
                _note_apart(evidence, key, found)
                return
            evidence.runs[run_id] = found
            evidence.logs[run_id] = await api.log_of(run_id)

    async def conversation(conversation_id: str) -> None:
        async with gate:
            path = f"/v1/conversations/{conversation_id}/messages"
            evidence.transcripts[conversation_id] = await api.all_items(path)

    await asyncio.gather(*(run(item["id"]) for item in runs if item["id"] not in good))
    names = sorted({run["conversation_id"] for run in evidence.runs.values()})
    await asyncio.gather(*(conversation(name) for name in names))


def _note_apart(evidence: Evidence, key: str, run: Document) -> None:
    if run["state"] not in TERMINAL:
        evidence.unfinished.append(f"{key} {run['state']}")
    elif run["state"] == "failed":
        evidence.failed_apart.append(f"{key} {run['error']['code']}")


async def try_next_turns(api: Api, evidence: Evidence) -> None:
    """Send one more message in each conversation: the next turn always works (P7)."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, conversation_id: str) -> None:
        key = f"next{number}"
        body = {"message": message_text(key, "quick"), "conversation_id": conversation_id, "on_busy": "queue"}
        async with gate:
            try:
                answer = await api.ask("POST", "/v1/chat", body, key=key)
            except GaveUp as error:
                evidence.next_turns[conversation_id] = str(error)
                return
        text = str(answer.document.get("text", ""))
        good = answer.status == 200 and text.endswith(last_words(key))
        evidence.next_turns[conversation_id] = None if good else f"{answer.status} {answer.code} {text[-40:]!r}"

    await asyncio.gather(*(one(number, name) for number, name in enumerate(sorted(evidence.transcripts))))


def model_requests(path: Path) -> list[ModelRequest]:
    """The model's ledger, without requests that are not ours."""
    lines = read_ledger(path)
    ends = {line["index"]: line for line in lines if line["event"] == "end"}
    requests: list[ModelRequest] = []
    for line in lines:
        if line["event"] != "start":
            continue
        end: dict[str, Any] = ends.get(line["index"], {})
        key, position, broken = _read_prompt(line["body"])
        if key is None:
            continue
        requests.append(
            ModelRequest(
                index=line["index"],
                key=key,
                position=position,
                prompt_hash=line["messages_hash"],
                process=process_of(line["headers"].get("authorization", "")),
                started=line["started_at"],
                ended=end.get("ended_at"),
                outcome=end.get("outcome"),
                broken_calls=broken,
            )
        )
    return requests


def model_stalls(path: Path) -> list[tuple[float, float]]:
    """From when to when the model's process stood still, by its ledger (Unix seconds)."""
    return [(line["from"], line["until"]) for line in read_ledger(path) if line["event"] == "stall"]


def _read_prompt(body: Document | None) -> tuple[str | None, int, tuple[str, ...]]:
    """Of a prompt in OpenAI's chat completions: the last user's key, results after it, calls not answered just once."""
    key, results = None, 0
    calls: dict[str, int] = {}
    for message in _documents((body or {}).get("messages")):
        if message.get("role") == "user":
            key, results = key_of(_text(message.get("content"))), 0
        elif message.get("role") == "tool":
            results += 1
            call_id = str(message.get("tool_call_id"))
            calls[call_id] = calls.get(call_id, 1) + 1
        for call in _documents(message.get("tool_calls")):
            calls[str(call.get("id"))] = 0
    return key, results, tuple(call for call, count in calls.items() if count != 1)


def _text(content: object) -> str:
    return content if isinstance(content, str) else " ".join(str(part.get("text", "")) for part in _documents(content))


def _documents(value: object) -> list[Document]:
    return cast("list[Document]", value) if isinstance(value, list) else []


def tool_spans(path: Path) -> list[ToolSpan]:
    """The tools' ledger: starts, each with its end where there is one. Calls of one process never overlap with
    themselves, so the next end of the same call in the same process is its.
    """
    open_spans: dict[tuple[str, str, int], dict[str, Any]] = {}
    spans: list[ToolSpan] = []
    for line in read_ledger(path):
        place = (line["run_id"], line["call_id"], line["pid"])
        if line["phase"] == "start":
            if (unfinished := open_spans.pop(place, None)) is not None:
                spans.append(_span(unfinished, None))
            open_spans[place] = line
        elif (started := open_spans.pop(place, None)) is not None:
            spans.append(_span(started, line))
    spans += [_span(line, None) for line in open_spans.values()]
    return sorted(spans, key=lambda span: span.started)


def _span(start: dict[str, Any], end: dict[str, Any] | None) -> ToolSpan:
    return ToolSpan(
        tool=start["tool"],
        run_id=start["run_id"],
        call_id=start["call_id"],
        idempotency_key=start["idempotency_key"],
        process=start["process"],
        started=start["at"],
        ended=end["at"] if end else None,
        phase=end["phase"] if end else "start",
    )
