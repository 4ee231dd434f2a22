import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from biflow.config import Solver
from biflow.data.windows import Windows
from biflow.errors import UserError
from biflow.evaluation.protocol import PROTOCOLS, Protocol, changed, data_record, differences, load_protocol

from . import ring


def test_the_paper_s_protocol_is_that_of_section_3_1():
    paper = load_protocol("paper")
    assert (paper.samples, paper.frames, paper.window, paper.stride) == (128, 512, 32, 16)
    assert paper.solver == Solver("heun", rtol=1e-2, atol=1e-2, reference=True)
    assert paper.real_windows is None
    assert list(paper.starts(paper.frames))[:3] == [0, 16, 32]
    assert paper.starts(paper.frames)[-1] == 480


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"protocol": {"settings": s}}, lambda s: {"settings": s}])
def test_a_protocol_comes_back_from_what_an_evaluation_wrote(wrap, tmp_path):
    protocol = Protocol(name="mine", samples=3, eps=0.2, networks=("i3d", "lpips"), truth=(1, 8))
    protocol = replace(protocol, solver=Solver("euler", steps=20), actions="forward*3", turn="left*9 right*9")
    (tmp_path / "p.json").write_text(json.dumps(wrap(asdict(protocol))))
    assert load_protocol(str(tmp_path / "p.json")) == protocol


def test_a_file_says_only_what_differs_from_the_default(tmp_path):
    (tmp_path / "short.json").write_text('{"frames": 40}')
    assert load_protocol(str(tmp_path / "short.json")) == Protocol(name="short", frames=40)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"sample": 3}', "no setting sample. The nearest known one is samples"),
        ('{"solver": {"class_path": "os.system"}}', r"no setting solver\.class_path"),
        ('{"solver": {"method": "huen"}}', "did you mean 'heun'"),
        ('{"frames": 4}', "frames is 4, but must be at least the window of 16"),
        ('{"samples": 1}', "samples is 1, but must be at least 2"),
        ('{"networks": ["i4d"]}', "networks.*i4d"),
        ('{"real_windows": 1}', "real_windows is 1, but must be at least 2"),
        ('{"stride": 12}', "must be a multiple of frame_stride, 8"),
        ('{"frames": "many"}', "frames.*many"),
        ('{"truth": [0, 4]}', "truth is .*, but must be numbers of frames, counted from 1"),
        ('{"short_videos": -1}', "short_videos is -1, but must not be negative"),
        ("{", "is not valid JSON"),
        ("[3]", "does not contain a protocol"),
    ],
)
def test_a_bad_protocol_gets_a_sentence(content, sentence, tmp_path):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(UserError, match=sentence):
        load_protocol(str(tmp_path / "p.json"))


def test_an_unknown_protocol_names_the_known_ones():
    with pytest.raises(UserError, match="quick, paper or a JSON file"):
        load_protocol("quikc")


def test_changed_counts_show_in_the_name_and_what_the_paper_varies_does_not():
    quick = PROTOCOLS["quick"]
    assert changed(quick, eps=0.3, samples=None).name == "quick"
    assert changed(quick, actions="still") == replace(quick, actions="still")
    assert changed(quick, samples=4, frames=quick.frames).name == "quick, other samples"


def test_differences_name_the_key():
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == ["a.c"]
    assert differences({"a": [1]}, {"a": [1]}) == []


def test_a_split_is_read_for_its_checksum_only_when_its_files_have_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = ring.make_set(tmp_path, clips=4, split=0.5)
    with monkeypatch.context() as patch:
        before = {split: data_record(Windows(root, split=split)) for split in ("train", "test")}
        for name in ("clip", "action_rows"):
            patch.setattr(Windows, name, None)  # cannot be called
        assert before == {split: data_record(Windows(root, split=split)) for split in ("train", "test")}
    assert before["train"]["sha256"] != before["test"]["sha256"]
    for name, key in (("frames.npy", "sha256"), ("actions.npy", "actions_sha256")):
        array = np.load(root / name)
        np.save(root / name, array[::-1].copy())
        after = data_record(Windows(root, split="train"))
        assert {one for one in after if after[one] != before["train"][one]} == {key}
        np.save(root / name, array)
        assert data_record(Windows(root, split="train")) == before["train"]
