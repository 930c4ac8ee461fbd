"""`arcp-io completion`: the script by which a shell completes commands, options, profiles and jobs."""

from __future__ import annotations

import os
from enum import StrEnum
from importlib import import_module
from typing import Annotated, Final

import typer

from .output import print_out

NAME: Final = "arcp-io"
VARIABLE: Final = "_ARCP_IO_COMPLETE"
"""The variable by which the script of a shell asks for completions."""


class Shell(StrEnum):
    """The shells that have completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_Shell = Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.", show_default=False)]


def completion(shell: _Shell) -> None:
    """Print the script for a shell, which then completes commands, options, profiles and ids of jobs.

    One line in a file that the shell reads when it starts makes it complete:

    \b
      bash  ~/.bashrc                    eval "$(arcp-io completion bash)"
      zsh   ~/.zshrc, behind compinit    eval "$(arcp-io completion zsh)"
      fish  ~/.config/fish/config.fish   arcp-io completion fish | source

    \b
    Examples:
      arcp-io completion bash
      arcp-io completion zsh
      arcp-io completion fish
    """
    script = import_module("typer.completion").get_completion_script
    print_out(script(prog_name=NAME, complete_var=VARIABLE, shell=shell.value))


def answer_shell() -> None:
    """Prepare the answer to a shell, if it asks for completions: the command line then gives it itself."""
    if VARIABLE in os.environ:
        import_module("typer.completion").completion_init()
