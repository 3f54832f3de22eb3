"""Compile kernels with Numba, and keep the machine code on disk without depending on the disk.

Numba's own `cache=True` raises where no folder is writable, crashes on a damaged cache file, may
load another signature's code after a race between two processes, and keeps code that is out of date
when a function or constant from *another* file has changed. The cache here differs:

- one file a function and signature, named after both, so that processes cannot mix them up;
- each file starts with a digest of everything the code was compiled from and one of its content: a
  stale file is compiled again in silence, a damaged one with a warning, and both are overwritten;
- files are pickles, which run code as they are read: only those are read that nobody but this user,
  root, or whose this package is could have written, in a folder of which the same is true;
- with no writable folder beside the package or in the home directory it uses a private one under
  the temporary folder, and failing that none;
- no error in reading or writing a cache file reaches the caller.
"""

import contextlib
import errno
import functools
import hashlib
import os
import pickle
import stat
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import numba
import numpy as np
from numba.core import caching, config
from numba.core import types as numba_types
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps
from numba.extending import _Intrinsic as Intrinsic

NUMBA: Any = config  # its names are set as it starts: no type checker knows them
PLAIN = (int, float, complex, str, bytes, np.generic, numba_types.Type)  # repr says all of them
# _nrt: whether references are counted. no_cfunc_wrapper: not for C to call.
OPTIONS = {"nogil": True, "error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}
SUFFIX = ".nbc"  # of a file of the cache
DIGEST_BYTES = hashlib.sha256().digest_size
TRANSLATED_BY_NUMBA = {"numpy", "scipy", "numba"}  # it never compiles the code of their functions


def jit(function: Callable | None = None, /, **options: Any) -> Callable:
    """Compile `function` with Numba at its first call: `@jit` or `@jit(fastmath=True)`.

    `options` are those of `numba.njit`. The GIL is released, and division by zero gives inf or NaN
    as in NumPy (a check for it would stop vectorisation); `fastmath` is for each kernel to choose.
    A kernel makes no arrays: its caller hands it all it works in, and holds it meanwhile. So nobody
    has to count who refers to what, which is a quarter of what there is to compile.
    """
    if function is None:
        return functools.partial(jit, **options)
    kernel: Any = numba.njit(**{**OPTIONS, **options})(function)
    compiled = isinstance(kernel, Dispatcher)
    if compiled:  # with NUMBA_DISABLE_JIT it is the plain function
        try:
            kernel._cache = KernelCache(kernel)
        except RuntimeError:  # Numba's word for: no folder will do
            _warn_not_kept(
                "no folder for them is safe to write, set NUMBA_CACHE_DIR to one of yours"
            )
    return kernel


def specialise(template: Callable, name_suffix: str, **replaced_globals: Any) -> Callable:
    """A copy of the plain function `template` that sees `replaced_globals` in place of its globals.

    The copy is named `template_<name_suffix>`: give each copy its own suffix, and so its own cache
    files. What is replaced is part of what the cache compares, so changing the code of an injected
    function compiles the copy again. Raises TypeError for a name that `template` does not use.
    """
    unused = replaced_globals.keys() - set(_names(template.__code__))
    if unused:
        raise TypeError(f"{template.__name__} does not use {', '.join(sorted(unused))}")
    copy = types.FunctionType(
        template.__code__,
        {**template.__globals__, **replaced_globals},
        f"{template.__name__}_{name_suffix}",
        template.__defaults__,
        template.__closure__,
    )
    copy.__qualname__ = f"{template.__qualname__}_{name_suffix}"
    copy.__kwdefaults__ = template.__kwdefaults__
    copy.__doc__ = template.__doc__
    return copy


def compiles_anew(kernel: Callable) -> bool:
    """Whether nobody has compiled it as it is now, and code of it would be kept on disk."""
    cache = getattr(kernel, "_cache", None)
    return isinstance(cache, KernelCache) and not cache.holds_any


class KernelCache(caching.NullCache):
    """The compiled versions of one kernel on disk. Raises RuntimeError when there is no place."""

    def __init__(self, kernel: Dispatcher):
        self._kernel = kernel
        self._files = _CompiledFiles(kernel.py_func)

    @property
    def cache_path(self) -> str:
        return self._files.locator.get_cache_path()

    @property
    def holds_any(self) -> bool:
        """Whether it holds a version for some signature and processor that is up to date."""
        with contextlib.suppress(OSError):
            for name in os.listdir(self.cache_path):
                if name.startswith(f"{self._files.filename_base}.") and name.endswith(SUFFIX):
                    content = _read_own(os.path.join(self.cache_path, name))
                    if content[:DIGEST_BYTES] == self._stamp:
                        return True
        return False

    def load_overload(self, sig, target_context):
        # Numba's own cache first fills the tables of all that it can compile, as long a job as to
        # load a learner's kernels. Code that is there needs of it the counting of references.
        if self._kernel.targetoptions["_nrt"]:
            target_context.refresh()
        path = self._path(sig, target_context.codegen())
        try:
            content = _read_own(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _warn_once(f"a compiled kernel cannot be read, compiling it again: {error}")
            return None
        stamp, digest = content[:DIGEST_BYTES], content[DIGEST_BYTES : 2 * DIGEST_BYTES]
        payload = content[2 * DIGEST_BYTES :]
        if digest != hashlib.sha256(payload).digest():
            _warn_once(f"compiled kernel {path} is damaged, compiling it again")
            return None
        if stamp != self._stamp:
            return None
        try:
            return self._files.rebuild(target_context, pickle.loads(payload))
        except Exception as error:  # whatever an unpickled object raises, compiling again cures it
            _warn_once(f"compiled kernel {path} does not load, compiling it again: {error!r}")
            return None

    def save_overload(self, sig, data):
        if not self._files.check_cachable(data):
            return
        payload = dumps(self._files.reduce(data))
        content = self._stamp + hashlib.sha256(payload).digest() + payload
        try:
            self._files.locator.ensure_cache_path()
            check_own_folder(self.cache_path)
            _replace(self._path(sig, data.codegen), content)
        except OSError as error:
            _warn_not_kept(error.strerror or error)

    @functools.cached_property
    def _stamp(self) -> bytes:
        return fingerprint(self._kernel)

    def _path(self, sig, codegen) -> str:
        version = (numba.__version__, NUMBA.OPT, NUMBA.BOUNDSCHECK, codegen.magic_tuple())
        key = hashlib.sha256(f"{version} {_describe_signature(sig)}".encode()).hexdigest()[:24]
        return os.path.join(self.cache_path, f"{self._files.filename_base}.{key}{SUFFIX}")


class _PrivateTemporaryFolder(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):
    """The last place to keep kernels: a folder that nobody else can write, as they are pickles."""

    def __init__(self, py_func, py_file):
        self._py_file = py_file
        self._root = os.path.join(tempfile.gettempdir(), f"edge_rjepa-{os.getuid()}")
        self._path = os.path.join(self._root, self.get_suitable_cache_subpath(py_file))

    def get_cache_path(self):
        return self._path

    def ensure_cache_path(self):
        with contextlib.suppress(FileExistsError):
            os.mkdir(self._root, mode=0o700)
        check_own_folder(self._root)
        super().ensure_cache_path()


HAS_HOME = os.path.isabs(os.path.expanduser("~"))  # else Numba makes a folder named ~ right here


class _CompiledFiles(caching.CompileResultCacheImpl):
    _locator_classes: ClassVar = [
        *(
            locator
            for locator in caching.CompileResultCacheImpl._locator_classes
            if HAS_HOME or "UserWide" not in locator.__name__
        ),
        _PrivateTemporaryFolder,
    ]

    def get_filename_base(self, fullname, abiflags):
        """Numba's name without the line number: a function that moves leaves no old file."""
        name = fullname.replace("<", "").replace(">", "")
        return f"{name}.py{sys.version_info.major}{sys.version_info.minor}{abiflags}"


def fingerprint(kernel: Callable) -> bytes:
    """Digest of all that machine code is made from: options, code, and what its names refer to."""
    return hashlib.sha256(_describe(kernel, set()).encode()).digest()


def _describe(value: Any, seen: set[int]) -> str:
    """Text that is the same in every process, and changes whenever `value` compiles differently."""
    if isinstance(value, Dispatcher):
        options = _describe(value.targetoptions, seen)
        return f"kernel({options}, {_describe(value.py_func, seen)})"
    if isinstance(value, types.FunctionType):
        return _describe_function(value, seen)
    if isinstance(value, Intrinsic):
        return _describe_function(value._defn, seen)
    if isinstance(value, types.CodeType):
        return _describe_code(value, seen)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_describe(item, seen) for item in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_describe(item, seen) for item in value))}}}"
    if isinstance(value, dict):
        return _describe({_describe(item, seen) for item in value.items()}, seen)
    if isinstance(value, np.ndarray):
        return f"array({value.dtype}, {value.shape}, {hashlib.sha256(value.tobytes()).hexdigest()})"
    if value is None or isinstance(value, PLAIN):
        return repr(value)
    name, fields = getattr(value, "__name__", ""), getattr(value, "_fields", "")
    return f"{type(value).__name__} {name} {fields}"


def _describe_function(function: types.FunctionType, seen: set[int]) -> str:
    if id(function) in seen or function.__module__.partition(".")[0] in TRANSLATED_BY_NUMBA:
        return function.__qualname__
    seen.add(id(function))
    closure = [cell.cell_contents for cell in function.__closure__ or ()]
    refers_to = [_describe(value, seen) for value in _globals_used(function)]
    source = _file_digest(function.__code__.co_filename)
    return (
        f"{function.__qualname__}({source}, {_describe(function.__code__, seen)}, "
        f"{_describe(function.__defaults__, seen)}, {_describe(closure, seen)}, {refers_to})"
    )


@functools.cache
def _file_digest(path: str) -> str:
    """The whole file counts: an `@overload` in it is compiled in, but no name leads to it."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:  # typed at a prompt
        return path


def _describe_code(code: types.CodeType, seen: set[int]) -> str:
    constants = _describe(code.co_consts, seen)
    return f"code({code.co_code.hex()}, {constants}, {code.co_names}, {code.co_argcount})"


def _globals_used(function: types.FunctionType) -> list[Any]:
    """The globals that `function` names, and what it names in modules of its own package."""
    names = _names(function.__code__)
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    package = function.__module__.partition(".")[0]
    for module in [value for value in values if isinstance(value, types.ModuleType)]:
        if module.__name__.partition(".")[0] == package:
            values += [getattr(module, name) for name in names if hasattr(module, name)]
    return values


def _names(code: types.CodeType) -> list[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return [*code.co_names, *(name for each in inner for name in _names(each))]


def _describe_signature(sig: Any) -> str:
    """Argument types as text. The fields of a named tuple count: code reads them by position."""
    is_named = isinstance(sig, numba_types.BaseNamedTuple)
    is_tuple = isinstance(sig, tuple | numba_types.BaseTuple)
    if is_named:
        return f"{sig.name} {sig.fields} {_describe_signature(sig.types)}"
    if is_tuple:
        return f"({', '.join(_describe_signature(each) for each in sig)})"
    return str(sig)


def check_own_folder(path: str | os.PathLike) -> None:
    """Raise OSError unless it is a folder, no link, that nobody else can write."""
    os.close(_open_own(path, os.O_DIRECTORY))


def _read_own(path: str) -> bytes:
    """A file that nobody else can have written, in such a folder. Raises OSError."""
    folder = _open_own(os.path.dirname(path), os.O_DIRECTORY)
    try:
        with open(_open_own(os.path.basename(path), os.O_NONBLOCK, folder), "rb") as file:
            return file.read()
    finally:
        os.close(folder)


def _open_own(path: str | os.PathLike, flags: int, folder: int | None = None) -> int:
    """Opened first and looked at then, so that it cannot be exchanged in between."""
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, dir_fd=folder)
    found = os.fstat(descriptor)
    kind = stat.S_ISDIR if flags & os.O_DIRECTORY else stat.S_ISREG
    owners = {0, os.getuid(), os.stat(__file__).st_uid}  # whose code it is could change that, too
    # A group with its user's number is that user's own, as on Debian and Ubuntu.
    by_others = found.st_mode & (
        stat.S_IWOTH if found.st_gid == found.st_uid else stat.S_IWOTH | stat.S_IWGRP
    )
    if kind(found.st_mode) and found.st_uid in owners and not by_others:
        return descriptor
    os.close(descriptor)
    raise PermissionError(
        errno.EACCES, "others can write it: chmod go-w, or name your own by NUMBA_CACHE_DIR", path
    )


def _replace(path: str, content: bytes) -> None:
    """Write `path` in one step, so that another process never reads half of it."""
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=f"{SUFFIX}.tmp")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _warn_not_kept(reason: object) -> None:
    _warn_once(f"compiled kernels are not kept, every start compiles again: {reason}")


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)
