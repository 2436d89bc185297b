import hashlib
from pathlib import Path

import pytest

from pilothouse.agents import load_prompt
from pilothouse.agents.callers_data import NOTICE
from pilothouse.agents.prompts import parse_prompt
from pilothouse.errors import InvalidRequest, StartupError

SUPPORT = """\
---
model: openai:gpt-6-luna
settings:
  temperature: 0.2
  max_tokens: 800
version: 3
description: Friendly and brief.
variables:
  customer:
  plan: free
---
# Support

You help {{ customer }} ({{plan}} plan).
"""


def parse(text: str):
    return parse_prompt(text.encode(), Path("prompts/support.md"))


def test_a_prompt_file_says_model_settings_version_and_variables(tmp_path):
    file = tmp_path / "support.md"
    file.write_text(SUPPORT)
    prompt = load_prompt(file)
    assert prompt.name == "support"
    assert prompt.model == "openai:gpt-6-luna"
    assert prompt.settings == {"temperature": 0.2, "max_tokens": 800}
    assert prompt.version == "3"
    assert prompt.description == "Friendly and brief."
    assert prompt.variables == {"customer": None, "plan": "free"}
    assert prompt.hash == hashlib.sha256(SUPPORT.encode()).hexdigest()
    assert prompt.hash.startswith(prompt.short_hash)
    assert len(prompt.short_hash) == 16


def test_variables_are_filled_in_from_the_context_and_the_defaults():
    prompt = parse(SUPPORT)
    mira = '<caller-data name="customer">Mira</caller-data>'
    plan = '<caller-data name="plan">["pro",1]</caller-data>'
    text = prompt.render({"customer": "Mira"})
    assert text == f"# Support\n\nYou help {mira} (free plan).\n\n{NOTICE}"
    text = prompt.render({"customer": "Mira", "plan": ["pro", 1], "other": "x"})
    assert text == f"# Support\n\nYou help {mira} ({plan} plan).\n\n{NOTICE}"


@pytest.mark.parametrize("context", [{}, {"plan": "pro"}, {"customer": None}, {"customer": ""}])
def test_a_missing_required_variable_is_the_callers_mistake(context):
    with pytest.raises(InvalidRequest, match="Prompt support needs customer") as caught:
        parse(SUPPORT).render(context)
    assert caught.value.code == "prompt_variable_missing"


def test_values_are_never_read_for_placeholders():
    prompt = parse("---\nvariables: {a: , b: SECRET}\n---\n({{ a }})")
    assert ">{{ b }} \\1 {a} %s</caller-data>)" in prompt.render({"a": "{{ b }} \\1 {a} %s"})


def test_without_front_matter_the_whole_file_is_the_prompt():
    prompt = parse("You are kind. {not: a placeholder}\r\nBye.\n")
    assert prompt.text == "You are kind. {not: a placeholder}\nBye."
    assert prompt.version == prompt.short_hash
    assert prompt.model is None
    assert prompt.settings == {}


def test_a_changed_file_is_another_version():
    assert parse("One.").version != parse("Two.").version


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("---\nmodel: x\n", 1, "does not end"),
        ("---\nmodel: [\n---\nHi", 2, "not YAML"),
        ("---\n- a\n---\nHi", 2, "'name: value' lines"),
        ("---\nversion: 1\nmodle: x\n---\nHi", 3, "modle is not known here"),
        ("---\nversion: 1\nversion: 2\n---\nHi", 3, "version is given twice"),
        ("---\nmodel: {a: 1}\n---\nHi", 2, "model is one line of text"),
        ("---\nsettings:\n  temprature: 1\n---\nHi", 2, "settings has no temprature"),
        ("---\nsettings: {temperature: hot}\n---\nHi", 2, "it is a number from 0.0 to 2.0"),
        ("---\nsettings: {max_tokens: 1.5}\n---\nHi", 2, "max_tokens"),
        ("---\nsettings: 5\n---\nHi", 2, "settings holds 'name: value' lines"),
        ("---\nvariables: [a]\n---\nHi", 2, "variables holds 'name: value' lines"),
        ("---\nvariables: {a-b: 1}\n---\nHi", 2, "use letters, digits and _"),
        ("---\nversion: 1\n---\nHi\n\nYou {{ nme }}", 6, "nme is not among the variables"),
        ("Hi {{ user.name }}", 1, "is no placeholder"),
        ("---\nversion: 1\n---\n \n", 4, "has no text"),
    ],
)
def test_mistakes_name_the_file_and_line(text, line, sentence):
    with pytest.raises(StartupError) as caught:
        parse(text)
    assert caught.value.message.startswith(f"prompts/support.md:{line}: ")
    assert sentence in caught.value.message


def test_a_file_that_is_not_text_or_not_there_is_named(tmp_path):
    with pytest.raises(StartupError, match=r"p.md:2: the prompt is not UTF-8"):
        parse_prompt(b"Hi\n\xff", Path("p.md"))
    with pytest.raises(StartupError, match="No such file"):
        load_prompt(tmp_path / "none.md")


def test_yaml_can_not_make_objects():
    with pytest.raises(StartupError, match="not YAML"):
        parse("---\nmodel: !!python/object/apply:os.system ['true']\n---\nHi")


def test_a_prompt_that_is_not_there_is_said_with_the_folder_its_path_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartupError) as raised:
        load_prompt("prompts/support.md")
    assert raised.value.message == (
        "The prompt prompts/support.md can't be read: No such file or directory. "
        f"Its path starts from the working directory, {tmp_path}."
    )
    with pytest.raises(StartupError, match=r"No such file or directory\.$"):
        load_prompt(tmp_path / "support.md")
