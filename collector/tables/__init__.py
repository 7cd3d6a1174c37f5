"""Tables, one file each, found by name.

A table is a module of this package with a ``TABLE`` value, or an entry point in the group
``collector.tables`` that names such a value.
"""

from __future__ import annotations

import difflib
import pkgutil
from importlib import import_module
from importlib.metadata import entry_points

from collector.errors import ConfigurationError
from collector.model import Table

DEFAULT = "aws_sagemaker_trainingjob"


def table_names() -> list[str]:
    """Names of every table that can be loaded, sorted."""
    own = (module.name for module in pkgutil.iter_modules(__path__))
    others = (point.name for point in entry_points(group="collector.tables"))
    return sorted({*own, *others})


def load_table(name: str = DEFAULT) -> Table:
    """The table called ``name``. Raises ConfigurationError, with the nearest name, if none is."""
    if name not in table_names():
        near = difflib.get_close_matches(name, table_names(), 1)
        hint = f"did you mean {near[0]}" if near else f"known are {', '.join(table_names())}"
        raise ConfigurationError(f"There is no table {name!r}: {hint}.")
    for point in entry_points(group="collector.tables"):
        if point.name == name:
            return _checked(name, point.load())
    return _checked(name, import_module(f"{__name__}.{name}").TABLE)


def _checked(name: str, value: object) -> Table:
    if not isinstance(value, Table):
        raise ConfigurationError(f"The table {name!r} is not a collector.model.Table.")
    return value
