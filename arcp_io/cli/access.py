"""The options of every command that connects to a runtime: the token, its profile, TLS, the event loop."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import typer

from .arguments import Loop, check_loop, checked
from .profiles import Profile, profile_names, read_profile

T = TypeVar("T")

MOST_TOKEN_BYTES: Final = 64 * 1024
"""Bytes of a token file; no token is longer."""


def _load_profile(context: typer.Context, name: str | None) -> str | None:
    """Make the settings of the profile the defaults of the other options."""
    if not context.resilient_parsing:
        with checked("--profile" if name is not None else "the configuration"):
            profile = read_profile(name)
        context.default_map = dict(profile.settings)
        context.obj = profile
    return name


_Profile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="ARCP_PROFILE",
        metavar="NAME",
        is_eager=True,
        callback=_load_profile,
        autocompletion=profile_names,
        help="Take defaults of options from this profile of the configuration file: 'arcp-io config show'.",
    ),
]
_Token: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="ARCP_TOKEN", metavar="TOKEN", help="Your bearer token; safer in the environment or a file."
    ),
]
_TokenFile: TypeAlias = Annotated[
    str | None,
    typer.Option(envvar="ARCP_TOKEN_FILE", metavar="FILE", help="Read the bearer token from a file."),
]
_AllowPlain: TypeAlias = Annotated[
    bool, typer.Option("--allow-plain", help="Send the token over ws:// without TLS, beyond this machine.")
]
_Cafile: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Trust the certificates in this file (PEM) instead of those of the system and of SSL_CERT_FILE.",
    ),
]
_Loop: TypeAlias = Annotated[Loop, typer.Option(metavar="LOOP", help="Event loop: asyncio or trio.")]


@dataclass(kw_only=True)
class Access:
    """The options, and `origins`: for each of them where its value comes from."""

    profile: _Profile = None
    token: _Token = field(default=None, repr=False)
    token_file: _TokenFile = None
    allow_plain: _AllowPlain = False
    cafile: _Cafile = None
    loop: _Loop = Loop.ASYNCIO
    origins: Mapping[str, str] = field(default_factory=dict, init=False)
    used: Profile | None = field(default=None, init=False)
    """The profile in use, which may be one without a name."""

    def resolved(self, context: typer.Context) -> Access:
        """Return the group with the origins of the values of all options of the command."""
        self.used = context.obj if isinstance(context.obj, Profile) else None
        self.origins = {one.name: _origin(context, one, self.used) for one in context.command.params}
        self._choose_token({name: _rank(context, name) for name in ("token", "token_file")})
        return self

    def bearer(self) -> str | None:
        """Return the token, which may be read from its file; a usage error if that is not possible."""
        if self.token_file is None:
            return self.token or None
        with checked("--token-file"):
            return _read_token(self.token_file)

    def told_token(self) -> str:
        """Return where the token comes from, in words; empty without one."""
        if self.token_file is not None:
            return f"{self.token_file} ({self.origins['token_file']})"
        return self.origins.get("token", "") if self.token else ""

    def words(self) -> list[str]:
        """Return the options that another command needs to have the same access; none with a secret."""
        words: list[str] = []
        if self.origins.get("profile", "").startswith("--") and self.profile is not None:
            words += ["--profile", self.profile]
        if self.origins.get("token_file", "").startswith("--") and self.token_file is not None:
            words += ["--token-file", self.token_file]
        if self.allow_plain and self.origins.get("allow_plain", "--").startswith("--"):
            words.append("--allow-plain")
        if self.cafile is not None and self.origins.get("cafile", "--").startswith("--"):
            words += ["--cafile", self.cafile]
        return words

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        """Run an async function on the event loop of --loop; a usage error if that is not installed."""
        import anyio

        check_loop(self.loop)
        return anyio.run(function, *arguments, backend=self.loop.value)

    def _choose_token(self, ranks: Mapping[str, int]) -> None:
        """Keep the one of token and token_file that is given closer to the command."""
        given = {name for name in ranks if getattr(self, name)}
        if len(given) == 2 and ranks["token"] == ranks["token_file"]:
            with checked("--token-file"):
                names = " and ".join(self.origins[name] for name in ranks)
                raise ValueError(f"{names} both give a token: keep one of them")
        if len(given) == 2 and ranks["token"] > ranks["token_file"]:
            self.token = None
        elif "token" in given:
            self.token_file = None


_SOURCES: Final = ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")
"""The names of the sources of click, the closest to the command first."""


def _rank(context: typer.Context, name: str) -> int:
    source = context.get_parameter_source(name)
    return _SOURCES.index(source.name) if source is not None and source.name in _SOURCES else len(_SOURCES)


def _origin(context: typer.Context, option: Any, profile: Profile | None) -> str:
    """Return where a value comes from: a flag, a variable, a profile, or the default."""
    source = context.get_parameter_source(option.name)
    match source.name if source is not None else "":
        case "COMMANDLINE":
            return max(option.opts, key=len) if option.opts[0].startswith("-") else "argument"
        case "ENVIRONMENT":
            return str(option.envvar if isinstance(option.envvar, str) else option.envvar[0])
        case "DEFAULT_MAP" if profile is not None:
            return f"profile {profile.name}"
    return "default"


def _read_token(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_TOKEN_BYTES + 1)
            status = os.fstat(file.fileno())
        token = data.decode().strip()
    except OSError as error:
        raise ValueError(f"{error.strerror}: {path}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} does not hold a token: it is not text") from None
    if not token or len(data) > MOST_TOKEN_BYTES or "\n" in token:
        raise ValueError(f"{path} does not hold a token: it has to be one line")
    if os.name == "posix" and _is_exposed(status):
        print(f"other users may read the token in {path}: run 'chmod 600 {path}'", file=sys.stderr)
    return token


def _is_exposed(status: os.stat_result) -> bool:
    """Return whether a file of this user may be read by others; a mounted secret belongs to another user."""
    open_to = stat.S_IRGRP | stat.S_IROTH
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and bool(status.st_mode & open_to)
