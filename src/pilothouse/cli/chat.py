"""`pilothouse chat`."""

from typing import Annotated

import typer

from pilothouse.cli.options import DEFAULT_URL, ServerUrl, Token


def chat(
    url: ServerUrl = DEFAULT_URL,
    token: Token = None,
    agent: Annotated[
        str | None, typer.Option("--agent", "-a", help="Which agent, where the server has several.")
    ] = None,
    conversation: Annotated[
        str | None, typer.Option("--conversation", "-c", help="Go on with this conversation.")
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Say this, print the answer and end.")] = None,
) -> None:
    """Chat with an agent of any Pilothouse server.

    Answers come word by word, with the tools that are called. Ctrl-C stops an answer; at the prompt it ends the chat,
    as Ctrl-D does. A connection that drops is taken up again where it was.

    In a pipe there are no colours and no prompt: the message is read from stdin, and stdout gets only the answer.
    """
    from pilothouse.cli.actions.talk import talk  # noqa: PLC0415 - loaded on use

    raise typer.Exit(talk(url, token, agent=agent, conversation_id=conversation, message=message))
