"""The peer's own virtual environment below build/, made once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PEER: Final = "agentruntimecontrolprotocol==1.1.3"


@cache
def peer_environment() -> Path:
    """Return the `bin` directory of the peer's environment; make the environment when it is missing."""
    version = "{}.{}".format(*sys.version_info)
    place = ROOT / "build" / "benchmarks" / f"{PEER.replace('==', '-')}-python{version}"
    if not (place / "complete").exists():
        print(f"making an environment for {PEER} ...", file=sys.stderr, flush=True)
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        install = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", PEER]
        subprocess.run([*install, "--disable-pip-version-check"], check=True)
        (place / "complete").touch()
    return place / "bin"


def commit() -> str:
    """Return the current commit, with a plus if files differ from it; return "" outside a repository."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def python_of(implementation: str) -> str:
    """Return the path of the interpreter that an implementation runs on."""
    return str(peer_environment() / "python") if implementation == "peer" else sys.executable


def variables() -> dict[str, str]:
    """Return the environment variables of our processes: they find this package, and none of the caller's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(ROOT)}
