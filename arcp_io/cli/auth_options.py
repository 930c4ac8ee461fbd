"""The options of `arcp-io serve` about authentication."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from .arguments import checked

if TYPE_CHECKING:
    from arcp_io.server.auth import Verifier

Tokens: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Admit the tokens whose digests are in this file (TOML), which is read again when it changes,"
        " in place of those of the App.",
    ),
]
Jwks: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Admit JSON Web Tokens that are signed by the keys at this https:// address, in place of the"
        " tokens of the App. Needs --audience and --issuer.",
    ),
]
Audience: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="With --jwks: the audience (aud). Repeatable.")
]
Issuer: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="With --jwks: the issuer of the tokens (iss).")
]
AgentsClaim: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="CLAIM",
        help="With --jwks: the claim that lists the agents of a token. Without it in a token, none.",
    ),
]
CeilingsClaim: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="CLAIM",
        help="With --jwks: the claim that bounds the leases of a token. Without it in a token, no agent.",
    ),
]


@dataclass(frozen=True)
class AuthOptions:
    """The options about authentication, as they were given."""

    tokens: Tokens = None
    jwks: Jwks = None
    audience: Audience = None
    issuer: Issuer = None
    agents_claim: AgentsClaim = None
    ceilings_claim: CeilingsClaim = None

    def verifier(self) -> Verifier | None:
        """Return the verifier that the options ask for, None without any; a usage error if they are wrong.

        Raises OSError and ValueError for a file of tokens that cannot be used.
        """
        of_jwks = (self.audience, self.issuer, self.agents_claim, self.ceilings_claim)
        if self.jwks is None:
            with checked("--jwks"):
                if any(of_jwks):
                    raise ValueError("--audience, --issuer and claims are about the tokens of --jwks URL")
            return None if self.tokens is None else self._token_file(self.tokens)
        with checked("--jwks"):
            if self.tokens is not None:
                raise ValueError("give --tokens or --jwks; App(auth=...) can ask several verifiers")
            if not self.audience or self.issuer is None:
                raise ValueError(
                    "give --audience and --issuer too: without them tokens for others are admitted"
                )
            from arcp_io.server.jwt_verifier import JwtVerifier

            return JwtVerifier(
                self.jwks,
                audience=self.audience,
                issuer=self.issuer,
                agents_claim=self.agents_claim,
                ceilings_claim=self.ceilings_claim,
            )

    def _token_file(self, path: Path) -> Verifier:
        from arcp_io.server.token_file import TokenFile

        return TokenFile(path)
