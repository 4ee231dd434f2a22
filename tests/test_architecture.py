"""The shape of the code: which way imports run, where names of methods stand, and how long a screen is."""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "biflow"
# Imports go to the same group or to an earlier one, also inside functions.
GROUPS = [
    [
        "errors",
        "documents",
        "schemas",
        "tensors",
        "files",
        "downloads",
        "limits",
        "hub",
        "machine",
        "paths",
        "spinning",
        "pictures",
        "solvers",
        "tableaus",
        "video",
        "animation",
        "films",
        "film_filters",
        "config",
        "actions",
        "background",
        "interrupts",
        "summaries",
    ],
    ["methods"],
    ["networks", "data"],
    [
        "model",
        "warm_start",
        "engines",
        "memory",
        "rollout",
        "drift",
        "moments",
        "sequences",
        "reference",
        "action_rows",
    ],
    ["outputs", "playback", "exchange", "card", "notebook", "training", "evaluation", "serve", "web", "pipeline"],
    ["options", "words"],
    ["cli"],
]
GROUP = {room: number for number, rooms in enumerate(GROUPS) for room in rooms}
METHODS = {"flow", "biflow", "condiff", "flowmap", "sequence"}
TITLES = {"FLOW", "BI-FLOW", "CONDIFF", "FLOW MAP", "SEQUENCE"}


def name_of(path: Path) -> str:
    """The module at a path: biflow.solvers, biflow.solvers.adams."""
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(SRC.rglob("*.py"))}


@lru_cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def imports(module: str) -> Iterator[tuple[str, ast.AST]]:
    """The modules of biflow that a module imports, anywhere in its file, and the statements that do so."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree(MODULES[module])):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*anchor, base] if base else anchor)
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "biflow":
                yield name, node


def graph() -> dict[str, set[str]]:
    """Every module and those that run when it is imported, itself and the packages around it left out."""
    edges = {}
    for module in MODULES:
        found = set()
        for name, _ in imports(module):
            around = {name, *(name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1))}
            found |= {one for one in around if not f"{module}.".startswith(f"{one}.")} - {"biflow"}
        edges[module] = found
    return edges


# Imports


def test_every_room_has_its_place_in_the_order():
    rooms = {module.split(".")[1] for module in MODULES if "." in module}
    assert rooms <= GROUP.keys(), "a new file at the top of the package belongs into GROUPS"


def test_imports_go_one_way():
    wrong = []
    for module in MODULES:
        for name, node in imports(module):
            ours, theirs = (GROUP.get(f"{one}.".split(".")[1]) for one in (module, name))
            if ours is not None and theirs is not None and theirs > ours:
                wrong.append(f"{place(MODULES[module], node)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_nothing_but_the_version_comes_from_the_top_of_the_package():
    # The top imports public names when they are first used; the package itself says where they come from.
    wrong = [
        f"{place(MODULES[module], node)} imports {alias.name} from biflow"
        for module in MODULES
        for name, node in imports(module)
        if name == "biflow" and isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"biflow.{alias.name}" not in MODULES and alias.name != "__version__"
    ]
    assert not wrong, "\n".join(wrong)


def test_every_imported_module_is_there():
    wrong = [
        f"{place(MODULES[module], node)} imports {name}"
        for module in MODULES
        for name, node in imports(module)
        if name not in MODULES
    ]
    assert not wrong, "\n".join(wrong)


def test_no_imports_run_in_a_circle():
    edges, finished, path = graph(), set(), []

    def visit(module: str) -> None:
        if module in path:
            pytest.fail(" -> ".join([*path[path.index(module) :], module]))
        if module in finished or module not in edges:
            return
        path.append(module)
        for name in sorted(edges[module]):
            visit(name)
        finished.add(path.pop())

    for module in edges:
        visit(module)


@pytest.mark.parametrize("room", ["config", "errors", "tableaus"])
def test_settings_know_nothing_of_torch(room):
    heavy = {"torch", "numpy", "diffusers", "safetensors", "accelerate"}
    for module, path in MODULES.items():
        if module.split(".")[1:2] == [room]:
            for node in ast.walk(tree(path)):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not heavy & {name.split(".")[0] for name in names}, place(path, node)


# Names of methods


def texts(node: ast.AST) -> set[str]:
    """The string literals of an expression, also in a tuple, a list or a set."""
    elements = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {one.value for one in elements if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def comparisons(module: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Where a file compares with the name or the title of a method, or has a name for a key."""
    for node in ast.walk(module):
        hits: set[str] = set()
        if isinstance(node, ast.Compare):
            hits = set().union(*map(texts, [node.left, *node.comparators])) & (METHODS | TITLES)
        elif isinstance(node, ast.MatchValue):
            hits = texts(node.value) & (METHODS | TITLES)
        elif isinstance(node, ast.Dict):
            # "biflow" may also be this package, as in the versions that results carry.
            entries = zip(node.keys, node.values, strict=True)
            keys = [key for key, value in entries if key is not None and ast.unparse(value) != "__version__"]
            hits = set().union(*map(texts, keys)) & METHODS
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("index", "count")
        ):
            hits = texts(node.func.value) & METHODS
        for hit in sorted(hits):
            yield node, hit


def test_nobody_compares_names_of_methods():
    files = [path for folder in ("src", "benchmarks", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]
    files = [path for path in files if SRC / "methods" not in path.parents]
    wrong = [f"{place(path, node)}: {hit}" for path in files for node, hit in comparisons(tree(path))]
    assert not wrong, "\n".join(wrong)


def test_the_page_knows_no_names_of_methods():
    wrong = []
    for path in sorted((SRC / "serve" / "page").glob("*.js")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            quoted = re.search(r"""(["'`])(flow|biflow|condiff|FLOW|BI-FLOW|CONDIFF)\1""", line)
            if quoted or re.search(r"\b(flow|biflow|condiff)\s*:", line):
                wrong.append(f"{path.name}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('if method == "flow": pass', 1),
        ('x = method in ("biflow", "condiff")', 2),
        ('titles = {"flow": "FLOW", "biflow": "BI-FLOW"}', 2),
        ('x = row["title"] != "BI-FLOW"', 1),
        ('match method:\n    case "condiff": pass', 1),
        ('order = ("flow", "biflow", "condiff").index(method)', 3),
        ('versions = {"biflow": __version__}', 0),
        ('log = getLogger("biflow")', 0),
        ("if method is FLOW: pass", 0),
    ],
)
def test_a_comparison_is_recognised(code, found):
    assert len(list(comparisons(ast.parse(code)))) == found


# Sizes


def functions() -> Iterator[tuple[int, str]]:
    """The length in lines and the place of every function of the package."""
    for path in MODULES.values():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.end_lineno - node.lineno + 1, f"{place(path, node)} {node.name}"


def test_no_file_is_longer_than_300_lines():
    folders = [ROOT / folder for folder in ("src", "benchmarks", "examples", "datasets")]
    files = [path for folder in folders for kind in ("py", "js", "css", "html") for path in folder.rglob(f"*.{kind}")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert not {path: lines for path, lines in lengths.items() if lines > 300}


def test_functions_fit_a_screen():
    long = sorted((lines, where) for lines, where in functions() if lines > 40)
    listed = "\n".join(f"{lines} {where}" for lines, where in long)
    assert not [lines for lines, _ in long if lines > 60], listed
    assert len(long) <= 6, listed


# Names and messages


def test_no_public_name_is_a_module_as_well():
    stub = ast.parse((SRC / "__init__.pyi").read_text())
    names = {
        alias.asname or alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {"stream", "load_model", "train"} <= names
    assert not {name for name in names if f"biflow.{name}" in MODULES}


def messages(path: Path) -> Iterator[ast.AST]:
    """The string literals in errors and in the log."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.endswith(("Error", "os_error", "KeyboardInterrupt")) or re.fullmatch(
                r"log\.\w+|tqdm\.write", called
            ):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield part


def test_the_library_never_names_a_flag_of_the_command_line():
    wrong = []
    for module, path in MODULES.items():
        if module.split(".")[1:2] not in (["cli"], ["config"]):
            for part in messages(path):
                if re.search(r"(?<![\w-])--[a-z]", part.value):
                    wrong.append(f"{place(path, part)}: {part.value}")
    assert not wrong, "\n".join(wrong)
