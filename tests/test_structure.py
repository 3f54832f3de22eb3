"""The house rules that can be read off the source: imports run one way, and what stays out."""

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edge_rjepa"

# What each room of edge_rjepa may import of the others, lowest floor first. `errors` and what
# `edge_rjepa` itself gives (`_version`) are open to all.
ALLOWED = {
    "base": "",
    "learner": "base",
    "optics": "",
    "eye": "base optics",
    "sources": "base eye optics",
    "run": "base eye learner optics sources",
    "encoder": "base eye learner run sources",
    "teach": "base encoder eye learner",
    "watch": "base optics sources",
    "views": "base encoder eye learner optics run sources",
    "doctor": "base sources",
    "fleet": "learner run",
    "cli": "base doctor encoder eye fleet learner optics run sources teach views watch",
}
OPEN = {"errors", "_version"}
NEIGHBOURS = [  # used by edge_rjepa, and usable without it
    name
    for name in ("firmware_bridge", "calibration", "ros2_link", "safe_files")
    if (ROOT / name).is_dir()
]
DOORS = {PACKAGE / "__init__.py", PACKAGE / "__main__.py"}  # the public names; the command line
PARSERS = {
    "safe_files/reading.py",
    "firmware_bridge/firmware/fuzz/seeds.py",  # the vectors of its own source tree
}
HEAVY = ["cv2", "serial", "onnxruntime", "onnx", "matplotlib", "numba", "numba.cuda", "flwr"]


@functools.cache  # half a dozen tests ask it of every file
def imported(source: str) -> frozenset[str]:
    """Full names of all that a source file imports: `a.b.c` for `from a.b import c`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = "." * node.level + (node.module or "")
            names |= {f"{parent}.{alias.name}" for alias in node.names}
    return frozenset(names)


def rooms_imported(source: str) -> set[str]:
    """The rooms of edge_rjepa that a source file imports, `__init__` for a name of the package."""
    parts = [name.split(".") for name in imported(source)]
    names = {part[1] for part in parts if part[0] == "edge_rjepa" and len(part) > 1}
    return {room_called(name) for name in names} - OPEN


def room_called(name: str) -> str:
    return name if name in ALLOWED or name in OPEN else "__init__"


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def by_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_table_runs_one_way():
    graph = {room: allowed.split() for room, allowed in ALLOWED.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())[-1] == "cli"


@pytest.mark.parametrize("path", [p for p in sources("edge_rjepa") if p not in DOORS], ids=by_path)
def test_rooms_import_only_what_the_table_allows(path):
    room = room_of(path)
    assert room in ALLOWED or room in OPEN, f"{room} is new: add what it may import to the table"
    extra = rooms_imported(path.read_text()) - {room, *ALLOWED.get(room, "").split()}
    assert not extra, f"{room} may not import {', '.join(sorted(extra))}"


@pytest.mark.parametrize("room", ALLOWED)
def test_every_permission_is_used(room):
    files = [path for path in sources("edge_rjepa") if room_of(path) == room]
    used = set().union(*(rooms_imported(path.read_text()) for path in files))
    assert set(ALLOWED[room].split()) <= used


@pytest.mark.parametrize("path", sources("edge_rjepa"), ids=by_path)
def test_only_the_cuda_engine_knows_the_cuda_kernels(path):
    named = any(
        name.startswith("edge_rjepa.learner.kernels.cuda") for name in imported(path.read_text())
    )
    inside = {"edge_rjepa/learner/engines/cuda.py", "edge_rjepa/learner/kernels/cuda"}
    assert not named or any(by_path(path).startswith(place) for place in inside)


# All that comes from outside as a picture goes through one door; calibration/ has its own, since it
# can be used alone.
PICTURE_DOORS = {"edge_rjepa/sources/decode.py", "calibration/pictures.py"}
PICTURE_READERS = {"imread", "imreadmulti", "imdecode", "imdecodemulti", "VideoCapture"}


def called(source: str) -> set[str]:
    """The names of all that a source file calls, without what they belong to."""
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return {getattr(function, "attr", getattr(function, "id", "")) for function in calls}


@pytest.mark.parametrize(
    "path", sources("edge_rjepa", "calibration", "firmware_bridge"), ids=by_path
)
def test_pictures_from_outside_come_through_one_door(path):
    if by_path(path) not in PICTURE_DOORS:
        assert not called(path.read_text()) & PICTURE_READERS


@pytest.mark.slow
def test_nothing_imports_the_tests_or_by_relative_names():
    for path in sources("edge_rjepa", *NEIGHBOURS, "benchmarks"):
        names = imported(path.read_text())
        wrong = [name for name in names if name.startswith(".") or name.split(".")[0] == "tests"]
        assert not wrong, path


def test_the_reference_shares_nothing_with_what_it_checks():
    assert not rooms_imported((PACKAGE / "learner" / "reference.py").read_text())


@pytest.mark.parametrize("folder", NEIGHBOURS)
def test_neighbours_know_nothing_of_the_package(folder):
    for path in sources(folder):
        assert not rooms_imported(path.read_text()), path


def test_safe_files_knows_nothing_of_anybody():
    everybody = {"edge_rjepa", *NEIGHBOURS} - {"safe_files"}
    for path in sources("safe_files"):
        assert not {name.split(".")[0] for name in imported(path.read_text())} & everybody, path


@pytest.mark.parametrize("path", sources("edge_rjepa", *NEIGHBOURS), ids=by_path)
def test_structured_files_come_in_by_one_door(path):
    """Nothing but safe_files/reading.py parses JSON or TOML that may come from a file."""
    parsers = {"json.load", "json.loads", "tomllib", "tomli"}
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text()))
              if isinstance(node, ast.Call)}  # fmt: skip
    found = (called | imported(path.read_text())) & parsers
    assert not found or by_path(path) in PARSERS, found


def test_no_source_file_is_empty():
    everywhere = sources("edge_rjepa", *NEIGHBOURS, "benchmarks", "tests")
    assert not [by_path(path) for path in everywhere if not path.read_text().strip()]


def test_importing_the_package_is_light():
    program = f"import sys, edge_rjepa; print([name for name in {HEAVY} if name in sys.modules])"
    output = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    assert output.strip() == "[]"


def test_the_learner_needs_neither_camera_nor_serial_nor_cuda():
    program = (
        "import sys; from edge_rjepa import RJepa; "
        "print([m for m in ('cv2', 'serial', 'onnxruntime', 'numba.cuda') if m in sys.modules])"
    )
    output = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    assert output.strip() == "[]"


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import edge_rjepa.cli", {"cli"}),
        ("from edge_rjepa import learner, RJepa", {"learner", "__init__"}),
        ("def f():\n    from edge_rjepa.learner.rjepa.kernels.cpu import forward", {"learner"}),
        ("import numpy\nfrom edge_rjepa_other import x", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(source, rooms):
    assert rooms_imported(source) == rooms


def test_relative_imports_are_found():
    assert imported("from . import cells\nfrom ..a import b") == {"..cells", "..a.b"}


def test_calls_are_found_by_any_name():
    assert called("cv2.imread(a)\nx.y.f()\nimdecode(b)") == {"imread", "f", "imdecode"}
