"""Warnings in the log about settings of an App that are not for production."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from arcp_io.app import App

logger = logging.getLogger("arcp_io")

PLAIN: Final = (
    "%s issues no credentials at %s, and refuses jobs whose leases name models: a plain connection shows them"
    " to the network; give an ssl_context, or on loopback App(secure_loopback=True)"
)


def warn_of_settings(app: App, url: str, *, secure: bool) -> None:
    """Log a warning for each setting of an App, served at a URL, that is not for production."""
    if app.provisioner is not None and not secure:
        logger.warning(PLAIN, app.name, url)
    warn_of_app(app)


def warn_of_app(app: App) -> None:
    """Log a warning for each setting of an App that is not for production, wherever it is served."""
    if not app.ceilings:
        logger.warning("%s grants every lease that is requested: App(ceilings=...) bounds leases", app.name)
    warn_of_debug(app)


def warn_of_debug(app: App) -> None:
    """Log a warning if an App is in debug mode."""
    if app.debug:
        logger.warning("%s is in debug mode: clients get the text of agents' exceptions", app.name)
