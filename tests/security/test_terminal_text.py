"""What comes from outside is shown as text: it moves no cursor, forges no line, and is no markup of ours."""

import ast
import io
import json
from pathlib import Path

import pytest
from rich.table import Table

import pilothouse
from pilothouse.cli import output
from pilothouse.cli.actions import keys, replay, runs
from pilothouse.cli.actions.doctor import _Examination
from pilothouse.cli.actions.screen import Screen
from pilothouse.cli.actions.sse import Event
from pilothouse.errors import StartupError
from pilothouse.identity.keys import ApiKey
from pilothouse.kit.printable import escape_json, one_line, printable
from pilothouse.observability import configure_logging, get_logger
from pilothouse.runs.replay import Difference, Replayed
from pilothouse.settings import LogSettings

CONTROLS = "\x1b]0;owned\x07\x1b[2J\x9b31m\x9d\x85\x7f\x00\x08\u202egpj\u2066\u2028\u061c\ufeff"
NASTY = f"[red]a[/red] [/] :boom: [link=https://evil.example]b[/link] {CONTROLS} é 数据 👩🏽‍🚀 end"
UNSAFE = (
    *map(chr, range(9)),
    *map(chr, range(11, 32)),
    *map(chr, range(127, 160)),
    *"\u061c\u2028\u202e\u2066\ufeff\udc80",
)
SOURCE = Path(pilothouse.__file__).parent


def is_shown_as_text(shown: str) -> None:
    assert [character for character in shown if character in UNSAFE] == []
    shown.encode()  # no lone surrogate either


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_each_such_character_is_written_out_and_others_stay():
    assert printable("a\x1b[1m\x9b\u202e\ud800") == "a\\x1b[1m\\x9b\\u202e\\ud800"
    assert printable("é 数据 👩🏽‍🚀 مرحبا\ttab\nline") == "é 数据 👩🏽‍🚀 مرحبا\ttab\nline"
    assert printable("dos\r\nline") == "dos\nline"
    assert one_line("a\nb\tc") == "a\\nb\\tc"
    is_shown_as_text(printable("".join(map(chr, range(0x3000)))).replace("\n", "").replace("\t", ""))


def test_json_means_the_same_and_holds_none_of_them():
    document = json.dumps({"a": CONTROLS, "b": [1, "é"]}, ensure_ascii=False)
    is_shown_as_text(escape_json(document))
    assert json.loads(escape_json(document)) == {"a": CONTROLS, "b": [1, "é"]}


RUN = {
    "id": NASTY,
    "run_id": NASTY,
    "conversation_id": NASTY,
    "agent": NASTY,
    "model": NASTY,
    "state": NASTY,
    "created_at": CONTROLS,
    "duration_ms": 1,
    "step_count": 1,
    "attempt": 2,
    "message": NASTY,
    "text": NASTY,
    "cost_usd": CONTROLS,
    "usage": {"input_tokens": CONTROLS, "output_tokens": 2},
    "error": {"message": NASTY, "code": NASTY},
    "took_effect": [{"tool": NASTY, "status": "done"}],
    "already_finished": False,
    "steps": [
        {
            "number": NASTY,
            "kind": "tool",
            "name": NASTY,
            "state": NASTY,
            "duration_ms": 1,
            "cost_usd": None,
            "arguments": {NASTY: NASTY},
            "result": NASTY,
            "error_code": NASTY,
        }
    ],
}


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("command", ["list", "show", "cancel", "release", "keys", "replay"])
def test_no_command_lets_text_from_outside_act_on_the_terminal(monkeypatch, capsys, command, as_json):
    document = {"items": [RUN], "next_cursor": None} if command == "list" else RUN

    async def answer(*_args):
        return document

    async def listed(*_args):
        return [ApiKey(**dict.fromkeys(ApiKey.__annotations__, None) | key)]

    key = {
        "id": "key_1",
        "tenant": "t",
        "owner": NASTY,
        "name": NASTY,
        "prefix": "ph_1",
        "scopes": (NASTY,),
        "created_at": 1,
    }
    difference = Difference(step=1, what=NASTY, recorded=NASTY, now=NASTY)

    async def replayed(*_args):
        return Replayed(run_id=NASTY, agent=NASTY, responses=1, difference=difference)

    monkeypatch.setattr(runs, "_get", answer)
    monkeypatch.setattr(runs, "_post", answer)
    monkeypatch.setattr(keys, "_list", listed)
    monkeypatch.setattr(replay, "_replay", replayed)
    monkeypatch.setattr(replay, "load_target", lambda _target: None)
    if command == "list":
        runs.list_runs("http://x", None, {}, as_json=as_json)
    elif command == "keys":
        keys.list_keys("t", as_json=as_json)
    elif command == "replay":
        with pytest.raises(Exception, match="1"):
            replay.replay_run("run_1", "main:app", ignore=[], as_json=as_json)
    else:
        getattr(runs, f"{command}_run")("http://x", None, "run_1", as_json=as_json)
    shown = capsys.readouterr().out
    is_shown_as_text(shown.replace("\n", "").replace("\t", ""))
    assert "owned" in shown
    if not as_json:
        assert "[red]a[/red]" in "".join(shown.split("\n"))


def test_errors_and_findings_are_text_without_passwords(capsys):
    output.complain(StartupError(f"The database postgresql://u:p@ss@host/db says {NASTY}\udc80 and password=hunter2."))
    examination = _Examination(None)
    examination._tell("database", f"{NASTY} postgresql://u:p@ss@host/db", well=False)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        is_shown_as_text(text.replace("\n", ""))
        assert "[red]a[/red]" in text
        assert "p@ss" not in text
        assert "hunter2" not in text


def test_markup_in_a_cell_is_text(capsys):
    table = Table("a")
    output.add_row(table, "[bold]x[/bold] [/nothing]")
    output.show_table(table)
    assert "[bold]x[/bold] [/nothing]" in capsys.readouterr().out


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_streamed_answer_is_text_however_its_sequences_are_split(monkeypatch, size):
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    screen = Screen(out, out)
    for at in range(0, len(NASTY), size):
        screen.show(Event("1-1", "text.delta", {"step": 1, "text": NASTY[at : at + size]}))
    screen.show(Event("1-2", "message", {"step": 1, "text": NASTY, "model": CONTROLS}))
    screen.show(Event("1-3", "tool.started", {"name": f"{NASTY}\nforged", "arguments": {"a": NASTY}}))
    screen.show(Event("1-4", "tool.finished", {"name": NASTY, "status": "error", "error": {"message": NASTY}}))
    screen.show(Event("1-5", "run.failed", {"error": {"message": NASTY, "code": CONTROLS}}))
    screen.show(Event("1-6", "run.cancelled", {"took_effect": [{"tool": f"{NASTY}\nforged"}]}))
    shown = out.getvalue()
    is_shown_as_text(shown.replace("\n", ""))
    assert not any(line.startswith("forged") for line in shown.splitlines())
    assert "\\x1b]0;owned\\x07" in shown


@pytest.mark.parametrize("style", ["json", "pretty"])
def test_a_log_line_is_one_line_of_text(style):
    out = io.StringIO()
    configure_logging(LogSettings(format=style), "production", stream=out)
    get_logger("a").info(f"{NASTY}\nforged", value=f"{NASTY}\nforged", deep=[{NASTY: NASTY}])
    (line,) = out.getvalue().split("\n")[:-1]
    is_shown_as_text(line)
    assert "owned" in line
    if style == "json":
        assert json.loads(line)["event"] == f"{NASTY}\nforged"


def test_every_command_writes_through_the_one_place_that_does_so():
    """`typer.echo`, `print` and Rich's console are named in cli/output.py only."""
    found = []
    for file in (SOURCE / "cli").rglob("*.py"):
        if file.name == "output.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "print",
                "typer.echo",
                "typer.secho",
                "Console",
            }:
                found.append(f"{file.name}:{node.lineno}")
            if isinstance(node, ast.Attribute) and node.attr == "add_row" and ast.unparse(node.value) != "output":
                found.append(f"{file.name}:{node.lineno}")
    assert found == []
