"""Settings from dictionaries: types, nested groups, and sentences for what is wrong."""

import inspect
import json
import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from biflow import config
from biflow.config.parsing import kinds, parse, read_yaml
from biflow.errors import UserError

DATACLASSES = [cls for cls in vars(config).values() if is_dataclass(cls)]


@dataclass(frozen=True)
class Inner:
    widths: tuple[int, ...] = (1, 2)
    share: float | None = None

    def __post_init__(self) -> None:
        if self.share == 0:
            raise UserError("inner.share is 0.", setting="inner.share")


@dataclass(frozen=True)
class Outer:
    path: Path
    name: str = "a"
    count: int = 1
    rate: float = 0.5
    flag: bool = False
    kind: Literal["one", "two"] = "one"
    choice: Literal["one", "two"] | None = None
    maybe: Path | None = None
    limit: int | None = None
    paths: tuple[Path, ...] = ()
    kinds: tuple[Literal["one", "two"], ...] = ()
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("path", "eps0.1:t12", Path("eps0.1:t12")),
        ("path", Path("a"), Path("a")),
        ("name", "12", "12"),
        ("name", "null", "null"),
        ("count", 3, 3),
        ("count", "3", 3),
        ("count", "-3", -3),
        ("rate", "1e-4", 1e-4),
        ("rate", 1, 1.0),
        ("rate", "0.5", 0.5),
        ("flag", True, True),
        ("flag", "true", True),
        ("flag", "False", False),
        ("kind", "two", "two"),
        ("choice", None, None),
        ("choice", "two", "two"),
        ("maybe", None, None),
        ("maybe", "null", Path("null")),
        ("limit", "null", None),
        ("limit", "7", 7),
        ("paths", ["a", "b"], (Path("a"), Path("b"))),
        ("inner", {"widths": ["3", 4]}, Inner((3, 4))),
        ("inner", {"share": "0.25"}, Inner(share=0.25)),
        ("inner", {}, Inner()),
    ],
)
def test_a_value_takes_the_type_of_its_field(key, value, expected):
    read = getattr(parse(Outer, {"path": "p", key: value}), key)
    assert read == expected
    assert type(read) is type(expected)


def test_what_is_left_out_has_its_default():
    assert parse(Outer, {"path": "p"}) == Outer(Path("p"))


@pytest.mark.parametrize(
    ("content", "sentence", "setting"),
    [
        ({}, "path is missing.", "path"),
        ({"path": 3}, "path must be a path, not 3.", "path"),
        ({"name": 3}, "name must be text, not 3.", "name"),
        ({"name": None}, "name must be text, not null.", "name"),
        ({"count": "many"}, "count must be a whole number, not 'many'.", "count"),
        ({"count": 1.5}, "count must be a whole number, not 1.5.", "count"),
        ({"count": True}, "count must be a whole number, not true.", "count"),
        ({"count": None}, "count must be a whole number, not null.", "count"),
        ({"rate": "abc"}, "rate must be a number, not 'abc'.", "rate"),
        ({"flag": "maybe"}, "flag must be true or false, not 'maybe'.", "flag"),
        ({"kind": "three"}, "kind must be one of one, two, not 'three'.", "kind"),
        ({"choice": "three"}, "choice must be one of one, two, not 'three'.", "choice"),
        ({"limit": "few"}, "limit must be a whole number or null, not 'few'.", "limit"),
        ({"paths": "a"}, "paths must be a list, not 'a'.", "paths"),
        ({"paths": ["a", 3]}, "paths[1] must be a path, not 3.", "paths"),
        ({"inner": 3}, "inner must be a group of settings, not 3.", "inner"),
        ({"inner": None}, "inner must be a group of settings, not null.", "inner"),
        ({"inner": {"widths": ["a"]}}, "inner.widths[0] must be a whole number, not 'a'.", "inner.widths"),
        ({"inner": {"share": "a"}}, "inner.share must be a number or null, not 'a'.", "inner.share"),
        ({"inner": {"share": 0}}, "inner.share is 0.", "inner.share"),
        ({"kinds": ["one", "three"]}, "kinds[1] must be one of one, two, not 'three'.", "kinds"),
    ],
)
def test_a_value_of_another_type_is_refused_in_a_sentence_that_names_it(content, sentence, setting):
    content = {"path": "p", **content} if content else {}
    with pytest.raises(UserError) as refused:
        parse(Outer, content)
    assert str(refused.value) == sentence
    assert refused.value.setting == setting


@pytest.mark.parametrize(
    ("content", "wrong", "near"),
    [
        ({"cuont": 3}, "cuont", "count"),
        ({"pth": "p"}, "pth", "path"),
        ({"inner": {"width": []}}, "inner.width", "inner.widths"),
        ({"count": {"a": 1}}, "count.a", "count"),
        ({3: 4}, "3", ""),
        ({"zzz": 4}, "zzz", ""),
    ],
)
def test_an_unknown_key_names_the_nearest(content, wrong, near):
    with pytest.raises(UserError, match=rf"^There is no setting {wrong}\. The nearest known one is {near}"):
        parse(Outer, {"path": "p", **content})


@pytest.mark.parametrize("content", [{"count": "many"}, {"cuont": 3}, {"inner": {"share": 0}}, {}])
def test_the_source_is_named_first_and_then_no_setting(content):
    with pytest.raises(UserError, match=r"^my\.yaml: .+\.$") as refused:
        parse(Outer, content and {"path": "p", **content}, "my.yaml")
    assert refused.value.setting is None  # as a flag on the command line, it would hide where the value is


@pytest.mark.parametrize("content", [[1], "text", None, 3])
def test_content_that_is_no_dictionary_is_refused(content):
    with pytest.raises(UserError, match="The content must be a group of settings, not "):
        parse(Outer, content)


def test_keys_have_dots_where_they_are_nested():
    assert list(kinds(Outer))[-3:] == ["inner", "inner.widths", "inner.share"]
    assert kinds(config.Train)["network.head_dim"] is int


def test_a_yaml_file_is_read_and_an_empty_one_has_no_settings(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("lr: 1e-4\nnetwork:\n  channels: [32, 64]\n")
    settings = parse(config.TrainConfig, read_yaml(path))
    assert (settings.lr, settings.network.channels) == (1e-4, (32, 64))
    path.write_text("# nothing yet\n")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: [1\nb: 2", "line 2: not valid YAML: expected "),
        (b"a: b: c", "line 1: not valid YAML: mapping values are not allowed here"),
        (b"\xff\xfe\x00", "not valid YAML: "),
        (b"- 3", r"does not hold settings, but \[3\]"),
        (b"just text", "does not hold settings, but 'just text'"),
    ],
)
def test_bad_yaml_is_one_sentence_with_the_file_and_the_line(content, sentence, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as refused:
        read_yaml(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_yaml_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml cannot be read: No such file"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match=r"cannot be read: Is a directory"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("cls", "content", "setting"),
    [
        (config.Prepare, {"src": "a", "dst": "b", "size": 0}, "size"),
        (config.Prepare, {"src": "a", "dst": "b", "fps": "inf"}, "fps"),
        (config.Prepare, {"src": "a", "dst": "b", "split": 1.5}, "split"),
        (config.Sample, {"model": "m", "frames": 0}, "frames"),
        (config.Sample, {"model": "m", "fps": "nan"}, "fps"),
        (config.Sample, {"model": "m", "steps": 0}, "steps"),
        (config.Sample, {"model": "m", "solver": "euler"}, "steps"),
        (config.Evaluate, {"model": "m", "data": "d", "out": "o", "feature_batch": 0}, "feature_batch"),
        (config.Evaluate, {"model": "m", "data": "d", "out": "o", "steps": 0}, "steps"),
        (config.Fvd, {"real": "a", "fake": "b", "window": -1}, "window"),
        (config.TrainConfig, {"lr": 0}, "lr"),
        (config.TrainConfig, {"lr": "nan"}, "lr"),
        (config.TrainConfig, {"eps": -0.1}, "eps"),
        (config.TrainConfig, {"eps": "nan"}, "eps"),
        (config.TrainConfig, {"ema": 1}, "ema"),
        (config.TrainConfig, {"v_scale": 0}, "v_scale"),
        (config.TrainConfig, {"network": {"channels": [48]}}, "network.channels"),
        (config.TrainConfig, {"network": {"attention": [3]}}, "network.attention"),
    ],
)
def test_a_value_out_of_range_is_refused_and_names_its_setting(cls, content, setting):
    with pytest.raises(UserError) as refused:
        parse(cls, content)
    assert refused.value.setting == setting


def test_gradients_need_not_be_clipped():
    assert parse(config.TrainConfig, {"clip": "inf"}).clip == float("inf")


@pytest.mark.parametrize("cls", DATACLASSES, ids=lambda cls: cls.__name__)
def test_every_field_has_a_help_text_that_is_a_sentence(cls):
    """In the docstring; tests/test_cli_help.py finds these texts in the help."""
    bases = [base for base in reversed(cls.__mro__) if is_dataclass(base)]
    docs = "\n".join(inspect.cleandoc(base.__doc__) for base in bases)
    texts = {}
    for names, text in re.findall(r"^    ([a-z_, ]+): (.*(?:\n {8}.*)*)", docs, re.MULTILINE):
        texts |= dict.fromkeys(names.split(", "), text)
    for item in fields(cls):
        assert texts.get(item.name, "").endswith("."), f"{cls.__name__}.{item.name}"
    assert inspect.cleandoc(cls.__doc__).splitlines()[0].endswith(".")


@pytest.mark.usefixtures("unchecked")
def test_values_are_taken_as_python_has_them():
    settings = config.TrainConfig(init=Path("runs/a"), seed=np.int64(3), lr=np.float32(0.5), steps=1e4)  # pyright: ignore
    assert (settings.init, settings.seed, settings.lr, settings.steps) == ("runs/a", 3, 0.5, 10_000)
    assert [type(value) for value in (settings.init, settings.seed, settings.lr, settings.steps)] == [
        str,
        int,
        float,
        int,
    ]
    assert json.loads(json.dumps(asdict(settings)))["init"] == "runs/a"  # a checkpoint keeps it


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: config.TrainConfig(optimizer="Muon"), "optimizer is 'Muon', but must be one of adamw, muon"),
        (lambda: config.TrainConfig(schedule="linear"), "schedule is 'linear', but must be one of"),
        (lambda: config.TrainConfig(path="quadratic"), "path is 'quadratic', but must be one of linear, knots, cubic"),
        (lambda: config.Prepare(Path("a"), Path("b"), range="0-1"), "range is '0-1', but must be one of"),
    ],
)
def test_a_word_that_a_setting_does_not_know_is_refused_in_python_too(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
