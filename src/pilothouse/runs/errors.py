"""What can end or interrupt a run from inside. Callers' errors are in `pilothouse.errors`."""

from pilothouse.errors import PilothouseError, RunFailure


class Fenced(PilothouseError):
    """Another attempt has taken the run over: this one must stop without a trace."""

    code = "fenced"

    def __init__(self, run_id: str) -> None:
        super().__init__(f"Run {run_id} is being continued elsewhere.")


class HandOver(PilothouseError):
    """The process is stopping: the run goes on elsewhere, or here after the restart, from where its transcript ends."""

    code = "handed_over"

    def __init__(self) -> None:
        super().__init__("The run is being handed over.")


class AwaitInput(PilothouseError):
    """The run has come to a call that waits for a person: it leaves the process until the answer is there."""

    code = "awaiting_input"

    def __init__(self) -> None:
        super().__init__("The run waits for a person.")


def iterations_exceeded(limit: int) -> RunFailure:
    """The agent made more model requests than its limit."""
    return RunFailure(
        f"The agent stopped after {limit} model requests without an answer. "
        "Ask for less at once, or raise max_iterations.",
        category="logic",
        code="max_iterations",
        status=422,
    )


def stalled(tool: str, repeats: int) -> RunFailure:
    """The agent calls the same tool with the same arguments again and again."""
    return RunFailure(
        f"The agent called {tool} {repeats} times in a row with the same arguments and was stopped. "
        "Rephrase the request.",
        category="logic",
        code="stalled",
        status=422,
    )


POISONED = "poisoned"


def poisoned(crashes: int) -> RunFailure:
    """The run took its process down again and again."""
    return RunFailure(
        f"The server process ended {crashes} times while a tool of this run was the only thing it executed, so the run "
        "was stopped. Look for what its last tool does to the process; then an operator may release the run.",
        category="fatal",
        code=POISONED,
        status=500,
    )


def timed_out(seconds: float) -> RunFailure:
    """The run took longer than its wall-clock limit."""
    return RunFailure(
        f"The run took longer than its limit of {seconds:g} seconds. Try again, or ask for less at once.",
        category="transient",
        code="run_timeout",
        status=504,
        retryable=True,
    )


def arguments_failed() -> RunFailure:
    """The model kept sending arguments a tool can't take, or an output of the wrong shape."""
    return RunFailure(
        "The model kept giving malformed tool arguments or output, and was stopped. Try again or rephrase the request.",
        category="model",
        code="malformed_arguments",
        retryable=True,
    )


def bad_model_output() -> RunFailure:
    """The model's answer can't be used."""
    return RunFailure(
        "The model gave no usable answer. Try again or rephrase the request.",
        category="model",
        code="bad_model_output",
        retryable=True,
    )


def output_limit_reached() -> RunFailure:
    """The model used up the tokens it may write before it gave an answer or a whole tool call."""
    return RunFailure(
        "The model reached its output limit before it gave an answer. Raise max_tokens, or ask for less at once.",
        category="model",
        code="output_limit_reached",
    )


def internal() -> RunFailure:
    """A fault of ours or of the agent's code."""
    return RunFailure(
        "The run failed because of an error in the server or the agent's code. The log holds the details.",
        category="fatal",
        code="internal_error",
        status=500,
    )
