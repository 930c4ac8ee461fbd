"""Profiles: named settings of the client commands, in one file of the user."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

KEYS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "url": str,
        "token": str,
        "token_file": str,
        "cafile": str,
        "allow_plain": bool,
        "give_up": str,
        "loop": str,
    }
)
"""The keys of a profile, which are options of the same names, and the types of their values."""
_PATHS: Final = ("token_file", "cafile")
_OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Profile:
    """The profile in use; without a name there is none, and no settings."""

    path: Path
    name: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)


def config_file() -> Path:
    """Return the path of the file: `arcp-io/config.toml` below $XDG_CONFIG_HOME, or ~/.config."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "arcp-io" / "config.toml"


def read_profile(name: str | None) -> Profile:
    """Return the profile with a name, by default the one that the file names with its key `profile`.

    Raises ValueError with a sentence for the user.
    """
    path = config_file()
    document = _document(path)
    if document is None:
        if name is not None:
            raise ValueError(f"there is no profile {name!r}, since there is no file {path}")
        return Profile(path)
    _check_top(path, document)
    profiles = document.get("profiles", {})
    chosen = name if name is not None else document.get("profile")
    if chosen is None:
        return Profile(path)
    if chosen not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        raise ValueError(f"{path} has no profile {chosen!r}; its profiles are: {known}")
    return Profile(path, chosen, _settings(path, chosen, profiles[chosen]))


def profile_names() -> list[str]:
    """Return the names of all profiles, for completion; empty if the file cannot be used."""
    try:
        document = _document(config_file()) or {}
        _check_top(config_file(), document)
    except ValueError:
        return []
    return sorted(document.get("profiles", {}))


def _document(path: Path) -> dict[str, Any] | None:
    """Return the content of the file, or None if there is no file."""
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    if os.name == "posix" and mode & stat.S_IWOTH:
        raise ValueError(f"every user may change {path}: run 'chmod o-w {path}'")
    if os.name == "posix" and mode & _OPEN_TO_OTHERS and _holds_token(document):
        raise ValueError(
            f"{path} holds a token, and other users may read it: run 'chmod 600 {path}', or put the token"
            " into a file of its own and name it with token_file"
        )
    return document


def _holds_token(document: Mapping[str, Any]) -> bool:
    profiles = document.get("profiles")
    tables = [document, *(profiles.values() if isinstance(profiles, dict) else ())]
    return any(isinstance(table, dict) and "token" in table for table in tables)


def _check_top(path: Path, document: Mapping[str, Any]) -> None:
    if unknown := sorted(document.keys() - {"profile", "profiles"}):
        raise ValueError(
            f"{path} has the unknown key {unknown[0]!r}: settings stand below [profiles.NAME], and the key"
            " profile names the one to use"
        )
    profiles = document.get("profiles", {})
    if not isinstance(profiles, dict) or not all(isinstance(table, dict) for table in profiles.values()):
        raise ValueError(f"{path}: each profile is a table, as in [profiles.NAME]")
    if not isinstance(document.get("profile", ""), str):
        raise ValueError(f"{path}: the key profile is the name of a profile")


def _settings(path: Path, name: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
    for key, value in table.items():
        if key not in KEYS:
            raise ValueError(
                f"{path}: profile {name!r} has the unknown key {key!r}; known: {', '.join(KEYS)}"
            )
        if type(value) is not KEYS[key]:
            kind = "true or false" if KEYS[key] is bool else "a text"
            raise ValueError(f"{path}: {key} of profile {name!r} is {kind}")
    if "token" in table and "token_file" in table:
        raise ValueError(f"{path}: profile {name!r} has token and token_file: keep one of them")
    return {key: _absolute(path, value) if key in _PATHS else value for key, value in table.items()}


def _absolute(path: Path, value: str) -> str:
    """Return the path that a profile names: `~` is the home directory, and others begin at the file."""
    return str(path.parent / Path(value).expanduser())
