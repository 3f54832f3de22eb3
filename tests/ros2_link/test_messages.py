"""The codec, beside another implementation of the wire format."""

import subprocess
import sys

import numpy as np
import pytest
from mcap_ros2._dynamic import generate_dynamic

from ros2_link import messages
from ros2_link.errors import MessageError
from tests.ros2_link.made import camera_info, image, joint_state, transforms

EXAMPLES = {
    "sensor_msgs/msg/Image": image(np.arange(24, dtype=np.uint8).reshape(2, 4, 3), stamp_s=3.5),
    "sensor_msgs/msg/CameraInfo": camera_info(640, 480),
    "sensor_msgs/msg/JointState": joint_state({"pan": 0.5, "wheel": -3.0}, stamp_s=1.25),
    "tf2_msgs/msg/TFMessage": transforms([("base", "camera", (0.0, 0.0, 0.6, 0.8))], stamp_s=2.0),
}


def assert_equal(one, other):
    """Equal field by field, whatever classes hold the fields."""
    if isinstance(one, list | tuple | np.ndarray):
        assert len(one) == len(other)
        for part, its in zip(one, other, strict=True):
            assert_equal(part, its)
    elif hasattr(one, "__dataclass_fields__"):
        for name in one.__dataclass_fields__:
            if not name.startswith("__"):
                assert_equal(getattr(one, name), getattr(other, name))
    else:
        assert one == other


@pytest.mark.parametrize("type_name", EXAMPLES)
def test_a_message_comes_back_as_it_went(type_name):
    message = EXAMPLES[type_name]
    again = messages.decode(messages.encode(message, type_name), type_name)
    assert_equal(message, again)


@pytest.mark.parametrize("type_name", EXAMPLES)
def test_another_implementation_reads_the_same(type_name):
    cdr = messages.encode(EXAMPLES[type_name], type_name)
    read = generate_dynamic(type_name, messages.definition(type_name))[type_name]
    assert_equal(EXAMPLES[type_name], read(cdr))


def test_a_picture_shares_the_memory_of_its_bytes():
    cdr = messages.encode(EXAMPLES["sensor_msgs/msg/Image"], "sensor_msgs/msg/Image")
    data = messages.decode(cdr, "sensor_msgs/msg/Image").data
    assert np.shares_memory(data, np.frombuffer(cdr, np.uint8)) and not data.flags.writeable


@pytest.mark.parametrize("type_name", EXAMPLES)
def test_torn_bytes_are_a_message_error_wherever_they_end(type_name):
    cdr = messages.encode(EXAMPLES[type_name], type_name)
    for end in range(len(cdr) - 4):
        with pytest.raises(MessageError) as error:
            messages.decode(cdr[:end], type_name)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("type_name", EXAMPLES)
def test_damaged_bytes_are_a_message_or_a_message_error(type_name):
    cdr = messages.encode(EXAMPLES[type_name], type_name)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = np.frombuffer(cdr, np.uint8).copy()
        damaged[rng.integers(len(cdr), size=3)] = rng.integers(256, size=3)
        try:
            messages.decode(damaged.tobytes(), type_name)
        except MessageError:
            refused += 1
    assert refused > 0


def test_what_is_no_ros_type_is_told_in_one_line():
    for use in (messages.message_class, messages.definition, messages.type_hash):
        with pytest.raises(MessageError, match="'my/msg/Own' is none of the message types"):
            use("my/msg/Own")
    assert not messages.is_known("my/msg/Own")


def test_a_value_that_does_not_fit_is_told():
    message = messages.message_class("builtin_interfaces/msg/Time")(2**40, 0)
    with pytest.raises(MessageError, match="cannot write builtin_interfaces/msg/Time"):
        messages.encode(message, "builtin_interfaces/msg/Time")


def test_the_hash_is_that_of_ros():
    # As `ros2 topic info --verbose` has it for std_msgs/msg/String.
    assert messages.type_hash("std_msgs/msg/String") == (
        "RIHS01_df668c740482bbd48fb39d76a70dfd4bd59db1288021743503259e948f6b1a18"
    )


def test_importing_it_loads_nothing():
    program = (
        "import sys, ros2_link.messages, edge_rjepa.sources.ros_messages; "
        "print([name for name in ('rosbags', 'mcap', 'cyclonedds') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_without_rosbags_one_line_says_what_to_install():
    program = (
        "import sys\n"
        "class Gone:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'rosbags': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Gone())\n"
        "from ros2_link import messages\n"
        "from ros2_link.errors import MissingError\n"
        "try: messages.decode(b'', 'std_msgs/msg/String')\n"
        "except MissingError as error: print(error)"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True).strip()
    assert said == 'ROS messages need rosbags: pip install "edge-rjepa[bags]"'
