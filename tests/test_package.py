"""What someone sees who imports the package: names, types, help, and examples that run."""

import doctest
import inspect
import json
import pydoc
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest

import biflow
from biflow import rollout

ROOT = Path(__file__).parent.parent


def python(code: str) -> str:
    """What a fresh process prints that runs `code` on this source tree."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n{code}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


# Importing it


def test_importing_the_package_or_its_settings_imports_no_torch():
    loaded = "[name for name in ('torch', 'numpy', 'diffusers') if name in sys.modules]"
    assert python(f"import biflow; dir(biflow); biflow.Solver; import biflow.config; print({loaded})") == "[]"


def test_rollout_is_a_module_whatever_was_imported_before():
    code = """
import types
for before in ("", "import biflow; biflow.stream", "import biflow; biflow.generate", "import biflow.rollout",
               "from biflow import *", "import biflow.outputs"):
    for name in [name for name in sys.modules if name.partition(".")[0] == "biflow"]:
        del sys.modules[name]
    exec(before)
    from biflow import rollout
    print(type(rollout) is types.ModuleType, rollout.__name__)
"""
    assert set(python(code).splitlines()) == {"True biflow.rollout"}


def test_the_package_says_that_it_is_typed():
    assert (resources.files("biflow") / "py.typed").is_file()
    assert (resources.files("biflow") / "__init__.pyi").is_file()


def test_whatever_lies_in_the_package_is_installed_with_it():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    source = ROOT / "src" / "biflow"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    installed = {path for pattern in settings["package-data"]["biflow"] for path in source.glob(pattern)}
    files = {path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in files if path.suffix != ".py"} <= installed


# Public names


@pytest.mark.parametrize("name", biflow.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    thing = getattr(biflow, name)
    assert not isinstance(thing, ModuleType)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        assert thing.__module__.startswith("biflow.")
        doc = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        assert doc
        assert not doc.startswith(f"{name}("), "a docstring that a dataclass or a NamedTuple writes by itself"
    else:
        assert name == "METHODS"
        assert list(thing) == ["flow", "biflow", "condiff", "flowmap", "sequence"]


def test_dir_lists_the_public_names():
    assert {"stream", "load_model", "Model", "Solver", "Query", "train"} <= set(biflow.__all__) <= set(dir(biflow))
    assert biflow.__version__


def test_a_name_that_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="load_modle"):
        _ = biflow.load_modle


def test_help_shows_what_the_package_is_for():
    text = pydoc.render_doc(biflow, renderer=pydoc.plaintext)
    assert "biflow - Generative Video Bi-flow" in text
    assert "biflow.load_model(biflow.shipped_model())" in text
    described = text[text.index("\nFUNCTIONS\n") :]
    for name in ("stream", "load_model", "train", "with_engine"):
        assert re.search(rf"^    {name}\(", described, re.MULTILINE), name
    assert "Endless frames that follow" in described


def test_a_type_checker_sees_the_types_of_public_names(tmp_path):
    pytest.importorskip("pyright")
    names = list(biflow.__all__)
    lines = "".join(f"reveal_type(biflow.{name})\n" for name in names)
    (tmp_path / "uses.py").write_text(f"import biflow\n{lines}")
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT / "src")]}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    report = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    found = {}
    for diagnostic in report["generalDiagnostics"]:
        assert diagnostic["severity"] == "information", diagnostic["message"]
        name, kind = re.fullmatch(r'Type of "biflow\.(\w+)" is "(.*)"', diagnostic["message"], re.DOTALL).groups()
        found[name] = kind
    assert found.keys() == set(names)
    assert not {name: kind for name, kind in found.items() if re.search(r"\b(Unknown|Any)$", kind)}
    assert re.fullmatch(r"\(folder: Path \| str, .*\) -> Model", found["load_model"])
    assert re.fullmatch(r"\(model: Model, first: Tensor, .*\) -> Iterator\[Frame\]", found["stream"])
    assert found["Solver"] == "type[Solver]"
    assert found["METHODS"] == "dict[str, Method]"


# Examples


@pytest.mark.parametrize("thing", [biflow, rollout.stream], ids=["biflow", "stream"])
def test_the_examples_of_a_docstring_run_as_written(thing):
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, globs={})
    assert len(example.examples) >= 4
    results = doctest.DocTestRunner().run(example)
    assert results.failed == 0


REFUSED = """
import sys
from pathlib import Path
import torch
import biflow
from biflow.config import Export, Prepare, Sample

def refused(make):
    try:
        make()
    except (biflow.UserError, TypeError) as error:
        print(error)

refused(lambda: biflow.Solver("heun", steps=1.5))
refused(lambda: biflow.TrainConfig(batch="16"))
refused(lambda: biflow.TrainConfig(lr="fast"))
refused(lambda: Prepare(Path("a"), Path("b"), fps="x"))
refused(lambda: biflow.shipped_model("mazes"))
refused(lambda: biflow.with_engine(biflow.load_model(biflow.shipped_model()), "opnvino"))
refused(lambda: biflow.to_float(torch.rand(1, 3, 4, 4)))
refused(lambda: biflow.to_uint8(torch.zeros(1, 3, 4, 4, dtype=torch.uint8)))
refused(lambda: biflow.first_frames(biflow.shipped_model() / "first", (64, 64), samples=0))
assert Sample("m", out="films").out == Path("films")
assert Prepare("clips", "set").dst == Path("set")
assert Export("m", out="model", web="page").web == Path("page")
"""


def test_values_of_another_type_are_refused_in_a_sentence_and_places_may_be_text():
    # In a process of its own: here, what checks the types of tests would refuse them first.
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "steps is 1.5, but must be a whole number.",
        "batch is '16', but must be a whole number.",
        "lr is 'fast', but must be a number.",
        'fps is x, but must be from 0.1 to 480, or "native".',
        "No model 'mazes' comes with the package; use one of maze, racing.",
        "There is no engine 'opnvino'; use one of auto, torch, compile, openvino, onnxruntime.",
        "to_float takes uint8 frames, not torch.float32",
        "to_uint8 takes frames of floats, not torch.uint8",
        "samples is 0, but must be at least 1.",
    ]
