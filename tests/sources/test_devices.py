"""Finding a camera again, in folders that look like Linux's."""

import os

import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.camera import VideoDevice
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.devices import device_at, devices, relocate
from firmware_bridge.device_files import holders


class Machine:
    """A root folder whose cameras are plugged in and out."""

    def __init__(self, root):
        self.root = root
        (root / "sys/class/video4linux").mkdir(parents=True)
        (root / "dev/v4l/by-id").mkdir(parents=True)

    def plug_in(self, number, name="Webcam", port="1-2", part=0, serial=None):
        place = self.root / "sys/devices/usb1" / port
        place.mkdir(parents=True, exist_ok=True)
        folder = self.root / f"sys/class/video4linux/video{number}"
        folder.mkdir()
        (folder / "name").write_text(name + "\n")
        (folder / "index").write_text(f"{part}\n")
        (folder / "device").symlink_to(place)
        if serial:
            link = self.root / f"dev/v4l/by-id/usb-{name}_{serial}-video-index{part}"
            link.unlink(missing_ok=True)  # of two with one number, the last one has the link
            link.symlink_to(f"../../video{number}")

    def plug_out(self, number):
        folder = self.root / f"sys/class/video4linux/video{number}"
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        for link in (self.root / "dev/v4l/by-id").iterdir():
            if os.readlink(link).endswith(f"video{number}"):
                link.unlink()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_devices_are_listed_by_number(machine):
    machine.plug_in(10, "Webcam", port="1-2", serial="A1")
    machine.plug_in(9, "Microscope", port="1-3")
    machine.plug_in(11, "Webcam", port="1-2", part=1)
    microscope, webcam, metadata = devices(machine.root)
    assert [d.path for d in (microscope, webcam)] == ["/dev/video9", "/dev/video10"]
    assert webcam.name == "Webcam" and webcam.links == {"usb-Webcam_A1-video-index0"}
    assert metadata.part == 1 and not microscope.links
    assert device_at("/dev/video9", machine.root) == microscope


def test_where_there_is_no_sysfs_there_are_none(tmp_path):
    assert devices(tmp_path) == []
    assert device_at("/dev/video0", tmp_path) is None


def test_a_camera_is_found_at_its_place_under_another_number(machine):
    machine.plug_in(0, port="1-2")
    machine.plug_in(1, port="1-2", part=1)
    before = devices(machine.root)
    lost = before[0]
    machine.plug_out(0)
    machine.plug_out(1)
    assert relocate(lost, before, machine.root) is None
    machine.plug_in(3, port="1-2", part=1)
    machine.plug_in(2, port="1-2", part=0)
    assert relocate(lost, before, machine.root).path == "/dev/video2"


def test_another_camera_that_took_its_number_is_not_taken_for_it(machine):
    machine.plug_in(0, "Webcam", port="1-2")
    before = devices(machine.root)
    machine.plug_out(0)
    machine.plug_in(0, "Microscope", port="1-3")
    assert relocate(before[0], before, machine.root) is None


def test_a_twin_that_was_there_is_not_taken_for_it(machine):
    machine.plug_in(0, port="1-2", serial="A1")
    machine.plug_in(1, port="1-3", serial="A1")  # makers do give all of them one number
    before = devices(machine.root)
    machine.plug_out(0)
    assert relocate(before[0], before, machine.root) is None
    machine.plug_in(2, port="1-4")
    assert relocate(before[0], before, machine.root).path == "/dev/video2"


def test_among_new_twins_the_serial_number_decides(machine):
    machine.plug_in(0, port="1-2", serial="A1")
    before = devices(machine.root)
    machine.plug_out(0)
    machine.plug_in(1, port="1-3", serial="B2")
    machine.plug_in(2, port="1-4", serial="A1")
    assert relocate(before[0], before, machine.root).path == "/dev/video2"
    machine.plug_out(2)
    machine.plug_in(2, port="1-4", serial="C3")
    assert relocate(before[0], before, machine.root) is None


class Opened:
    def __init__(self, path):
        self.where = path


def test_a_video_device_is_opened_wherever_it_is_now(machine):
    opened = []

    def open_path(path, config):
        opened.append(path)
        return Opened(path)

    machine.plug_in(0, port="1-2")
    device = VideoDevice("/dev/video0", CameraConfig(), open_path, machine.root)
    device.open()
    machine.plug_out(0)
    with pytest.raises(SourceError, match="not plugged in"):
        device.open()
    machine.plug_in(2, port="1-2")
    device.open()
    machine.plug_out(2)
    machine.plug_in(5, port="1-7")  # another port, but a webcam that was not there
    device.open()
    assert opened == ["/dev/video0", "/dev/video2", "/dev/video5"]


def test_a_device_without_sysfs_is_opened_at_its_path(tmp_path):
    device = VideoDevice("/dev/video0", CameraConfig(), lambda path, _: Opened(path), tmp_path)
    assert [device.open().where for _ in range(2)] == ["/dev/video0"] * 2


def test_who_holds_a_file_is_named(tmp_path):
    path = tmp_path / "device"
    with open(path, "w"):
        assert os.getpid() in holders(str(path))
    assert holders(str(path)) == {}
