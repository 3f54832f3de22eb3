"""Compile all that a run needs before its first frame."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from edge_rjepa.base.jit import compiles_anew
from edge_rjepa.eye import gaze_kernels
from edge_rjepa.eye.eye import Eye
from edge_rjepa.learner.rjepa import RJepa

# Of whatever configuration: the eye's kernels are compiled alike for all.
COMPILE_EYE = """
from edge_rjepa import Gaze, Retina
from edge_rjepa.eye.eye import Eye
Eye(Gaze(), Retina()).warm_up()
"""
PATIENCE_S = 120.0  # with the other process, once this one is done


def nothing_compiled() -> bool:
    """Whether this is a first start on this machine: then `warm_up` takes long."""
    return compiles_anew(gaze_kernels.search)


def warm_up(learner: RJepa, eye: Eye) -> None:
    """Compile, or load from the cache, all that learning and looking run; nothing changes.

    A process compiles one function at a time. So where nothing is compiled yet, another process
    compiles what the eye needs while this one compiles what the learner needs.
    """
    with _eye_compiled_meanwhile():
        learner.warm_up()
    eye.warm_up()


@contextmanager
def _eye_compiled_meanwhile() -> Iterator[None]:
    """What goes wrong in the other process is no matter: then this one compiles it."""
    if not nothing_compiled() or os.cpu_count() == 1:
        yield
        return
    command, nothing = [sys.executable, "-c", COMPILE_EYE], subprocess.DEVNULL
    try:
        other = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
    except OSError:
        yield
        return
    try:
        yield
        with suppress(subprocess.TimeoutExpired):
            other.wait(PATIENCE_S)
    finally:
        other.kill()
        other.wait()
