"""The command line, and the composition root: the only room that knows all the others.

To add a command, write a module with `add_to(commands)` and name it in COMMANDS. The modules import
the heavy rooms only when a command runs, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import warnings
from importlib import import_module
from typing import NoReturn

from calibration.errors import CalibrationError
from edge_rjepa._version import __version__
from edge_rjepa.cli.json_log import log_of
from edge_rjepa.cli.terminal import FAILED, INTERRUPTED, complete_streams, leave, output_failed, say
from edge_rjepa.errors import RJepaError
from safe_files.errors import in_words

COMMANDS = [  # modules of this room, in the order of --help
    "learn",
    "export",
    "embed",
    "probe",
    "teach",
    "recognise",
    "report",
    "dashboard",
    "head",
    "calibrate",
    "watch",
    "fine",
    "merge",
    "fleet",
    "doctor",
    "check_gradients",
]


NO_HOME = "/nonexistent"  # Debian's home of users that have none

# What Python says where a limit of the system on threads is reached.
NO_THREAD = "can't start new thread"
NO_MEMORY = "not enough memory: end other programs, or ask for less"  # Python says nothing then


def program() -> NoReturn:
    """What `edge-rjepa` and `python -m edge_rjepa` run."""
    # Learning takes one thread of BLAS. OpenBLAS starts one for each core as it is loaded, and
    # where it may not, it ends the process.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    complete_streams()
    with log_of(sys.argv[1:]):
        leave(main())


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code: 0, 1 for a failure, 2 for wrong usage."""
    _name_a_home()
    warnings.showwarning = lambda message, *_, **__: say(f"warning: {_in_a_line(message)}")
    try:
        options = _parser().parse_args(arguments)
        code = options.command(options)
        sys.stdout.flush()  # what cannot be written is told here, and not while Python ends
        return code
    except (RJepaError, CalibrationError, MemoryError) as error:
        say(f"edge-rjepa: {_in_a_line(error) or NO_MEMORY}")
        return FAILED
    except OSError as error:
        say(f"edge-rjepa: {_of_the_system(error)}")
        return FAILED
    except RuntimeError as error:
        if NO_THREAD not in str(error):
            raise
        say(f"edge-rjepa: {NO_THREAD}: end other programs, or allow more processes (ulimit -u)")
        return FAILED
    except KeyboardInterrupt:
        say("edge-rjepa: interrupted")
        return INTERRUPTED


def _in_a_line(message: object) -> str:
    return " ".join(str(message).split())


def _of_the_system(error: OSError) -> str:
    """What it says; of a full disk without a file's name: what is printed cannot be kept."""
    if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EPIPE):
        return in_words(error)
    return output_failed(error)


def _name_a_home() -> None:
    """Without HOME and an entry in passwd, libraries would make a folder named ~ right here.

    HOME can also be a relative name, which means another folder wherever one goes.
    """
    if not os.path.isabs(os.path.expanduser("~")):
        os.environ["HOME"] = NO_HOME


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edge-rjepa",
        description="Learn to see from a camera, without labels; export a frozen encoder.",
        epilog="edge-rjepa COMMAND --help shows examples.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        import_module(f"edge_rjepa.cli.{name}").add_to(commands)
    return parser
