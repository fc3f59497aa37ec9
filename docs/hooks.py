"""MkDocs hooks: pages that lie outside of ``docs/`` join the site, and links between files become links between pages."""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# Page of the site by file of the repository.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "MAINTAINING.md": "maintaining.md",
    "SECURITY.md": "security.md",
    "data_manifests/README.md": "data_manifests.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of ``OUTSIDE``, and one of all commands and their options as their help has them."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    command = [sys.executable, "-m", "typer", "sga_monai.cli.main", "utils", "docs", "--name", "sga-monai", "--title", "Commands"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    files.append(File.generated(config, "commands.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point relative links at pages; a file that is no part of the site keeps its name and loses its link."""
    sources = {target: source for source, target in OUTSIDE.items()}
    here = page.file.src_uri
    folder = posixpath.dirname(sources.get(here, f"docs/{here}"))

    def rewrite(link: re.Match[str]) -> str:
        picture, text, target, anchor = link.group(1), link.group(2), link.group(3), link.group(4) or ""
        if not target or ":" in target:
            return link.group(0)
        path = posixpath.normpath(posixpath.join(folder, target))
        inside = path.removeprefix("docs/")
        if path not in OUTSIDE and inside == path:
            return text
        return f"{picture}[{text}]({posixpath.relpath(OUTSIDE.get(path, inside), posixpath.dirname(here) or '.')}{anchor})"

    return LINK.sub(rewrite, markdown)
