"""The release."""

from importlib.metadata import PackageNotFoundError, version


def _version() -> str:
    try:
        return version("pilothouse")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0+unknown"


VERSION = _version()
