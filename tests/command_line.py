"""Runs the command line, and reads what it says."""

import re
import subprocess

from biflow import cli


def run(*words, capsys) -> tuple[int, str, str]:
    """Exit code, output and errors of `biflow words`."""
    code = 0
    try:
        cli.main([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capsys.readouterr()


def printed(*words, capsys) -> str:
    """What `biflow words` prints."""
    code, out, errors = run(*words, capsys=capsys)
    assert (code, errors) == (0, "")
    return out


def refused(*words, capsys) -> str:
    """The sentence that `biflow words` is refused with."""
    code, _, errors = run(*words, capsys=capsys)
    assert code == 2, errors
    assert "Traceback" not in errors
    lines = errors.splitlines()  # progress and warnings may come before it
    assert re.fullmatch(r"biflow: \S.*\S", lines[-1]), errors
    return lines[-1].removeprefix("biflow: ")


def read_until(process: subprocess.Popen, words: bytes) -> None:
    """Read the output of a process up to these words, and then no more, as `head` does."""
    assert process.stdout is not None
    said = b""
    while words not in said:
        more = process.stdout.read1()
        assert more, said
        said += more
    process.stdout.close()
