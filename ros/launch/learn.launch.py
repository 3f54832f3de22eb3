"""ros2 launch edge_rjepa learn.launch.py image:=/camera/image_raw out:=/data/eye

Learns from a robot's camera and publishes what it finds out. A run that is there is gone on with; a
program that fails is started again. `ros2 launch edge_rjepa learn.launch.py --show-args` lists the
arguments.
"""

import shlex
from pathlib import Path

ARGUMENTS = {  # what each is usually, and what it says
    "image": ("/camera/image_raw", "topic of sensor_msgs Image or CompressedImage"),
    "info": ("", "topic of its CameraInfo; none if empty"),
    "joints": ("", "where the head is: TOPIC:PAN,TILT of JointState; unknown if empty"),
    "head": ("", "turns the camera: a head as edge-rjepa learn --head has it; none if empty"),
    "namespace": ("edge_rjepa", "of what is published"),
    "out": ("edge_rjepa_run", "the run's folder; one that is there is gone on with"),
    "program": ("edge-rjepa", "where pip installed it"),
    "more": ("", "more flags of edge-rjepa learn; a run that goes on keeps those it began with"),
}
# Each has a value, and is refused where a run goes on.
OF_A_NEW_RUN = {"--config", "--seed", "--fov", "--calibration", "--gaze", "--record"}
AGAIN_S = 5.0  # after it failed
GRACE_S = "60"  # to judge and save what was learned, before it is killed


def command(given):
    """The program and its arguments. given: a text for each of ARGUMENTS."""
    program = [given["program"], "learn", "--ros2", given["namespace"]]
    if given["head"]:
        program += ["--head", given["head"]]
    more = shlex.split(given["more"])
    if any(Path(given["out"]).glob("checkpoint*.safetensors")):  # else it did not get that far
        program += ["--resume", given["out"]]
        more = of_any_run(more)
    else:
        beside = [f"{name}={given[name]}" for name in ("info", "joints") if given[name]]
        source = f"ros2:{given['image']}" + ("?" + "&".join(beside) if beside else "")
        program += ["--source", source, "--out", given["out"]]
    return program + more


def of_any_run(flags):
    """The flags that a run may be gone on with."""
    kept, flags = [], iter(flags)
    for flag in flags:
        name, _, value = flag.partition("=")
        if name not in OF_A_NEW_RUN:
            kept.append(flag)
        elif not value:
            next(flags, None)
    return kept


def generate_launch_description():
    """What ros2 launch asks for."""
    from launch import LaunchDescription
    from launch.actions import (
        DeclareLaunchArgument,
        ExecuteProcess,
        OpaqueFunction,
        TimerAction,
    )
    from launch.substitutions import LaunchConfiguration

    def learn(context):
        given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
        return [
            ExecuteProcess(
                cmd=command(given), output="screen", sigterm_timeout=GRACE_S, on_exit=again
            )
        ]

    def again(event, context):
        if event.returncode and not context.is_shutdown:
            return [TimerAction(period=AGAIN_S, actions=[OpaqueFunction(function=learn)])]
        return []

    arguments = [
        DeclareLaunchArgument(name, default_value=usual, description=says)
        for name, (usual, says) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=learn)])
