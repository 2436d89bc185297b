"""Show a run's events: as they come in a terminal, and only the answer where stdout is a file or a pipe."""

import os
import sys
import time
from typing import Any, TextIO

from pilothouse.cli.actions.sse import Event
from pilothouse.cli.output import plain
from pilothouse.kit.jsons import dumps
from pilothouse.kit.printable import one_line

_SHORT = 100
_DIM, _RED, _END = "\x1b[2m", "\x1b[31m", "\x1b[0m"


class Screen:
    """One answer.

    Args:
        out: gets the answer; in a terminal everything.
        remarks: gets tools, costs and trouble where `out` is no terminal.
    """

    def __init__(self, out: TextIO = sys.stdout, remarks: TextIO = sys.stderr) -> None:
        self._live = out.isatty()
        self._out = out
        self._remarks = out if self._live else remarks
        self._colours = self._remarks.isatty() and not os.environ.get("NO_COLOR")
        self._began = time.monotonic()
        self._shown: set[int] = set()  # steps of which text was written
        self._fresh = True  # the cursor is at the beginning of a line
        self._model: str | None = None

    def show(self, event: Event) -> None:
        """Write what is new with this event."""
        handler = getattr(self, "_on_" + event.type.replace(".", "_"), None)
        if handler is not None:
            handler(event.data)

    def remark(self, text: str, *, colour: str = _DIM) -> None:
        """A line beside the answer."""
        self._new_line()
        text = plain(text)
        self._remarks.write(f"{colour}{text}{_END}\n" if self._colours else f"{text}\n")
        self._remarks.flush()

    def _on_text_delta(self, data: dict[str, Any]) -> None:
        if self._live:
            if data["text"]:
                self._shown.add(data["step"])
            self._write(data["text"])

    def _on_step_restarted(self, data: dict[str, Any]) -> None:
        if data["step"] in self._shown:
            self._shown.discard(data["step"])
            self.remark("(The answer was interrupted and begins again.)")

    def _on_message(self, data: dict[str, Any]) -> None:
        """The step's whole answer: in a pipe the only one, in a terminal for what did not come as deltas."""
        self._model = data.get("model") or self._model
        text = data.get("text") or ""
        if data["step"] not in self._shown and text:
            self._write(text)
        if text:
            self._new_line()

    def _on_tool_started(self, data: dict[str, Any]) -> None:
        arguments = data.get("arguments")
        shown = arguments if isinstance(arguments, str) else dumps(arguments or {})
        self.remark(f"  → {one_line(str(data['name']))} {_short(shown)}")

    def _on_tool_finished(self, data: dict[str, Any]) -> None:
        status = "" if data["status"] == "ok" else f"{data['status']}: "
        error: Any = data.get("error")
        told: Any = (error.get("message") if isinstance(error, dict) else error) or data.get("result") or ""  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        duration = data.get("duration_ms") or 0
        self.remark(f"  ← {one_line(str(data['name']))} {status}{_short(str(told))} ({duration} ms)")  # pyright: ignore[reportUnknownArgumentType]

    def _on_run_completed(self, data: dict[str, Any]) -> None:
        if data.get("output") is not None:
            self._write(dumps(data["output"]))
        self._new_line()
        usage: dict[str, Any] = data.get("usage") or {}
        cost = data.get("cost_usd")
        parts = [
            f"{usage.get('input_tokens', 0)} tokens in, {usage.get('output_tokens', 0)} out",
            f"${cost}" if cost is not None else "cost not known",
            f"{time.monotonic() - self._began:.1f} s",
        ]
        self.remark(" · ".join([*parts, self._model] if self._model else parts))

    def _on_run_failed(self, data: dict[str, Any]) -> None:
        error: dict[str, Any] = data.get("error") or {}
        again = " Trying again may help." if error.get("retryable") else ""
        self.remark(f"The run failed: {error.get('message')} ({error.get('code')}).{again}", colour=_RED)

    def _on_run_cancelled(self, data: dict[str, Any]) -> None:
        self.remark(effects(data.get("took_effect") or []))

    def _write(self, text: str) -> None:
        text = plain(text)
        if text:
            self._out.write(text)
            self._out.flush()
            self._fresh = text.endswith("\n")

    def _new_line(self) -> None:
        if not self._fresh:
            self._out.write("\n")
            self._out.flush()
            self._fresh = True


def effects(took_effect: list[dict[str, Any]]) -> str:
    """What a stopped run had done already."""
    if not took_effect:
        return "Stopped. Nothing had taken effect."
    done = [
        one_line(str(item.get("tool")))
        + (" (not known whether it was done)" if item.get("status") == "in_doubt" else "")
        for item in took_effect
    ]
    return f"Stopped. Already done, and not undone: {', '.join(done)}."


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHORT else line[: _SHORT - 1] + "…"
