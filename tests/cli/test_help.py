import subprocess
import sys

import pytest
from tests.support.commands import environment, ran

HEAVY = ("fastapi", "pydantic_ai", "sqlalchemy", "uvicorn", "openai", "httpx2", "pydantic")
COMMANDS = ["demo", "serve", "chat", "runs", "keys", "db", "doctor", "version"]


def test_help_lists_the_commands_in_the_order_one_needs_them_and_loads_nothing_heavy(tmp_path):
    code = (
        "import sys\nsys.argv = ['pilothouse', '--help']\nfrom pilothouse.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('loaded:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert "loaded: []" in done.stdout, done.stderr
    lines = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│") and len(line.split()) > 3]
    assert [word for word in lines if word in COMMANDS] == COMMANDS


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["demo"], ["--host", "--port", "--data-dir", "--log-level"]),
        (["serve"], ["MODULE:APP", "--reload", "--local", "--no-check", "PILOTHOUSE_SERVER_PORT"]),
        (["chat"], ["--url", "PILOTHOUSE_TOKEN", "--agent", "--conversation", "--message"]),
        (["runs"], ["list", "show", "cancel"]),
        (["keys", "create"], ["--subject", "--scopes", "--expires"]),
        (["db"], ["upgrade"]),
        (["doctor"], ["MODULE:APP"]),
    ],
)
async def test_every_command_explains_its_options(tmp_path, command, words):
    code, out, err = await ran(*command, "--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert [word for word in words if word not in out] == []


async def test_version_is_one_line(tmp_path):
    code, out, err = await ran("version", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.strip() == "0.1.0"
