r"""A scripted model provider: a real HTTP server that speaks the wires of OpenAI and Anthropic.

Point any client at it (`ScriptedProvider.openai_base_url`, `ScriptedProvider.anthropic_base_url`)
and it answers what a `Script` says, including the ways in which real providers fail:

    rules:
      - when: {user_matches: 'order (?P<number>\d+)', tool_results: 0}
        turn: {tool_calls: [{name: find_order, arguments: {number: '{number}'}}]}
      - when: {after_tool: find_order}
        turn: {text: 'Found: {tool_result}', tokens_per_second: 50}
      - when: {user_contains: busy}
        turn: {error: {status: 429, retry_after: 2}}
        times: 2
    turns: [Hello., {tokens: 100, cut_after_tokens: 20}]

`python -m pilothouse.testing.provider --script script.yaml` serves it in a process of its own, which
tests reach over HTTP: `GET /_log` (`?started=N` or `?finished=N` waits), `DELETE /_log`,
`PUT /_script`, `GET /_gates/{name}` (`?arrived=N` waits), `POST /_gates/{name}` to release and
`DELETE /_gates/{name}` to hold.
"""

from pilothouse.testing.provider.errors import FAKE_SECRET
from pilothouse.testing.provider.log import RequestRecord
from pilothouse.testing.provider.script import ErrorReply, RawReply, Rule, Script, ToolCall, Turn, UsageReport, When
from pilothouse.testing.provider.server import ScriptedProvider

__all__ = [
    "FAKE_SECRET",
    "ErrorReply",
    "RawReply",
    "RequestRecord",
    "Rule",
    "Script",
    "ScriptedProvider",
    "ToolCall",
    "Turn",
    "UsageReport",
    "When",
]
