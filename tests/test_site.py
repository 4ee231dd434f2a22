"""The documentation as a site."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import biflow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, which MkDocs builds only if there is no warning."""
    pytest.importorskip("material")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(out)]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    return out


def test_every_public_name_is_in_the_reference(site):
    page = (site / "api.html").read_text()
    for name in biflow.__all__:
        assert f">{name}<" in page or f'.{name}"' in page, name


def test_the_command_line_has_the_help_of_every_command(site):
    page = (site / "cli.html").read_text()
    assert "Usage: biflow train" in page
    assert "--own-frames" in page


def test_pages_outside_docs_are_linked_within_the_site(site):
    assert 'href="benchmarks/index.html#solvers"' in (site / "method.html").read_text()
    assert (site / "benchmarks" / "index.html").exists()
