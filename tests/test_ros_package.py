"""ros/: the package of ROS 2 whose launch file starts `edge-rjepa learn`."""

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edge_rjepa import __version__
from edge_rjepa.cli import _parser
from edge_rjepa.cli.learn import FIXED, _check_resume

ROS = Path(__file__).parent.parent / "ros"


@pytest.fixture
def launch():
    spec = importlib.util.spec_from_file_location("learn_launch", ROS / "launch/learn.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def usual(launch):
    return {name: value for name, (value, _) in launch.ARGUMENTS.items()}


def parsed(command):
    """What edge-rjepa makes of the command."""
    assert command[0] == "edge-rjepa"
    return _parser().parse_args(command[1:])


def test_it_learns_from_the_topic_and_publishes(launch, usual, tmp_path):
    given = usual | {
        "image": "/front/image_raw",
        "info": "/front/camera_info",
        "joints": "/joint_states:pan,tilt",
        "out": str(tmp_path / "run"),
        "more": "--seed 3 --config 'my settings.toml'",
    }
    options = parsed(launch.command(given))
    source = "ros2:/front/image_raw?info=/front/camera_info&joints=/joint_states:pan,tilt"
    assert options.source == [source] and options.out == tmp_path / "run"
    assert options.ros2 == "edge_rjepa" and options.head is None and options.seed == 3
    assert options.config == Path("my settings.toml")


def test_a_run_that_is_there_is_gone_on_with(launch, usual, tmp_path):
    for name in "config.toml", "checkpoint.safetensors":
        (tmp_path / name).touch()
    options = parsed(launch.command(usual | {"out": str(tmp_path), "head": "ros2:/neck/commands"}))
    assert options.resume == tmp_path and options.source is None
    assert options.head == "ros2:/neck/commands"


def test_a_run_that_did_not_get_to_a_checkpoint_is_begun_again(launch, usual, tmp_path):
    (tmp_path / "config.toml").touch()
    options = parsed(launch.command(usual | {"out": str(tmp_path)}))
    assert options.resume is None and options.out == tmp_path


def test_what_only_a_new_run_takes_is_left_out_where_it_goes_on(launch, usual, tmp_path):
    (tmp_path / "checkpoint.1.safetensors").touch()
    more = "--seed 3 --fov=70 --dashboard --config 'my settings.toml' --device auto"
    given = usual | {"out": str(tmp_path), "more": more}
    options = parsed(launch.command(given))
    _check_resume(options)
    assert options.dashboard and options.device == "auto"
    others = {"--out", "--source", "--share"}  # of arguments of their own, and of several cameras
    assert launch.OF_A_NEW_RUN == {f"--{name}" for name in FIXED} - others


def test_the_package_says_what_setup_installs():
    package = ElementTree.parse(ROS / "package.xml").getroot()
    setup = (ROS / "setup.py").read_text()
    assert package.findtext("name") == "edge_rjepa" and 'name="edge_rjepa"' in setup
    assert package.findtext("version") == __version__ and f'version="{__version__}"' in setup
    assert package.findtext("export/build_type") == "ament_python"
    for file in re.findall(r'\["(.+?)"\]', setup):
        assert (ROS / file).is_file()


def test_all_packages_of_messages_are_dependencies():
    package = ElementTree.parse(ROS / "package.xml").getroot()
    depends = {each.text for each in package.findall("exec_depend")}
    source = "".join(
        path.read_text()
        for folder in ("edge_rjepa", "firmware_bridge")
        for path in (ROS.parent / folder).rglob("*ros*.py")
    )
    assert set(re.findall(r'"(\w+_msgs)/msg/', source)) <= depends
