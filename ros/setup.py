"""The launch file as a package of ROS 2, for colcon; the program itself is installed with pip."""

from setuptools import setup

setup(
    name="edge_rjepa",
    version="0.1.0",
    packages=[],
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/edge_rjepa"]),
        ("share/edge_rjepa", ["package.xml"]),
        ("share/edge_rjepa/launch", ["launch/learn.launch.py"]),
    ],
    zip_safe=True,
)
