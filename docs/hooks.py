"""What MkDocs does first: it adds pages from outside docs/, and the help of the command line as a page."""

import contextlib
import io
import os
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

from biflow import cli

ROOT = Path(__file__).parents[1]
OUTSIDE = ["CHANGELOG.md", "LICENSE", "SECURITY.md", "benchmarks/README.md", "examples/*.*", "benchmarks/results/*"]
OUTSIDE += ["src/biflow/models/*/NOTICE", "src/biflow/models/*/evidence.json"]
LINK = re.compile(r"(\]\()([^)\s:#]+)")
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config) -> Files:
    """Add the files that pages refer to from outside docs/, under their paths in the project."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    files.append(File.generated(config, "cli.md", content=_command_line()))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Let links lead to where files lie in the site, where docs/ is the root."""
    name = page.file.src_uri
    place = posixpath.dirname(name if (ROOT / name).exists() else f"docs/{name}")

    def moved(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(place, link[2]))
        target = posixpath.relpath(target, "docs") if target.startswith("docs/") else target
        return link[1] + posixpath.relpath(target, posixpath.dirname(name) or ".")

    parts = FENCED.split(markdown)  # every second one is code
    return "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))


def _command_line() -> str:
    os.environ["COLUMNS"] = "84"  # what a code block of the site holds
    page = ["# Command line\n\nThe output of `biflow --help` and of `biflow COMMAND --help`.\n"]
    for command in ("", *cli.COMMANDS):
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            cli.main([*command.split(), "--help"])
        page.append(f"## biflow {command}".rstrip() + f"\n\n```text\n{text.getvalue().strip()}\n```\n")
    return "\n".join(page)
