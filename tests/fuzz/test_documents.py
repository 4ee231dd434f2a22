"""Valid documents are read as they are, and damaged ones are read or refused in a sentence."""

import json
import sys
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biflow import schemas
from biflow.config.parsing import parse, read_yaml
from biflow.config.training import TrainConfig
from biflow.data.windows import Windows
from biflow.documents import checked, parsed_json, read_document
from biflow.errors import UserError
from biflow.evaluation import schemas as evaluations
from biflow.evaluation.protocol import load_protocol
from biflow.model import load_model
from tests.fuzz.documents import Readers, make
from tests.fuzz.mutations import value
from tests.fuzz.strategies import of

SCHEMAS = [schemas.Index, schemas.MadeFrom, schemas.ModelFile, schemas.State, schemas.LogLine, schemas.Recording]
SCHEMAS += [evaluations.Costs, evaluations.Checksums, evaluations.Claim, evaluations.Metrics]
KINDS = ("index", "frames", "set's actions", "model", "weights", "state", "checkpoint", "log", "source", "metrics")
KINDS += ("videos", "costs", "features", "claim", "protocol", "settings", "actions", "moments", "recording")
FEW = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    make(root)
    return Readers(root)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_a_valid_document_is_read_as_it_is(schema, tmp_path):
    @FEW
    @given(of(schema))
    def check(content):
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert read_document(tmp_path / "a.json", schema, "is wrong", "") == content

    check()


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.__name__)
def test_a_document_with_other_values_fits_or_is_refused(schema):
    @FEW
    @given(of(schema), st.randoms(use_true_random=False))
    def check(content, random):
        changed = value(random, json.loads(json.dumps(content)))
        try:
            assert checked(changed, schema, "a.json is wrong", "Write it again.") is changed
        except UserError as error:
            refusals.append(str(error))

    refusals = []
    check()
    assert all(text.startswith("a.json is wrong") and text.endswith("Write it again.") for text in refusals)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused(kind, readers):
    assert set(KINDS) == set(readers.kinds)
    readers.kinds[kind][1]()  # whole, it is read
    results = {readers.case(kind, Random(seed)) for seed in range(25)}
    assert "refused" in results or kind == "log"  # which is repaired


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "too many digits"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'{"a": "\\ud800"}', "not UTF-8"),
        (b"\xff\xfe{\0}\0", "not UTF-8"),
        (b"[" + b"[]," * 4_000_000, "too large"),
        (b"{", "line 1"),
        (b"", "line 1"),
    ],
)
def test_the_limits_of_json_are_one_sentence(content, reason):
    with pytest.raises(UserError, match=rf"^a\.json is not valid JSON \(.*{reason}.*\)\. Write it again\.$"):
        parsed_json(content, "a.json", "Write it again.")


def test_a_byte_order_mark_and_names_that_are_no_unicode_are_read():
    assert parsed_json(b'\xef\xbb\xbf{"a": 1}', "a.json") == {"a": 1}
    assert parsed_json(b'{"a": "\\udcff"}', "a.json", names=True) == {"a": "\udcff"}
    assert parsed_json(b'{"a": "\\ud83d\\ude00"}', "a.json") == {"a": "\N{GRINNING FACE}"}


BOMB = "raise SystemExit('imported')"


def test_nothing_that_a_file_says_is_imported(readers, tmp_path, monkeypatch):
    """Classes, modules, YAML tags and pickles in each kind of file are refused, and the module does not run."""
    (tmp_path / "bomb.py").write_text(BOMB)
    monkeypatch.syspath_prepend(tmp_path)
    protocol, yaml = tmp_path / "protocol.json", tmp_path / "settings.yaml"
    for content in ({"solver": {"class_path": "bomb.Y"}}, {"class_path": "bomb.Y"}, {"networks": ["bomb.Y"]}):
        protocol.write_text(json.dumps(content))
        with pytest.raises(UserError):
            load_protocol(str(protocol))
    for text in ("network: {class_path: bomb.Y}", "!!python/object:bomb.Y {}", "lr: !!python/name:bomb.Y", "a: !bomb"):
        yaml.write_text(text)
        with pytest.raises(UserError):
            parse(TrainConfig, read_yaml(yaml), str(yaml))
    pickled = b"\x80\x04cbomb\nY\n)R."
    array = b"\x93NUMPY\x01\0v\0" + b"{'descr': '|O', 'fortran_order': False, 'shape': (12, 3, 8, 8), }".ljust(117)
    root = readers.root
    for name, damaged, read in (
        ("model/config.json", b'{"_class_name": "bomb.Y"}', lambda: load_model(root / "model")),
        ("model/config.json", b'{"network": {"class_path": "bomb.Y"}}', lambda: load_model(root / "model")),
        ("model/config.json", b'{"method": "bomb.Y"}', lambda: load_model(root / "model")),
        ("model/diffusion_pytorch_model.safetensors", pickled, lambda: load_model(root / "model")),
        ("set/frames.npy", array + b"\n" + pickled * 500, lambda: Windows(root / "set")),
        ("set/actions.npy", pickled, lambda: Windows(root / "set")),
        ("recording.json", b'{"actions": [[0, 0]], "recording": {"solver": {"class_path": "bomb.Y"}}}', None),
        ("evaluated/videos/000.npy", pickled, lambda: readers.videos()),
    ):
        content = (root / name).read_bytes()
        (root / name).write_bytes(damaged)
        with pytest.raises(UserError):
            read() if read else readers.play(name)
        (root / name).write_bytes(content)
    assert "bomb" not in sys.modules
