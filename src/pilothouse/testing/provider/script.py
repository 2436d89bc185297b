"""The script: what the provider answers, to whom, how fast, and how it fails.

Everything here is an immutable value, loadable from Python, YAML or JSON. Durations are in seconds.
A text is split into tokens of four characters (`token_characters`); positions such as `cut_after_tokens` count every
token sent, in this order: reasoning, text, arguments of tool calls.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Seconds = Annotated[float, Field(ge=0)]
TokenCount = Annotated[int, Field(ge=0)]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)


class ToolCall(_Value):
    """One tool call of an answer: `arguments` as an object, or `raw_arguments` as the exact text sent.

    Use `raw_arguments` for JSON that is malformed. Ids are given by the provider:
    `call_<request number, eight digits>_<position>`.
    """

    name: str = Field(min_length=1)
    arguments: dict[str, Any] = Field(default_factory=dict)
    raw_arguments: str | None = None


class ErrorReply(_Value):
    """An error in the shape of the wire, whose text holds `FAKE_SECRET` so that a leak can be found.

    `retry_after` sets the `Retry-After` header. `message`, `type` and `code` override those usual
    for the status. With `after_tokens` the answer starts with 200 and the error arrives as an event
    of the stream after that many tokens (a request that asked for no stream gets the status).
    """

    status: int = Field(default=500, ge=400, le=599)
    retry_after: Seconds | None = None
    message: str | None = None
    type: str | None = None
    code: str | None = None
    after_tokens: TokenCount | None = None


class UsageReport(_Value):
    """Token counts to report instead of the estimate; a count left out is estimated.

    `input` includes `cached`, the tokens read from the provider's cache.
    """

    input: TokenCount | None = None
    output: TokenCount | None = None
    cached: TokenCount = 0


class RawReply(_Value):
    """An answer that is no answer: these bytes, in no wire's shape.

    With `http` false not even a status line is sent: the connection gets the bytes and is closed. With
    `bytes_per_second` they trickle, after the status line. `repeat` sends the body that often, `None` for ever.
    """

    body: str = ""
    status: int = Field(default=200, ge=100, le=599)
    content_type: str = "text/event-stream"
    http: bool = True
    bytes_per_second: float | None = Field(default=None, gt=0)
    repeat: int | None = Field(default=1, ge=1)


def _error_from_status(value: Any) -> Any:
    return {"status": value} if isinstance(value, int) else value


def _is_regex(value: str | None) -> str | None:
    try:
        re.compile(value or "")
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


class Turn(_Value):
    """One answer of the model. A plain string in YAML or JSON is the same as `text`.

    Content: `text`, or `tokens` (that many distinct, deterministic words), `reasoning`, and
    `tool_calls` (several are parallel). Texts and arguments may hold `{user}` (last user text),
    `{tool_result}` (last tool result), `{tool_results}` (results since the last user text),
    `{model}`, `{request}` (number of the request) and the groups of the rule's `user_matches`
    (`{1}`, `{name}`); other braces stay as they are.

    Time: `delay` before the status line, `first_token_delay` after it and before the first token,
    then `tokens_per_second` (`None`: as fast as possible). An answer that is not streamed takes as long.

    Trouble: `error`; `cut_after_tokens` closes the connection without an end; `malformed_chunk` sends
    broken JSON after the first token; `hang` never answers and `hang_after_tokens` stops in mid-stream,
    both until the client disconnects. `gate` holds the answer until `ScriptedProvider.release`, before
    anything is sent, or after `gate_after_tokens` tokens of the stream.

    Size: `token_characters` is the length of a token. `repeat_last_token` sends the last one so many times more, or
    `forever`; it is made as it is sent, so that an answer may be far larger than memory. A reader that does not read
    holds it up. `raw` is sent instead of any answer.
    """

    text: str | None = None
    tokens: TokenCount | None = None
    reasoning: str | None = None
    tool_calls: Sequence[ToolCall] = ()
    finish_reason: FinishReason | None = None
    usage: UsageReport | None = None
    token_characters: int = Field(default=4, ge=1)
    repeat_last_token: Annotated[int, Field(ge=0)] | Literal["forever"] = 0

    delay: Seconds = 0
    first_token_delay: Seconds = 0
    tokens_per_second: float | None = Field(default=None, gt=0)

    error: Annotated[ErrorReply | None, BeforeValidator(_error_from_status)] = None
    cut_after_tokens: TokenCount | None = None
    malformed_chunk: bool = False
    raw: RawReply | None = None
    hang: bool = False
    hang_after_tokens: TokenCount | None = None
    gate: str | None = None
    gate_after_tokens: TokenCount | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.text is not None and self.tokens is not None:
            raise ValueError("a turn has `text` or `tokens`, not both")
        if self.gate_after_tokens is not None and self.gate is None:
            raise ValueError("`gate_after_tokens` needs the name of a `gate`")
        answers = (self.text, self.tokens, self.reasoning, self.error, self.raw)
        if all(part is None for part in answers) and not (self.tool_calls or self.hang):
            raise ValueError("a turn needs text, tokens, reasoning, tool_calls, error, raw or hang")
        if self.repeat_last_token and (not self.text or self.tool_calls):
            raise ValueError("`repeat_last_token` needs a `text`, and no tool calls after it")
        return self


class When(_Value):
    """The conditions of a rule; all that are given must hold, and none given holds always.

    - `user_contains`: the last user text contains this, in the same case.
    - `user_matches`: the last user text matches this regular expression somewhere.
    - `system_contains`: the system prompt contains this.
    - `model`: the name of the model, exactly.
    - `after_tool`: the last message is a tool's result (true), is none (false), or is of this tool.
    - `tool_results`: so many results came after the last user text.
    - `offers_tool`: the request offers a tool of this name.
    - `api_key`: the request carries this key.
    """

    user_contains: str | None = None
    user_matches: Annotated[str | None, AfterValidator(_is_regex)] = None
    system_contains: str | None = None
    model: str | None = None
    after_tool: bool | str | None = None
    tool_results: TokenCount | None = None
    offers_tool: str | None = None
    api_key: str | None = None


class Rule(_Value):
    """Answers `turn` when all of `when` holds, at most `times` times (`None`: always)."""

    when: When = When()
    turn: Turn
    times: int | None = Field(default=None, ge=1)


class Script(_Value):
    """What a provider answers: the first rule that matches, else the next of `turns`.

    A request that a rule answers uses no turn. After the last turn the last one repeats, or with
    `loop` the first one follows. A request that nothing answers gets a 422 that says so.

    `log` keeps a record of each request, in memory and in the ledger, and `log_bodies` its parsed body
    with it; benchmarks turn them off.
    """

    turns: Sequence[Turn] = ()
    rules: Sequence[Rule] = ()
    loop: bool = False
    models: Sequence[str] = ("scripted",)
    log: bool = True
    log_bodies: bool = True

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Read a script from YAML or JSON text.

        Raises:
            ValueError: the text is no YAML, or no valid script (then a pydantic `ValidationError`).
        """
        try:
            loaded = cast("object", yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ValueError(f"the script is not valid YAML: {error}") from error
        return cls.model_validate(loaded)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a script from a YAML or JSON file.

        Raises:
            OSError: the file can't be read.
            ValueError: as in `parse`.
        """
        return cls.parse(Path(path).read_bytes())
