"""The public names of a package, each imported when it is first used."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # Type checkers read it as true; importing `typing` would take most of the time.
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def importer(package: str, module_of: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package, for public names and the modules that define them.

    A name that is its own module stands for the module. The function raises AttributeError for other names.
    """

    def getattribute(name: str) -> Any:
        module_name = module_of.get(name)
        if module_name is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(f".{module_name}", package)
        value = module if name == module_name else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    return getattribute
