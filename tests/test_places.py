"""Files and folders that a command names: what is missing or cannot be written is refused before any work."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from biflow.config.checks import check_writable
from biflow.errors import UserError
from tests.command_line import refused

# Commands with a place to write, which is the last word; `{x}` is a file that exists.
WRITING = {
    "train": "train --data {x} --out",
    "sample": "sample {x} --out",
    "demo": "demo --out",
    "export": "export {x}",
    "prepare": "prepare {x}",
    "evaluate": "evaluate {x} --data {x} --out",
    "report": "report {x} --out",
    "fvd": "fvd {x} {x} --json",
    "import": "import reference {x} --method flow --width 32 --size 32 --out",
    "data": "data fetch mazes --out",
}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a_file").write_text("not a folder\n")
    return tmp_path / "a_file"


def words(command: str, file: Path, place: object) -> list[str]:
    return [*WRITING[command].format(x=file).split(), str(place)]


@pytest.mark.parametrize("command", WRITING)
def test_a_file_in_the_way_is_refused_and_stays_as_it_was(command, file, capsys):
    places = {file / "below": f"{file} is not a folder", file / "far" / "below": f"{file} is not a folder"}
    if command == "fvd":
        places[file.parent] = "is a folder; name a file"
        places["/dev/null"] = "/dev/null is no file; name a file"
    else:
        places[file] = f"{file} cannot be written: it exists and is not a folder"
    for place, reason in places.items():
        assert reason in refused(*words(command, file, place), capsys=capsys)
    assert file.read_text() == "not a folder\n"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
@pytest.mark.parametrize("command", WRITING)
def test_a_place_that_the_system_does_not_let_write_is_refused(command, file, capsys):
    """/proc takes no new files, not even from root."""
    assert "/proc/new/place cannot be written: " in refused(*words(command, file, "/proc/new/place"), capsys=capsys)


@pytest.mark.parametrize("command", WRITING)
def test_a_link_to_nothing_and_a_name_that_is_too_long_are_refused(command, file, capsys):
    link = file.with_name("link")
    link.symlink_to("nowhere")
    assert "is a link to a place that does not exist" in refused(*words(command, file, link / "x"), capsys=capsys)
    assert "cannot be written: File name too long" in refused(*words(command, file, "x" * 300), capsys=capsys)
    assert sorted(path.name for path in file.parent.iterdir()) == ["a_file", "link"]


def test_weights_go_to_a_cache_that_can_be_written(file, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    assert f"{file} is not a folder" in refused("weights", "fetch", "i3d", capsys=capsys)


READ_ONLY = """
import subprocess, sys
from pathlib import Path
folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", folder], check=True)
from biflow.cli import main
main(["demo", "--out", str(folder / "new" / "out")])
"""


def test_a_read_only_disk_is_refused(tmp_path):
    """In a mount namespace of its own, so that the mount is gone with the process."""
    command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable]
    if os.geteuid() == 0:
        command = ["unshare", "--mount", sys.executable]
    try:
        subprocess.run([*command, "-c", ""], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mount namespaces")
    done = subprocess.run([*command, "-c", READ_ONLY, tmp_path], capture_output=True, text=True)
    if "mount" in done.stderr:
        pytest.skip("mounting is not allowed")
    place = tmp_path / "new" / "out"
    assert done.stderr == f"biflow: --out: {place} cannot be written: its file system is read-only.\n"
    assert done.returncode == 2


def test_a_folder_without_permission_is_refused():
    """By a process of another user where the tests run as root, who may write everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder, "closed")
        closed.mkdir(mode=0o555)
        child = os.fork()
        if not child:
            os._exit(_refused_without_permission(closed))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _refused_without_permission(closed: Path) -> int:
    if os.geteuid() == 0:
        os.seteuid(65534)
    for place in (closed, closed / "new"):
        try:
            check_writable(place, "out")
        except UserError as error:
            if str(error) == f"{place} cannot be written: you have no permission to write in {closed}.":
                continue
        return 1
    return 0


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    check_writable(tmp_path / "new" / "file.json", file=True)
    check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "old.json").write_text("{}")
    check_writable(tmp_path / "old.json", file=True)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["{}"]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("sample", "nowhere"), "--model"),
        (("sample", ".", "--first", "nowhere"), "--first"),
        (("serve", "nowhere"), "--model"),
        (("serve", ".", "--first", "nowhere"), "--first"),
        (("train", "--data", "nowhere", "--out", "new"), "--data"),
        (("evaluate", ".", "--data", "nowhere", "--out", "new"), "--data"),
        (("export", "nowhere", "new"), "--model"),
        (("export", ".", "new", "--first", "nowhere"), "--first"),
        (("prepare", "nowhere", "new"), "--src"),
        (("report", ".", "nowhere", "--out", "new"), "--runs"),
        (("fvd", ".", "nowhere", "--json", "new/fvd.json"), "--fake"),
        (("import", "reference", "nowhere", "new", "--method=flow", "--width=32", "--size=32"), "--weights"),
        (("weights", "fetch", "i3d", "--archive", "nowhere"), "--archive"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_written(words, option, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(*words, capsys=capsys) == f"{option}: nowhere does not exist. Check the path."
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("sample", ".", "--frames", "-1"),
        ("sample", ".", "--eps", "-1"),
        ("sample", ".", "--solver", "foo"),
        ("sample", ".", "--solver", "euler"),
        ("sample", "nowhere"),
        ("sample", ".", "--out", "/dev/null"),
        ("demo", "--samples", "0"),
        ("serve", ".", "--port", "99999"),
        ("evaluate", ".", "--data", ".", "--out", "o", "--samples", "0"),
        ("evaluate", ".", "--data", ".", "--out", "/dev/null"),
        ("fvd", ".", ".", "--json", "/dev/null"),
        ("export", "nowhere", "o"),
        ("prepare", ".", "/dev/null"),
        ("report", "nowhere"),
        ("data", "fetch", "sky", "--out", "/dev/null"),
    ],
)
def test_a_refusal_does_not_wait_for_torch(words, capsys, monkeypatch):
    for module in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.setitem(sys.modules, module, None)  # importing it now fails
    for module in [name for name in sys.modules if name.startswith("biflow.") and needs_torch(name)]:
        monkeypatch.delitem(sys.modules, module)
    refused(*words, capsys=capsys)


def needs_torch(name: str) -> bool:
    """Whether a module is one that a refusal could import anew."""
    return name.split(".")[1] not in ("cli", "config", "errors", "words")
