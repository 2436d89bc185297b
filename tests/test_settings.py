from pathlib import Path

import pytest

from pilothouse.errors import StartupError
from pilothouse.settings import PREFIX, load_settings, setting_names


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


def test_the_environment_wins_over_the_file_and_what_is_given_over_both(
    env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("PILOTHOUSE_SERVER_PORT=1\nPILOTHOUSE_SERVER_HOST=::1\n")
    assert load_settings(env_file).server.port == 1
    monkeypatch.setenv("PILOTHOUSE_SERVER_PORT", "2")
    settings = load_settings(env_file)
    assert (settings.server.port, settings.server.host) == (2, "::1")
    assert load_settings(env_file, server={"port": 3}).server.port == 3


def test_names_of_other_programs_in_the_file_are_left_alone(env_file: Path) -> None:
    env_file.write_text("OPENAI_API_KEY=sk-other\nDJANGO_DEBUG=1\nPILOTHOUSE_SERVER_PORT=9\n")
    assert load_settings(env_file).server.port == 9


@pytest.mark.parametrize("where", ["environment", "file"])
def test_an_unknown_name_stops_the_start_and_names_the_likely_one(
    where: str, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "file":
        env_file.write_text("PILOTHOUSE_SERVER_PROT=9\n")
    else:
        monkeypatch.setenv("PILOTHOUSE_SERVER_PROT", "9")
    with pytest.raises(StartupError, match=r"PILOTHOUSE_SERVER_PROT is not a setting\. .*PILOTHOUSE_SERVER_PORT"):
        load_settings(env_file)


def test_a_wrong_value_stops_the_start_and_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTHOUSE_SERVER_PORT", "70000")
    with pytest.raises(StartupError, match=r"PILOTHOUSE_SERVER_PORT is wrong: .* \(given: '70000'\)"):
        load_settings(None)


def test_a_wrong_group_given_in_code_is_refused() -> None:
    with pytest.raises(StartupError, match="no group of settings named servr"):
        load_settings(None, servr={"port": 1})


def test_secrets_are_not_shown_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTHOUSE_DATABASE_URL", "postgresql://me:hunter2@db/x")
    monkeypatch.setenv("PILOTHOUSE_OPENAI_API_KEY", "sk-hunter2")
    assert "hunter2" not in repr(load_settings(None))


@pytest.mark.parametrize(
    "written", ["10.0.0.1,::1", " 10.0.0.1 , ::1, ", '["10.0.0.1", "::1"]'], ids=["commas", "blanks", "JSON"]
)
@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_list_is_written_with_commas_or_as_json(
    written: str, where: str, env_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "file":
        env_file.write_text(f"PILOTHOUSE_SERVER_TRUSTED_PROXIES='{written}'\n")
    else:
        monkeypatch.setenv("PILOTHOUSE_SERVER_TRUSTED_PROXIES", written)
    assert load_settings(env_file).server.trusted_proxies == ("10.0.0.1", "::1")


def test_an_empty_list_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOTHOUSE_SERVER_TRUSTED_PROXIES", "")
    assert load_settings(None).server.trusted_proxies == ()


@pytest.mark.parametrize("nonsense", ["[127.0.0.1]", "[", "{}", "127.0.0.1;10.0.0.1", '[{"a": 1}]'])
def test_a_list_that_cannot_be_read_stops_the_start_and_is_named(
    nonsense: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOTHOUSE_SERVER_TRUSTED_PROXIES", nonsense)
    with pytest.raises(StartupError, match="PILOTHOUSE_SERVER_TRUSTED_PROXIES is wrong: "):
        load_settings(None)


@pytest.mark.parametrize("name", sorted(setting_names()))
def test_a_value_of_the_wrong_form_is_taken_as_text_or_refused_by_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "[not JSON")
    message = f"{name} is wrong: "
    try:
        load_settings(None)
    except StartupError as error:
        message = error.message
    assert message.startswith(f"{name} is wrong: ")
