"""Placements: agents that run on other machines, found by Ray, Dask or an engine of your own."""

from __future__ import annotations

from arcp_io.exports import importer

TYPE_CHECKING = False  # Type checkers read it as true; importing `typing` would take most of the time.
if TYPE_CHECKING:
    from .dask import Dask
    from .links import Links
    from .placement import Invitation, PlacedTask, Placement
    from .ray import Ray
    from .worker import dial_in

__all__ = ["Dask", "Invitation", "Links", "PlacedTask", "Placement", "Ray", "dial_in"]

_MODULE_OF = {
    "Dask": "dask",
    "Invitation": "placement",
    "Links": "links",
    "PlacedTask": "placement",
    "Placement": "placement",
    "Ray": "ray",
    "dial_in": "worker",
}
"""Public name -> the module that defines it."""

__getattr__ = importer(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return __all__
