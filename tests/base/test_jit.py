"""The kernel cache: right results whatever the disk holds, and no needless compilation."""

import hashlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numba.core import caching

import edge_rjepa.base.jit
from edge_rjepa.base.jit import fingerprint, jit, specialise
from tests.tools import but_in_attack

MODULE = """
from {package}.jit import jit, specialise

SCALE = 3.0

def step(x):
    return 2.0 * x

def scan(values):
    total = 0.0
    for value in values:
        total = cell(total) + SCALE * value
    return total

cell = None
kernel = jit(specialise(scan, "double", cell=jit(step)))
"""

PROBE = """
import json, os, sys, tempfile, warnings
import numpy as np
for environment in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.split(".")[0] == "package"]:
        del sys.modules[name]
    os.environ.update(environment)
    sys.path[0], tempfile.tempdir = environment["PYTHONPATH"], None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from package.jit import compiles_anew
        from package.module import kernel
        anew = compiles_anew(kernel)
        result = kernel(np.arange(5.0))
    print(json.dumps({
        "result": float(result),
        "anew": anew,
        "hits": sum(kernel.stats.cache_hits.values()),
        "misses": sum(kernel.stats.cache_misses.values()),
        "folder": str(getattr(kernel.stats, "cache_path", "")),
        "warnings": [str(each.message) for each in caught],
    }))
"""
EXPECTED = 3.0 * (4 + 2 * 3 + 4 * 2 + 8 * 1)


class Installation:
    """A copy of jit.py and one kernel module in a package of its own, run in fresh processes."""

    def __init__(self, folder: Path, package: Path | None = None):
        folder.mkdir(exist_ok=True)
        self.package = folder / "package"
        if package is None:
            self.package.mkdir()
            shutil.copy(edge_rjepa.base.jit.__file__, self.package / "jit.py")
            (self.package / "__init__.py").write_text("")
            self.write_module()
        else:
            shutil.copytree(package, self.package)
        (folder / "tmp").mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
        }
        self.temporary = folder / "tmp" / f"edge_rjepa-{os.getuid()}"

    def write_module(self, **replaced: str):
        text = MODULE.replace("{package}", "package")
        for old, new in replaced.items():
            text = text.replace(old, new)
        (self.package / "module.py").write_text(text)

    def seal(self):
        """No folder of the package or the home directory can be made, not even by root."""
        (self.package / "__pycache__").write_text("a file where the folder would be")
        self.environment["HOME"] = "/dev/null/nonexistent"

    def cache_files(self) -> list[Path]:
        return sorted((self.package / "__pycache__").glob("*.nbc"))

    def run(self, **options) -> types.SimpleNamespace:
        (found,) = run_in_turn([self], **options)
        return found


def run_in_turn(installations: list[Installation], **options) -> list[types.SimpleNamespace]:
    """What each one's kernel gives: in one process, the first one's, which imports all others'."""
    environments = [each.environment for each in installations]
    process = subprocess.run(
        [sys.executable, "-c", PROBE, json.dumps(environments)],
        env=environments[0],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    assert process.returncode == 0, process.stderr
    found = map(json.loads, process.stdout.splitlines())
    return [types.SimpleNamespace(**each) for each in found]


@pytest.fixture
def installation(tmp_path):
    return Installation(tmp_path)


@pytest.fixture(scope="module")
def after_first_run(tmp_path_factory):
    installation = Installation(tmp_path_factory.mktemp("first"))
    return installation, installation.run()


@pytest.fixture
def compiled(tmp_path, after_first_run):
    return Installation(tmp_path, after_first_run[0].package)


@pytest.mark.slow
def test_second_process_loads_what_the_first_compiled(compiled, after_first_run):
    first, second = after_first_run[1], compiled.run()
    assert first.result == second.result == EXPECTED
    assert (first.hits, first.misses) == (0, 1)
    assert (second.hits, second.misses) == (1, 0)
    assert (first.anew, second.anew) == (True, False)
    assert first.warnings == second.warnings == []
    assert len(compiled.cache_files()) == 2  # the scan and the step


@pytest.mark.slow
def test_code_injected_from_another_file_is_part_of_the_comparison(installation):
    """Numba's own cache compares only the file of the kernel itself."""
    other = installation.package / "other.py"
    other.write_text("def step(x):\n    return 2.0 * x\n")
    installation.write_module(
        **{"def step(x):\n    return 2.0 * x\n": "from package.other import step\n"}
    )
    assert installation.run().result == EXPECTED
    other.write_text("def step(x):\n    return 4.0 * x\n")
    changed = installation.run()
    assert changed.result != EXPECTED
    assert changed.hits == 0


@pytest.mark.slow
def test_an_overload_in_another_file_is_part_of_the_comparison(installation):
    other = installation.package / "other.py"
    other.write_text(
        "from numba.extending import overload\n"
        "def stub(x):\n    raise NotImplementedError\n"
        "@overload(stub)\n"
        "def implementation(x):\n    return lambda x: 2.0 * x\n"
    )
    installation.write_module(
        **{"def step": "from package.other import stub\ndef step", "2.0 * x": "stub(x)"}
    )
    assert installation.run().result == EXPECTED
    other.write_text(other.read_text().replace("2.0", "4.0"))
    assert installation.run().result != EXPECTED


@pytest.mark.slow
def test_without_home_or_package_folder_a_private_temporary_folder_serves(installation):
    installation.seal()
    first, second = installation.run(), installation.run()
    assert first.result == second.result == EXPECTED
    assert second.hits == 1
    assert Path(second.folder).parent == installation.temporary
    assert installation.temporary.stat().st_mode & 0o777 == 0o700
    assert first.warnings == second.warnings == []


# ------------------------------------------------------------------------------------------------
# What is compiled again whatever was before: one process after the other would start for each


CHANGES = {
    "injected function": {"2.0 * x": "4.0 * x"},
    "constant": {"SCALE = 3.0": "SCALE = 5.0"},
    "options": {'jit(specialise(scan, "double"': 'jit(fastmath=True)(specialise(scan, "double"'},
}
DAMAGE = {
    "empty": lambda content: b"",
    "short": lambda content: content[:40],
    "truncated": lambda content: content[: len(content) // 2],
    "zero-filled": lambda content: bytes(len(content)),
    "garbage": lambda content: np.random.default_rng(0).bytes(len(content)),
    "one bit": lambda content: content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:],
    "payload of another time": lambda content: (
        content[:32] + edge_rjepa.base.jit.hashlib.sha256(b"no pickle").digest() + b"no pickle"
    ),
}


def unreadable(file: Path):
    file.unlink()
    file.mkdir()


def open_to_others(folder: Path):
    folder.mkdir()
    folder.chmod(0o777)


def link_to_another_folder(folder: Path):
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "elsewhere")


def owned_by_another_user(folder: Path):
    folder.mkdir(mode=0o700)
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)


def no_folder(folder: Path):
    folder.write_text("a file where the folder would be")


REFUSED = (open_to_others, link_to_another_folder, owned_by_another_user)


@pytest.fixture(scope="module")
def compiled_again(tmp_path_factory, after_first_run):
    """By what had befallen it: an installation, and what was found as it was run."""
    folder, package = tmp_path_factory.mktemp("again"), after_first_run[0].package
    installations = {}

    def installation(befallen, package=None):
        installations[befallen] = Installation(folder / str(len(installations)), package)
        return installations[befallen]

    for change, replaced in CHANGES.items():
        installation(change, package).write_module(**replaced)
    for damage, damaged in DAMAGE.items():
        for file in installation(damage, package).cache_files():
            file.write_bytes(damaged(file.read_bytes()))
    for file in installation(unreadable, package).cache_files():
        unreadable(file)
    for prepare in (*REFUSED, no_folder):
        sealed = installation(prepare)
        sealed.seal()
        prepare(sealed.temporary)
    found = run_in_turn(list(installations.values()))
    return dict(zip(installations, zip(installations.values(), found, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_changed_source_is_compiled_again_in_the_same_files(
    compiled_again, after_first_run, change
):
    installation, changed = compiled_again[change]
    assert (changed.hits, changed.misses, changed.anew) == (0, 1, True)
    assert changed.warnings == []
    assert (changed.result == EXPECTED) == (change == "options")
    files, before = (each.cache_files() for each in (installation, after_first_run[0]))
    assert [file.name for file in files] == [file.name for file in before]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    but_in_attack(DAMAGE, "empty", "short", "zero-filled", "garbage", "payload of another time"),
)
def test_damaged_files_are_compiled_again_and_overwritten(compiled_again, damage):
    installation, damaged = compiled_again[damage]
    assert damaged.result == EXPECTED
    assert (damaged.hits, damaged.misses) == (0, 1)
    assert any("compiling it again" in warning for warning in damaged.warnings)
    assert all(is_whole(file.read_bytes()) for file in installation.cache_files())


def is_whole(content):
    """Whether a cache file's second digest is that of what follows it."""
    return content[32:64] == hashlib.sha256(content[64:]).digest() and len(content) > 1000


@pytest.mark.slow
def test_unreadable_cache_file(compiled_again):
    _, blocked = compiled_again[unreadable]
    assert blocked.result == EXPECTED
    assert any("cannot be read" in warning for warning in blocked.warnings)


@pytest.mark.slow
@pytest.mark.parametrize("prepare", REFUSED)
def test_a_temporary_folder_that_others_may_write_is_refused(compiled_again, prepare):
    if prepare is owned_by_another_user and os.getuid() != 0:
        pytest.skip("only root can give a folder to another user")
    installation, refused = compiled_again[prepare]
    assert refused.result == EXPECTED
    assert len(refused.warnings) == 1 and "not kept" in refused.warnings[0]
    assert not list(installation.temporary.rglob("*.nbc"))


@pytest.mark.slow
def test_no_writable_place_at_all_gives_one_warning(compiled_again):
    _, uncached = compiled_again[no_folder]
    assert uncached.result == EXPECTED
    assert len(uncached.warnings) == 1 and "not kept" in uncached.warnings[0]


# ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_full_disk_gives_one_warning_and_leaves_nothing_behind(installation):
    full = installation.run(
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    )
    assert full.result == EXPECTED
    assert len(full.warnings) == 1 and "not kept" in full.warnings[0]
    assert list((installation.package / "__pycache__").iterdir()) == []
    assert installation.run().misses == 1


@pytest.mark.slow
def test_numba_cache_dir_is_used(installation, tmp_path):
    installation.environment["NUMBA_CACHE_DIR"] = str(tmp_path / "chosen")
    assert Path(installation.run().folder).parent == tmp_path / "chosen"


def file_of_another_user(file: Path):
    if os.getuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(file, 65534, 65534)


def folder_of_another_user(file: Path):
    file_of_another_user(file.parent)


def file_that_all_can_write(file: Path):
    file.chmod(0o666)


def folder_that_all_can_write(file: Path):
    file.parent.chmod(0o1777)


def link_to_the_file(file: Path):
    file.rename(file.with_suffix(".moved"))
    file.symlink_to(file.with_suffix(".moved"))


class RunsWhenRead:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (file_of_another_user, "others can write it"),
        pytest.param(folder_of_another_user, "others can write it", marks=pytest.mark.attack),
        pytest.param(file_that_all_can_write, "others can write it", marks=pytest.mark.attack),
        pytest.param(folder_that_all_can_write, "others can write it", marks=pytest.mark.attack),
        (link_to_the_file, "cannot be read"),
    ],
)
def test_what_others_could_have_written_is_not_unpickled(compiled, tmp_path, prepare, says):
    """A pickle runs code as it is read, and its digest proves nothing."""
    chosen = tmp_path / "chosen"
    compiled.environment["NUMBA_CACHE_DIR"] = str(chosen)
    folder = chosen / caching._CacheLocator.get_suitable_cache_subpath(compiled.package / "m.py")
    shutil.copytree(compiled.package / "__pycache__", folder)
    planted = pickle.dumps(RunsWhenRead(tmp_path / "planted"))
    for file in list(folder.glob("*.nbc")):
        file.write_bytes(file.read_bytes()[:32] + hashlib.sha256(planted).digest() + planted)
        prepare(file)
    found = compiled.run()
    assert (found.result, found.hits, found.folder) == (EXPECTED, 0, str(folder))
    assert says in found.warnings[0]
    assert not (tmp_path / "planted").exists()


@pytest.mark.slow
def test_disabled_jit_leaves_plain_functions(installation):
    installation.environment["NUMBA_DISABLE_JIT"] = "1"
    program = PROBE.replace("sum(kernel.stats.cache_hits.values())", "0")
    program = program.replace("sum(kernel.stats.cache_misses.values())", "0")
    program = program.replace('str(getattr(kernel.stats, "cache_path", ""))', "''")
    command = [sys.executable, "-c", program, json.dumps([installation.environment])]
    output = subprocess.check_output(command, env=installation.environment, text=True)
    assert json.loads(output)["result"] == EXPECTED


def double(x):
    return 2.0 * x


def triple(x):
    return 3.0 * x


def apply(x, y=1.0):
    return inner(x) + y


def inner(x):
    return x


def test_specialised_copies_are_independent():
    two = specialise(apply, "double", inner=jit(double))
    three = specialise(apply, "triple", inner=jit(triple))
    assert (two.__name__, three.__qualname__) == ("apply_double", "apply_triple")
    assert isinstance(two, types.FunctionType)
    assert jit(two)(5.0) == 11.0
    assert jit(three)(5.0, 2.0) == 17.0
    assert apply(5.0) == 6.0


def test_specialise_refuses_a_name_the_template_does_not_use():
    with pytest.raises(TypeError, match="apply does not use outer"):
        specialise(apply, "double", outer=double)


def test_fingerprint_follows_what_a_function_refers_to():
    two = specialise(apply, "cell", inner=jit(double))
    same = specialise(apply, "cell", inner=jit(double))
    three = specialise(apply, "cell", inner=jit(triple))
    fast = specialise(apply, "cell", inner=jit(fastmath=True)(double))
    assert fingerprint(two) == fingerprint(same)
    assert len({fingerprint(each) for each in (two, three, fast)}) == 3


def countdown(n):
    return 0 if n == 0 else countdown(n - 1)


def test_fingerprint_of_a_function_that_calls_itself_ends():
    assert fingerprint(countdown) == fingerprint(countdown)


def test_named_tuples_with_swapped_fields_have_files_of_their_own(tmp_path, monkeypatch):
    """Their types print alike, and code reads the fields by position."""

    def make(fields):
        return NamedTuple("State", [(name, float) for name in fields])

    monkeypatch.setattr(edge_rjepa.base.jit.config, "CACHE_DIR", str(tmp_path))

    def difference(state):
        return state.a - state.b

    for fields in (["a", "b"], ["b", "a"]):
        assert jit(difference)(make(fields)(a=5.0, b=2.0)) == 3.0
    assert len(list(tmp_path.rglob("*.nbc"))) == 2


def test_division_by_zero_follows_numpy():
    assert jit(lambda x: 1.0 / x)(0.0) == np.inf


def test_temporary_folder_is_the_one_python_uses(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/somewhere")
    locator = edge_rjepa.base.jit._PrivateTemporaryFolder(double, __file__)
    assert locator.get_cache_path().startswith(f"/somewhere/edge_rjepa-{os.getuid()}/")
