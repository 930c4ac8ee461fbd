"""python -m tests.docs.site [DIRECTORY]: build the pages of docs/ as a web site, by default in build/site.

The build is strict: a link that leads nowhere fails it. It needs no network, and it fails when a page would
load anything from another host.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.docs.pages import DOCS, ROOT

_LOADED: Final = re.compile(
    r"<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>"
    r"|(?:@import\s+|url\()[\"']?(?:https?:)?//[^)\s]*",
    re.IGNORECASE,
)


def main(arguments: list[str]) -> int:
    """Build the site; return 0, or 1 when it is not as it has to be."""
    target = Path(arguments[0] if arguments else ROOT / "build" / "site").resolve()
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory) / "docs"
        stage(source)
        command = [
            sys.executable,
            "-m",
            "zensical",
            "build",
            "--clean",
            "--strict",
            "-f",
            str(source / "zensical.toml"),
        ]
        if subprocess.run(command, env={**os.environ, "NO_COLOR": "1"}).returncode:
            return 1
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source / "_site", target)
    found = [
        f"{path.relative_to(target)}: {one}" for path in loading(target) for one in loaded(path.read_text())
    ]
    print(*found, f"{len(list(target.rglob('*.html')))} pages in {target}", sep="\n")
    return 1 if found else 0


def stage(source: Path) -> None:
    """Copy the pages to a new directory, with the changelog as one of them, and the plots of benchmarks."""
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("snippets", ".*", "_site"))
    shutil.copytree(ROOT / "benchmarks" / "plots", source / "plots")
    changelog = (ROOT / "CHANGELOG.md").read_text()
    (source / "changelog.md").write_text(changelog.replace("](docs/", "]("))
    for page in source.rglob("*.md"):
        page.write_text(with_changelog(page.read_text()).replace("](../benchmarks/plots/", "](plots/"))


def with_changelog(text: str) -> str:
    """Return a page with links to the changelog that lead to its copy beside README.md of docs/."""
    return re.sub(r"\(((?:\.\./)*)\.\./CHANGELOG\.md", r"(\1changelog.md", text)


def loading(site: Path) -> list[Path]:
    """Return the files of a site that can load others by themselves: pages and style sheets."""
    return sorted(path for path in site.rglob("*") if path.suffix in (".html", ".css"))


def loaded(text: str) -> list[str]:
    """Return what a page or a style sheet loads from other hosts."""
    return _LOADED.findall(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
