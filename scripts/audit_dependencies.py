"""Look our locked dependencies up in PyPI's database of known weaknesses, with pip-audit in an environment of its own.

Exits with 1 if a weakness is known. If the database can't be reached it says so and exits with 0: then nothing was
looked up, and nothing is claimed.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

REQUIREMENTS = Path(__file__).parents[1] / "requirements"
LOCKS = ("base.lock", "dev.lock")
_PROBE = "https://pypi.org/pypi/pip/24.0/json"
_PROBE_SECONDS = 10
_SECONDS = 300


def main() -> int:
    """Audit each lock file."""
    if (reason := _why_unreachable()) is not None:
        print(f"Not audited: PyPI's database of known weaknesses can't be reached ({reason}).")
        return 0
    with TemporaryDirectory() as folder:
        python = _environment(Path(folder))
        found = [_audit(python, lock, Path(folder)) for lock in LOCKS]
    return 1 if any(found) else 0


def _why_unreachable() -> str | None:
    try:
        with urllib.request.urlopen(_PROBE, timeout=_PROBE_SECONDS) as answer:
            return None if "vulnerabilities" in json.load(answer) else "it answers something else"
    except (OSError, ValueError, urllib.error.URLError) as error:
        return str(error)


def _environment(folder: Path) -> str:
    """The Python of a new virtual environment with pip-audit."""
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", "--requirement", str(REQUIREMENTS / "audit.lock")]
    subprocess.run(command, check=True, timeout=_SECONDS)  # noqa: S603
    return python


def _audit(python: str, lock: str, folder: Path) -> bool:
    """Whether a weakness of what is locked there is known."""
    out = folder / f"{lock}.json"
    command = [python, "-m", "pip_audit", "--requirement", str(REQUIREMENTS / lock), "--require-hashes"]
    command += ["--disable-pip", "--progress-spinner", "off", "--format", "json", "--output", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
    if not out.exists():
        raise SystemExit(f"pip-audit failed on {lock}:\n{done.stderr}")
    found: list[dict[str, Any]] = json.loads(out.read_text(encoding="utf-8"))["dependencies"]
    audited = [item for item in found if "skip_reason" not in item]
    for item in audited:
        for known in item["vulns"]:
            fixed = ", ".join(known["fix_versions"]) or "no release"
            print(f"{lock}: {item['name']} {item['version']} has {known['id']}, mended in {fixed}.")
    print(f"{lock}: {len(audited)} of {len(found)} audited.")
    return any(item["vulns"] for item in audited)


if __name__ == "__main__":
    sys.exit(main())
