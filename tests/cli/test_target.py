import sys

import pytest

from pilothouse import Pilothouse
from pilothouse.cli.actions.target import load_target
from pilothouse.errors import StartupError

MODULE = """
from pilothouse import Pilothouse
app = Pilothouse()
number = 17
class nested:
    app = Pilothouse()
def make():
    return Pilothouse()
def make_nothing():
    return None
def needs(argument):
    return Pilothouse()
def broken():
    raise TypeError("its own mistake")
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    (tmp_path / "wired.py").write_text(MODULE)
    (tmp_path / "needy.py").write_text("import no_such_package_at_all\n")
    (tmp_path / "misconfigured.py").write_text("from pilothouse import Pilothouse\nPilothouse()\n")
    (tmp_path / "keyless.py").write_text("from pydantic_ai import Agent\nAgent('openai:gpt-6-luna')\n")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    for name in ("wired", "needy", "misconfigured", "keyless"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("target", ["wired:app", "wired:nested.app", "wired:make"])
def test_an_application_or_a_function_that_makes_one_is_found_from_here(target):
    assert isinstance(load_target(target), Pilothouse)


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("wired", "Write MODULE:APP"),
        ("wired:", "Write MODULE:APP"),
        ("./wired.py:app", "Write MODULE:APP"),
        ("absent:app", "There is no module absent in"),
        ("absent.inner:app", "There is no module absent.inner in"),
        ("needy:app", "needs no_such_package_at_all, which is not installed"),
        ("keyless:app", "app.agent(agent, model=...)"),
        ("wired:ap", "has no 'ap'. It has: app."),
        ("wired:number", "is not a Pilothouse application but int"),
        ("wired:make_nothing", "is not a Pilothouse application but NoneType"),
        ("wired:needs", "can't be called without arguments"),
    ],
)
def test_what_is_wrong_with_a_target_is_said_in_a_sentence(target, sentence):
    with pytest.raises(StartupError) as caught:
        load_target(target)
    assert sentence in caught.value.message


def test_a_mistake_inside_a_factory_keeps_its_trace():
    with pytest.raises(TypeError, match="its own mistake"):
        load_target("wired:broken")


def test_a_wrong_setting_is_a_sentence_while_the_module_is_imported(monkeypatch):
    monkeypatch.setenv("PILOTHOUSE_SERVER_PROT", "1")
    with pytest.raises(StartupError, match="Did you mean PILOTHOUSE_SERVER_PORT"):
        load_target("misconfigured:app")


def test_what_the_command_line_reads_is_no_unknown_setting(monkeypatch):
    monkeypatch.setenv("PILOTHOUSE_TOKEN", "ph_x")
    monkeypatch.setenv("PILOTHOUSE_URL", "http://127.0.0.1:1")
    assert isinstance(load_target("wired:app"), Pilothouse)
