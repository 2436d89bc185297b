"""Versioned prompts: Markdown files with YAML front matter and `{{ variable }}` placeholders."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_ai.settings import ModelSettings

from pilothouse.agents.callers_data import NOTICE, marked
from pilothouse.errors import InvalidRequest, StartupError
from pilothouse.kit.jsons import dumps

_KEYS = ("model", "settings", "version", "description", "variables")
# Ends at the next pair of braces, so that no beginning is scanned from twice.
_PLACEHOLDER = re.compile(r"\{\{((?:(?!\{\{|\}\}).)*+)\}\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SETTINGS = TypeAdapter(dict[str, Any])
_NUMBERS = {"temperature": (0.0, 2.0), "top_p": (0.0, 1.0), "max_tokens": (1, 10_000_000), "timeout": (0.001, 86_400)}
_PROVIDER_PREFIXES = ("openai_", "anthropic_", "google_", "groq_", "mistral_", "bedrock_", "openrouter_", "xai_")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt as read from its file.

    Attributes:
        name: the file's name without `.md`.
        version: as the file says; without that, the first 16 digits of `hash`.
        hash: SHA-256 of the file's bytes, hex: two prompts with one hash are the same.
        text: the body, with placeholders.
        model: the model it was written for, or None.
        settings: model settings such as `temperature` and `max_tokens`.
        variables: what `render` fills in: name to default, None where a value is required.
        description: what it is for.
    """

    name: str
    version: str
    hash: str
    text: str
    model: str | None
    settings: ModelSettings
    variables: Mapping[str, str | None]
    description: str = ""

    @property
    def short_hash(self) -> str:
        """The first 16 digits of `hash`, as shown to people."""
        return self.hash[:16]

    def render(self, context: Mapping[str, Any]) -> str:
        """The text with its variables filled in from `context`, else from their defaults.

        Only declared variables are looked at. A default is the operator's own text and is put in as it is; a value of
        the caller's (lists and objects as JSON) is marked as such: see `callers_data`. None is read for placeholders.

        Raises:
            InvalidRequest: a required variable is missing; names all that are.
        """
        given = {name: text for name in self.variables if (text := _text(context.get(name)))}
        values = {**self.variables, **{name: marked(name, text) for name, text in given.items()}}
        missing = [name for name, value in values.items() if value is None]
        if missing:
            raise InvalidRequest(
                f"Prompt {self.name} needs {', '.join(missing)}. Send context with {'them' if missing[1:] else 'it'}.",
                code="prompt_variable_missing",
                missing=missing,
            )
        filled = _PLACEHOLDER.sub(lambda found: values[found[1].strip()] or "", self.text)
        return f"{filled}\n\n{NOTICE}" if given else filled


def load_prompt(path: Path | str) -> Prompt:
    """Read a prompt file.

    The front matter between two `---` lines is optional and may hold `model`, `settings`, `version`, `description`
    and `variables` (name to default text; an empty default makes the variable required).

    Raises:
        StartupError: the file can't be read or says something wrong; the sentence names the file and line.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        where = "" if path.is_absolute() else f" Its path starts from the working directory, {Path.cwd()}."
        raise StartupError(f"The prompt {path} can't be read: {error.strerror}.{where}") from None
    return parse_prompt(content, path)


def parse_prompt(content: bytes, path: Path) -> Prompt:
    """As `load_prompt`, from the bytes of the file; `path` names it.

    Raises:
        StartupError: it says something wrong.
    """
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise StartupError(f"{path}:{line}: the prompt is not UTF-8 text.") from None
    header, body, body_line = _split(text, path)
    fields = _Fields.parse(header, path)
    prompt = Prompt(
        name=path.stem,
        version=fields.text("version") or hashlib.sha256(content).hexdigest()[:16],
        hash=hashlib.sha256(content).hexdigest(),
        text=body.strip(),
        model=fields.text("model"),
        settings=fields.settings(),
        variables=fields.variables(),
        description=fields.text("description") or "",
    )
    _check_placeholders(body, body_line, prompt.variables, path)
    if not prompt.text:
        raise StartupError(f"{path}:{body_line}: the prompt has no text.")
    return prompt


class _Fields:
    """The front matter, with the line of each key for errors."""

    def __init__(self, values: dict[str, Any], lines: dict[str, int], path: Path) -> None:
        self._values = values
        self._lines = lines
        self._path = path

    @classmethod
    def parse(cls, header: str, path: Path) -> "_Fields":
        try:
            node = cast("yaml.Node | None", yaml.compose(header, Loader=yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType] - untyped there
            values = yaml.safe_load(header)
        except yaml.MarkedYAMLError as error:
            line = (error.problem_mark.line if error.problem_mark else 0) + 2
            raise StartupError(f"{path}:{line}: the front matter is not YAML: {error.problem}.") from None
        except (yaml.YAMLError, ValueError) as error:
            raise StartupError(f"{path}:2: the front matter is not YAML: {type(error).__name__}.") from None
        if node is None:
            return cls({}, {}, path)
        if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
            raise StartupError(f"{path}:2: the front matter is 'name: value' lines.")
        lines: dict[str, int] = {}
        for key, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            name, line = str(key.value), int(key.start_mark.line) + 2
            if name not in _KEYS:
                raise StartupError(f"{path}:{line}: {name} is not known here. Known: {', '.join(_KEYS)}.")
            if name in lines:
                raise StartupError(f"{path}:{line}: {name} is given twice.")
            lines[name] = line
        return cls(cast("dict[str, Any]", values), lines, path)

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is None:
            return None
        if isinstance(value, dict | list) or not str(value).strip():
            raise self._wrong(key, "is one line of text")
        return str(value).strip()

    def settings(self) -> ModelSettings:
        given = self._mapping("settings")
        for name, value in given.items():
            if name not in ModelSettings.__annotations__ and not name.startswith(_PROVIDER_PREFIXES):
                known = ", ".join(sorted(ModelSettings.__annotations__))
                raise self._wrong("settings", f"has no {name}. Known: {known}")
            low, high = _NUMBERS.get(name, (None, None))
            if low is not None and high is not None and not _is_number(value, low, high, whole=name == "max_tokens"):
                raise self._wrong("settings", f"has {name}: {value!r}; it is a number from {low} to {high}")
        return cast("ModelSettings", given)

    def variables(self) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for name, default in self._mapping("variables").items():
            if not _NAME.fullmatch(name):
                raise self._wrong("variables", f"has the name {name!r}; use letters, digits and _")
            found[name] = _text(default)
        return found

    def _mapping(self, key: str) -> dict[str, Any]:
        try:
            return _SETTINGS.validate_python(self._values.get(key) or {}, strict=True)
        except ValidationError:
            raise self._wrong(key, "holds 'name: value' lines") from None

    def _wrong(self, key: str, sentence: str) -> StartupError:
        return StartupError(f"{self._path}:{self._lines.get(key, 1)}: {key} {sentence}.")


def _split(text: str, path: Path) -> tuple[str, str, int]:
    """Front matter, body, and the line the body begins at."""
    lines = text.split("\n")
    if lines[0].rstrip() != "---":
        return "", text, 1
    for number, line in enumerate(lines[1:], start=1):
        if line.rstrip() == "---":
            return "\n".join(lines[1:number]), "\n".join(lines[number + 1 :]), number + 2
    raise StartupError(f"{path}:1: the front matter does not end. Close it with a line of three dashes.")


def _check_placeholders(body: str, first_line: int, variables: Mapping[str, str | None], path: Path) -> None:
    for number, line in enumerate(body.split("\n"), start=first_line):
        done = 0
        for found in _PLACEHOLDER.finditer(line):
            name = found[1].strip()
            begin = line.find("{{", done, found.start() + 2)
            done = found.end()
            if begin < found.start() or not _NAME.fullmatch(name):
                raise StartupError(
                    f"{path}:{number}: {line[begin:done]} is no placeholder: write {{{{ name }}}}, nothing else."
                )
            if name not in variables:
                known = ", ".join(variables) or "none"
                raise StartupError(f"{path}:{number}: {name} is not among the variables declared above ({known}).")


def _is_number(value: Any, low: float, high: float, *, whole: bool) -> bool:
    kinds = int if whole else (int, float)
    return isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return dumps(value)
