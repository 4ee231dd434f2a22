import errno
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from biflow import documents, files
from biflow.errors import UserError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, content="new", fail=None):
    """A file, or a folder of files where `content` is a dictionary. Raises `fail` at the end of the body."""
    with files.replacing(path) as partial:
        if isinstance(content, str):
            partial.write_text(content)
        for name, text in content.items() if isinstance(content, dict) else ():
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).write_text(text)
        if fail:
            raise fail


def test_a_file_appears_when_the_body_has_ended(tmp_path):
    path = tmp_path / "new" / "folders" / "a.txt"
    with files.replacing(path) as partial:
        assert partial.name == "a.txt"
        assert partial.parent.parent == path.parent
        assert partial.parent.name.startswith(".a.txt.")
        assert partial.parent.name.endswith(".partial")
        assert partial.parent.stat().st_mode & 0o777 == 0o700  # nobody else can put a link there
        assert not partial.exists()
        partial.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["a.txt"]


def test_tensors_that_share_memory_are_written_as_often_as_they_are_named(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": whole, "part": whole[1], "tied": whole, "turned": whole.T}
    files.write_tensors(tmp_path / "x.safetensors", tensors)
    assert {name: value.tolist() for name, value in load_file(tmp_path / "x.safetensors").items()} == {
        name: value.tolist() for name, value in tensors.items()
    }


def test_what_exists_is_replaced(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    write(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "new"
    write(tmp_path / "folder", {"old.txt": "old"})
    write(tmp_path / "folder", {"new.txt": "new", "sub/b.txt": "b"})
    assert names(tmp_path / "folder") == ["new.txt", "sub"]
    assert (tmp_path / "folder" / "sub" / "b.txt").read_text() == "b"
    assert names(tmp_path) == ["a.txt", "folder"]


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), UserError("x"), OSError(errno.EIO, "I/O error")])
@pytest.mark.parametrize("content", ["new", {"new.txt": "new"}])
def test_a_body_that_raises_leaves_what_was_there(tmp_path, error, content):
    write(tmp_path / "old", "old" if content == "new" else {"old.txt": "old"})
    expected = UserError if isinstance(error, OSError) else type(error)
    for name in ("old", "absent"):
        with pytest.raises(expected):
            write(tmp_path / name, content, fail=error)
    assert names(tmp_path) == ["old"]
    old = tmp_path / "old"
    assert (old.read_text() == "old") if content == "new" else (names(old) == ["old.txt"])


def test_a_folder_whose_rename_fails_is_put_back(tmp_path, monkeypatch):
    write(tmp_path / "folder", {"old.txt": "old"})
    monkeypatch.setattr(files.Path, "replace", lambda *paths: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(UserError, match="folder cannot be written: I/O error"):
        write(tmp_path / "folder", {"new.txt": "new"})
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["old.txt"]


def test_data_is_on_disk_before_the_rename_and_the_name_after_it(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, files.Path.replace
    inode = {tmp_path.stat().st_ino: "parent"}

    def record_sync(handle):
        fsync(handle)
        events.append(inode.get(os.fstat(handle).st_ino, "unknown"))

    def record_rename(path, target):
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(files.Path, "replace", record_rename)
    with files.replacing(tmp_path / "a.txt") as partial:
        partial.write_text("new")
        inode[partial.stat().st_ino] = "file"
    assert events == ["file", "rename", "parent"]
    events.clear()
    with files.replacing(tmp_path / "folder") as partial:
        (partial / "sub").mkdir(parents=True)
        (partial / "sub" / "b.txt").write_text("new")
        inode |= {partial.stat().st_ino: "folder", (partial / "sub").stat().st_ino: "sub"}
        inode[(partial / "sub" / "b.txt").stat().st_ino] = "file"
    assert sorted(events[:3]) == ["file", "folder", "sub"]
    assert events[3:] == ["rename", "parent"]
    events.clear()
    write(tmp_path / "new" / "deep" / "a.txt")  # the names of new folders are on disk, too
    assert events == ["unknown", "rename", "unknown", "unknown", "parent"]
    events.clear()
    with files.together(tmp_path) as new:
        (new / "b.txt").write_text("new")
        inode[(new / "b.txt").stat().st_ino] = "file"
    assert events == ["file", "rename", "parent", "parent"]


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    code = (
        "import os, sys\nfrom biflow.files import replacing\n"
        "with replacing(sys.argv[1]) as partial:\n    partial.mkdir()\n    (partial / 'x').touch()\n    os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    assert len(names(tmp_path)) == 1
    (tmp_path / ".a.notes.partial").write_text("mine")
    (tmp_path / ".a.12345678.partial").mkdir()  # somebody else's: it has no lock
    with files.replacing(tmp_path / "a") as partial:  # a process that runs
        partial.write_text("first")
        write(tmp_path / "a.tx")
        assert names(tmp_path) == sorted([".a.12345678.partial", partial.parent.name, ".a.notes.partial", "a.tx"])
        write(tmp_path / "a")
        assert partial.read_text() == "first"
    assert names(tmp_path) == [".a.12345678.partial", ".a.notes.partial", "a", "a.tx"]


def test_folders_of_processes_that_were_killed_before_they_wrote_are_removed(tmp_path):
    folders = [tmp_path / f".a.{name}.partial" for name in ("12345678", "87654321")]
    for folder in folders:
        folder.mkdir()
        (folder / ".lock").touch()
    os.utime(folders[0], (0, time.time() - 60))  # the other one may be just being made
    with files.replacing(tmp_path / "a") as partial:
        partial.write_text("new")
    assert names(tmp_path) == [".a.87654321.partial", "a"]


def test_a_folder_whose_process_was_killed_between_two_renames_gets_its_name_back(tmp_path):
    moved = tmp_path / ".a.12345678.partial" / ".previous"

    def kill():
        moved.mkdir(parents=True)
        (moved / "old.txt").write_text("old")
        (moved.parent / ".lock").touch()

    kill()
    with pytest.raises(KeyError):
        write(tmp_path / "a", {"new.txt": "new"}, fail=KeyError("x"))
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["old.txt"]
    kill()
    write(tmp_path / "a", {"new.txt": "new"})
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["new.txt"]


def test_files_that_belong_together_appear_together_or_not_at_all(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "sub/mine.txt"):
        (tmp_path / name).write_text("old")

    def add(fail=None):
        with files.together(tmp_path) as new:
            (new / "sub").mkdir()
            for name in ("a.txt", "b.txt", "sub/c.txt"):
                (new / name).write_text("new")
            if fail:
                raise fail

    with pytest.raises(UserError, match=r"^No space left to write"):
        add(OSError(errno.ENOSPC, ""))
    with pytest.raises(KeyboardInterrupt):
        add(KeyboardInterrupt())
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(UserError, match=r"/b\.txt cannot be written: it is a folder\.$"):
        add()
    (tmp_path / "b.txt").rmdir()
    assert names(tmp_path) == ["a.txt", "sub"]
    assert (tmp_path / "a.txt").read_text() == "old"
    add()
    assert names(tmp_path) == ["a.txt", "b.txt", "sub"]
    assert names(tmp_path / "sub") == ["c.txt", "mine.txt"]
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_second_command_in_a_folder_is_refused_until_the_first_has_ended(tmp_path):
    out = tmp_path / "new" / "out"
    with files.alone(out), pytest.raises(UserError, match=rf"^Another command is writing in {out}\."), files.alone(out):
        pass
    assert names(tmp_path) == []
    with files.alone(tmp_path):
        (tmp_path / "a").touch()
    with files.alone(tmp_path):
        pass
    assert names(tmp_path) == ["a"]


SAME = """
import sys
from biflow.files import write_text
for _ in range(20):
    write_text(sys.argv[1], sys.argv[2] * 100_000)
"""


def test_two_processes_can_write_the_same_file(tmp_path):
    path = tmp_path / "a.txt"
    writers = [subprocess.Popen([sys.executable, "-c", SAME, str(path), letter]) for letter in "ab"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert path.read_text() in ("a" * 100_000, "b" * 100_000)
        time.sleep(0.002)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert names(tmp_path) == ["a.txt"]


FOLDERS = """
import sys
from biflow.files import replacing
print("ready", flush=True)
sys.stdin.readline()
for _ in range(60):
    with replacing(sys.argv[1]) as partial:
        partial.mkdir()
        for name in "xy":
            (partial / name).write_text(sys.argv[2])
"""


def test_two_processes_can_write_the_same_folder(tmp_path):
    how = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    program = [sys.executable, "-c", FOLDERS, str(tmp_path / "out")]
    writers = [subprocess.Popen([*program, letter], **how) for letter in "ab"]
    assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2  # so that they write at the same time
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert names(tmp_path) == ["out"]
    assert {(tmp_path / "out" / name).read_text() for name in "xy"} in ({"a"}, {"b"})


def test_a_folder_or_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path, content, sentence in (
        ("folder", "new", r"/folder cannot be written: it is a folder\.$"),
        ("file", {"a.txt": "new"}, r"/file cannot be written: it exists and is not a folder\.$"),
        ("file/a.txt", "new", r"/file/a\.txt cannot be written: .*/file is not a folder\.$"),
        ("file/sub/a.txt", "new", r"/file/sub/a\.txt cannot be written: .*/file is not a folder\.$"),
    ):
        with pytest.raises(UserError, match=sentence):
            write(tmp_path / path, content)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "mine.txt").read_text() == "mine"


def fill_the_disk(path):
    with files.replacing(path) as partial:
        partial.write_text("half")
        with open("/dev/full", "w") as full:  # the error of a disk that is really full
            full.write("x")


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(UserError, match=r"^No space left to write .*/a\.txt\. Free some space"):
        fill_the_disk(tmp_path / "a.txt")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EDQUOT, "Quota exceeded")))
    with pytest.raises(UserError, match="No space left to write"):  # some file systems notice it only now
        write(tmp_path / "a.txt")
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", "^No space left to write .*/a"),
        ("Error while serializing: something", "/a cannot be written: Error while serializing: something"),
    ],
)
def test_safetensors_own_error_is_a_sentence(message, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "save_file", lambda *_, **__: (_ for _ in ()).throw(SafetensorError(message)))
    with pytest.raises(UserError, match=sentence):
        files.write_tensors(tmp_path / "a", {"x": torch.zeros(1)})
    assert names(tmp_path) == []


def test_a_file_over_the_limit_of_the_process_is_a_sentence_from_every_writer(tmp_path):
    """By the limit that `ulimit -f` sets: it is there on every system, for every user."""
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{tmp_path}/{name} cannot be written: File too large." for name in "abcd"]
    assert names(tmp_path) == []


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import torch
from biflow import files
from biflow.errors import UserError
from biflow.video import contact_sheet
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
out, noise = Path(sys.argv[1]), torch.randint(256, (3, 200, 200), dtype=torch.uint8)
for name, write in {
    "a": lambda path: files.write_text(path, "x" * 30000),
    "b": lambda path: files.write_tensors(path, {"x": torch.zeros(30000)}),
    "c": lambda path: files.write_array(path, np.zeros(30000)),
    "d": lambda path: contact_sheet([[noise]], path),
}.items():
    try:
        write(out / name)
    except UserError as error:
        print(error)
"""


def test_a_folder_without_permission_is_named(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o555)
    if not os.access(folder, os.W_OK):  # root may write anywhere
        with pytest.raises(UserError, match=f"you have no permission to write in {folder}"):
            write(folder / "a.txt")
    sentence = str(files.os_error(PermissionError(errno.EACCES, "Permission denied"), folder / "a.txt"))
    assert sentence == f"{folder}/a.txt cannot be written: you have no permission to write in {folder}."


def test_other_system_errors_keep_the_system_s_words(tmp_path):
    sentence = str(files.os_error(OSError(errno.EROFS, "Read-only file system"), tmp_path / "a"))
    assert sentence == f"{tmp_path}/a cannot be written: its file system is read-only."
    assert (
        str(files.os_error(OSError(errno.EIO, "Input/output error"), "a")) == "a cannot be written: Input/output error."
    )
    assert str(files.os_error(OSError("odd"), "a")) == "a cannot be written: odd."
    with pytest.raises(UserError, match="cannot be written: File name too long"):
        write(tmp_path / ("x" * 300))


def test_writers_write_what_readers_read(tmp_path):
    files.write_text(tmp_path / "a.txt", "ε 0.1 ★")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "ε 0.1 ★"
    tensor = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    files.write_tensors(tmp_path / "a.safetensors", {"x": tensor}, {"step": "3"})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["x"], tensor)
    files.write_array(tmp_path / "a.npy", np.arange(3))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2]
    content = {"a": [1, 2, {"b": [3, 4]}], "text": "[\n1,\n2]"}
    files.write_json(tmp_path / "a.json", content)
    assert documents.read_json(tmp_path / "a.json") == content
    assert '"b": [3, 4]' in (tmp_path / "a.json").read_text()
    files.write_json(tmp_path / "b.json", content, indent=None)
    assert (tmp_path / "b.json").read_text() == json.dumps(content) + "\n"
    assert names(tmp_path) == ["a.json", "a.npy", "a.safetensors", "a.txt", "b.json"]


def test_others_may_read_tensors_as_they_may_read_any_new_file(tmp_path):
    (tmp_path / "new").touch()
    files.write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "new").stat().st_mode


def test_equal_tensors_and_metadata_are_equal_bytes(tmp_path):
    metadata = {"step": "3", "commit": 'é"\\\n', "a": "b", "source": "x"}
    for i in range(8):
        files.write_tensors(
            tmp_path / f"{i}", {"x": torch.arange(3.0), "y": torch.ones(2, dtype=torch.uint8)}, metadata
        )
    assert len({(tmp_path / f"{i}").read_bytes() for i in range(8)}) == 1
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == {"format": "pt", **metadata}
        assert torch.equal(file.get_tensor("x"), torch.arange(3.0))


def test_json_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"a": 1')
    with pytest.raises(UserError, match=r"a\.json is not valid JSON \(.*line 1"):
        documents.read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        documents.read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"none\.json cannot be read: No such file"):
        documents.read_json(tmp_path / "none.json")


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_cache_is_where_xdg_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / "biflow"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_folder() == tmp_path / ".cache" / "biflow"
