"""Keys of robots, as ssh-keygen writes them: read at one door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from edge_rjepa.errors import ConfigError
from safe_files.errors import FileError, why
from safe_files.reading import read_bytes

MOST_KEY_BYTES = 1 << 16

Key = TypeVar("Key", ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey)


def private_key(path: str | Path) -> ec.EllipticCurvePrivateKey:
    """The key that a robot keeps to itself. Raises ConfigError."""
    return _read(path, lambda text: load_ssh_private_key(text, None), ec.EllipticCurvePrivateKey)


def public_key(path: str | Path) -> ec.EllipticCurvePublicKey:
    """The key that the server knows a robot by. Raises ConfigError."""
    return _read(path, load_ssh_public_key, ec.EllipticCurvePublicKey)


def _read(path: str | Path, load: Callable[[bytes], object], kind: type[Key]) -> Key:
    which = "private" if kind is ec.EllipticCurvePrivateKey else "public"
    try:
        key = load(read_bytes(path, MOST_KEY_BYTES))
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}: {why(error)}") from error
    # TypeError: it has a password, which nobody would be there to type.
    except (ValueError, FileError, UnsupportedAlgorithm, TypeError, NotImplementedError) as error:
        raise _none(path, which, str(error)) from error
    if not isinstance(key, kind):
        raise _none(path, which, "of another kind")
    return key


def _none(path: str | Path, which: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{path} is no {which} key of an elliptic curve ({reason}): make one with "
        "ssh-keygen -t ecdsa -b 384 -N '' -f robot.key"
    )
