"""The release."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("pilothouse")
except PackageNotFoundError:  # run from a source tree that was not installed
    VERSION = "0+unknown"
