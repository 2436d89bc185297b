"""Find the application that `MODULE:APP` names."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from pydantic_ai.exceptions import UserError

from pilothouse.app import Pilothouse
from pilothouse.errors import StartupError


def load_target(target: str) -> Pilothouse:
    """Import the module, found from the working directory on, and give its application; a factory is called.

    Raises:
        StartupError: there is no such module or name, or it is no application.
        Exception: whatever the module itself raises while it is imported.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute or "/" in module_name:
        raise StartupError(
            f"{target!r} does not name an application. Write MODULE:APP: for `app` in main.py that is main:app."
        )
    found = _import(module_name)
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise StartupError(f"The module {module_name} has no {attribute!r}.{_hint(found)}") from None
    if not isinstance(found, Pilothouse) and callable(found):
        found = _call(cast("Callable[[], Any]", found), target)
    if not isinstance(found, Pilothouse):
        raise StartupError(
            f"{target} is not a Pilothouse application but {type(found).__name__}. "
            "Make one with: app = Pilothouse(), and add agents with app.agent(...)."
        )
    return found


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise StartupError(
                f"There is no module {name} in {here}. Go to the folder it lies in, or name another one."
            ) from None
        raise StartupError(f"The module {name} needs {missing}, which is not installed here.") from None
    except UserError as error:
        raise StartupError(
            f"The module {name} makes an agent that can't be made: {error.message} Where the key is in "
            "PILOTHOUSE_OPENAI_API_KEY, name the model when you register the agent: app.agent(agent, model=...)."
        ) from None


def _call(factory: Callable[[], Any], target: str) -> Any:
    try:
        return factory()
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # from inside the factory: its own mistake, and its own trace
        raise StartupError(
            f"{target} can't be called without arguments, so it is no factory of an application."
        ) from None


def _hint(module: Any) -> str:
    names = [name for name, value in cast("dict[str, object]", vars(module)).items() if isinstance(value, Pilothouse)]
    return f" It has: {', '.join(names)}." if names else ""
