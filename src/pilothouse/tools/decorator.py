"""`@tool`: a function with a policy that stays a function."""

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast, overload

from pilothouse.errors import StartupError
from pilothouse.tools.policy import Effect, InDoubt, ToolPolicy

P = ParamSpec("P")
R = TypeVar("R")

_ATTRIBUTE = "__pilothouse_tool__"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what the providers take


@overload
def tool(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def tool(
    *,
    name: str | None = None,
    effect: Effect = "once",
    approval: bool = False,
    four_eyes: bool = False,
    scopes: Sequence[str] = (),
    timeout: float | None = None,
    max_output_chars: int | None = None,
    in_doubt: InDoubt = "ask",
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    effect: Effect = "once",
    approval: bool = False,
    four_eyes: bool = False,
    scopes: Sequence[str] = (),
    timeout: float | None = None,
    max_output_chars: int | None = None,
    in_doubt: InDoubt = "ask",
) -> Any:
    """Mark a function, async or not, as a tool. It can still be called, and given to any Pydantic AI agent.

    A first parameter annotated `RunContext` is the run's; the others are the arguments the model fills in, described
    by their annotations and the docstring.

    Args:
        function: the function, where the decorator is used without parentheses.
        name: what the model calls it, 1-64 letters, digits, `_` or `-`; by default the function's name.
        effect: `pure`, `idempotent` or `once`: what running it twice would do. Unknown is treated as `once`.
        approval: a person must say yes to each call.
        four_eyes: that person is another one than who started the run (maker and checker). Needs `approval`.
        scopes: what the caller must be allowed, all of them.
        timeout: seconds; by default the agent's limit.
        max_output_chars: longest result the model is shown; by default the agent's limit.
        in_doubt: for `once`: `ask` a person, `tell_model`, or `retry`.

    Raises:
        StartupError: at definition, when a value is not allowed or this is no function.
    """

    def decorate(wrapped: Callable[..., Any]) -> Callable[..., Any]:
        _refuse_other_than_functions(wrapped)
        try:
            policy = ToolPolicy(
                name=_name(wrapped.__name__ if name is None else name),
                effect=effect,
                approval=approval,
                four_eyes=four_eyes,
                scopes=_scopes(scopes),
                timeout_seconds=timeout,
                max_output_chars=max_output_chars,
                in_doubt=in_doubt,
                description=_first_paragraph(wrapped),
            )
        except (ValueError, TypeError) as error:
            raise StartupError(f"Tool {_where(wrapped)}: {error}.") from None
        return _with_policy(wrapped, policy)

    return decorate if function is None else decorate(function)


def policy_of(function: object) -> ToolPolicy | None:
    """The policy a decorated function (or a method, or a wrapper made with `functools.wraps`) carries, else None."""
    found = getattr(function, _ATTRIBUTE, None)
    return found if isinstance(found, ToolPolicy) else None


def _with_policy(wrapped: Callable[..., Any], policy: ToolPolicy) -> Callable[..., Any]:
    """A new function, so that one function may be two tools and nobody's function is changed."""

    @functools.wraps(wrapped)
    async def awaited(*args: Any, **kwargs: Any) -> Any:
        return await wrapped(*args, **kwargs)

    @functools.wraps(wrapped)
    def called(*args: Any, **kwargs: Any) -> Any:
        return wrapped(*args, **kwargs)

    call = awaited if inspect.iscoroutinefunction(wrapped) else called
    call.__name__ = policy.name
    setattr(call, _ATTRIBUTE, policy)
    return call


def _refuse_other_than_functions(given: object) -> None:
    if not callable(given) or isinstance(given, type) or not hasattr(given, "__name__"):
        raise StartupError(f"@tool is for functions; got {given!r}. Wrap it in a function.")
    if inspect.isgeneratorfunction(given) or inspect.isasyncgenfunction(given):
        raise StartupError(f"Tool {_where(given)}: a tool returns its result; it can't yield.")


def _name(given: str) -> str:
    if not _NAME.fullmatch(given):
        raise ValueError(f"a name is 1 to 64 letters, digits, '_' or '-', got {given!r}; set it with name=")
    return given


def _scopes(given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        raise TypeError(f"scopes is a list such as [{given!r}], not one text")
    return tuple(given)


def _first_paragraph(function: Callable[..., Any]) -> str:
    return (inspect.getdoc(function) or "").split("\n\n", 1)[0].replace("\n", " ")


def _where(function: object) -> str:
    code = getattr(inspect.unwrap(cast("Callable[..., Any]", function)), "__code__", None)
    name = getattr(function, "__name__", repr(function))
    return f"{name} ({code.co_filename}:{code.co_firstlineno})" if code is not None else name
