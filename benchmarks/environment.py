"""The peer's own virtual environment, made once and kept below build/."""

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
    """The `bin` directory of an environment with the peer; made when there is none."""
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
    """The commit that runs, with a plus if files differ from it; empty outside a repository."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--abbrev=7", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def python_of(implementation: str) -> str:
    """The interpreter that an implementation runs on."""
    return str(peer_environment() / "python") if implementation == "peer" else sys.executable


def variables() -> dict[str, str]:
    """The environment of our processes: they find this package, and nothing of the caller's Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(ROOT)}
