"""All tables we have, for what compares or fills whole schemas."""

import importlib
import pkgutil

from sqlalchemy import MetaData

import pilothouse
from pilothouse.db.metadata import metadata


def all_tables() -> MetaData:
    """The metadata with the `tables` module of every domain loaded."""
    for module in pkgutil.walk_packages(pilothouse.__path__, "pilothouse."):
        if module.name.endswith(".tables"):
            importlib.import_module(module.name)
    return metadata
