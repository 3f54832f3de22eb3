"""Files of keys, as ssh-keygen writes them, and what is none."""

import shutil
import subprocess

import pytest

pytest.importorskip("cryptography", reason="needs Flower: make fleet")

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from edge_rjepa.errors import ConfigError
from edge_rjepa.fleet.keys import private_key, public_key


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of keys: NAME is private, NAME.pub is public."""
    folder = tmp_path_factory.mktemp("keys")
    keys = {
        "ec": ec.generate_private_key(ec.SECP384R1()),
        "rsa": rsa.generate_private_key(65537, 2048),
    }
    for name, key in keys.items():
        own = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        (folder / name).write_bytes(own)
        told = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (folder / f"{name}.pub").write_bytes(told)
    (folder / "noise").write_bytes(bytes(range(256)))
    (folder / "long").write_bytes((folder / "ec").read_bytes() + b"\n" * (1 << 17))
    return folder


def test_the_two_halves_of_a_key_belong_together(files):
    assert private_key(files / "ec").public_key() == public_key(files / "ec.pub")


@pytest.mark.parametrize(
    ("read", "name", "reason"),
    [
        (private_key, "rsa", "of another kind"),
        (public_key, "rsa.pub", "of another kind"),
        (private_key, "ec.pub", "no private key"),
        (public_key, "ec", "no public key"),
        (private_key, "noise", "ssh-keygen -t ecdsa"),
        (public_key, "noise", "ssh-keygen -t ecdsa"),
        (private_key, "long", "no private key"),
        (private_key, "missing", "cannot read the key"),
        (public_key, "missing", "cannot read the key"),
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_in_a_line(files, read, name, reason):
    with pytest.raises(ConfigError, match=reason) as refused:
        read(files / name)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
def test_a_key_with_a_password_is_refused_in_a_line(tmp_path):
    making = "ssh-keygen", "-q", "-t", "ecdsa", "-N", "secret", "-f", str(tmp_path / "locked")
    subprocess.run(making, check=True)
    with pytest.raises(ConfigError, match="password-protected.*-N ''") as refused:
        private_key(tmp_path / "locked")
    assert "\n" not in str(refused.value)


def test_a_key_is_of_one_robot(files, tmp_path):
    pytest.importorskip("flwr", reason="needs Flower: make fleet")
    from edge_rjepa.fleet.server import Door, Server

    for name in "kitchen", "hall":
        shutil.copy(files / "ec.pub", tmp_path / f"{name}.pub")
    with pytest.raises(ConfigError, match=r"hall.pub and .*kitchen.pub hold one and the same"):
        Server(Door("127.0.0.1", 0, robot_keys=tmp_path), 1 << 20)
