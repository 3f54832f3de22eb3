"""`make attack`: every kind of fault that others met, the tests that hold it off, and a table.

    python -m tests.attacks.faults [PROCESSES]

A row stands for a kind of fault. Mutated files are a thousand of each kind here, a few in `make
test`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]

FAULTS: dict[str, tuple[str, ...]] = {  # kind of fault: files of tests/, or single tests of them
    "sockets that never ask exhaust descriptors": (
        "views/test_connections.py::test_a_thousand_sockets_take_few_descriptors_and_lock_nobody_out",
        "views/test_connections.py::test_who_asks_for_nothing_is_dropped",
        "run/test_survival.py::test_a_run_is_saved_when_no_descriptor_is_left",
    ),
    "bytes that make the page's server stumble": (
        "views/test_connections.py::test_no_bytes_make_a_traceback",
        "views/test_connections.py::test_who_names_no_host_is_refused",
        "views/test_connections.py::test_a_press_whose_body_never_comes_is_answered",
    ),
    "guesses of the token, pages of other sites": (
        "views/test_connections.py::test_guesses_wait_for_each_other_and_hold_up_nobody_else",
        "views/test_connections.py::test_a_name_is_ours_only_if_it_was_named",
        "views/test_connections.py::test_every_answer_says_that_it_is_for_this_page_alone",
    ),
    "buttons at a run's end, or too fast": (
        "views/test_connections.py::test_an_end_while_a_button_waits_refuses_it_and_no_more",
        "views/test_connections.py::test_a_button_that_lacks_a_thread_or_memory_ends_no_run",
        "views/test_connections.py::test_checkpoints_are_not_kept_faster_than_they_are_worth",
    ),
    "a reverse proxy with a prefix and TLS": ("views/test_proxy.py",),
    "kernels loaded in the middle of a run": ("run/test_warm_up.py",),
    "kernels damaged on the disk": (
        "base/test_jit.py::test_damaged_files_are_compiled_again_and_overwritten",
    ),
    "kernels that somebody else wrote": (
        "base/test_jit.py::test_what_others_could_have_written_is_not_unpickled",
        "base/test_jit.py::test_a_temporary_folder_that_others_may_write_is_refused",
    ),
    "alarm commands that fork, hang or change user": (
        "watch/test_watch.py::test_a_command_that_takes_too_long_is_killed_with_what_it_started",
        "watch/test_watch.py::test_a_command_is_killed_with_what_left_its_session",
        "watch/test_watch.py::test_a_command_that_may_not_be_killed_holds_up_nothing",
        "watch/test_watch.py::test_a_command_that_goes_wrong_in_an_unforeseen_way_is_not_the_last",
    ),
    "alarms on a full disk": (
        "watch/test_watch.py::test_an_alarm_is_told_though_it_cannot_be_kept",
        "watch/test_watch.py::test_a_full_disk_keeps_no_alarm_from_being_told",
    ),
    "two watches in a folder, times that cannot be": (
        "watch/test_watch.py::test_one_watch_a_folder",
        "watch/test_watch.py::test_seconds_that_end_in_the_warm_up_are_refused_at_the_start",
        "watch/test_watch.py::test_a_video_that_ends_too_early_is_refused_at_the_start",
        "watch/test_watch.py::test_learning_anew_is_said_as_json",
    ),
    "bombs, halves and oddities among pictures": ("sources/test_decode.py",),
    "videos that lie, are cut, or vanish": (
        "sources/test_video.py::test_a_video_cut_short_is_what_can_be_read_of_it",
        "sources/test_video.py::test_a_video_that_says_a_wrong_number_of_frames_is_counted",
        "sources/test_video.py::test_an_end_that_comes_early_is_taken_as_the_end",
        "sources/test_video.py::test_a_video_that_vanishes_is_named",
        "sources/test_video.py::test_videos_of_any_name_are_read",
        "sources/test_video.py::test_a_video_of_huge_pictures_is_refused",
    ),
    "cameras by HTTP of every manner": ("sources/test_http_camera.py",),
    "cameras that stall, die or are slow": (
        "sources/test_grabber.py::test_a_stall_is_answered_by_another_connection",
        "sources/test_grabber.py::test_no_more_than_a_few_threads_ever_hang",
        "sources/test_grabber.py::test_a_reader_that_cannot_be_started_is_tried_again",
        "sources/test_grabber.py::test_a_slow_camera_is_no_stalled_one",
    ),
    "broken pictures in a probe": (
        "encoder/test_probe.py::test_a_broken_picture_is_named_and_left_out",
        "encoder/test_probe.py::test_hidden_files_and_folders_are_no_pictures_and_no_classes",
    ),
    "run folders of somebody else": (
        "run/test_folders_of_others.py",
        "cli/test_files_of_others.py",
    ),
    "files of the wrong kind, too long, too deep": ("safe_files",),
    "passwords in what is shown": (
        "sources/test_redaction.py",
        "cli/test_options.py",
    ),
    "closed streams, no home, no threads, few files": ("cli/test_surroundings.py",),
    "boards of other programs, mirrored, blurred": (
        "calibration/test_board.py::test_a_board_of_another_program_is_found_by_what_is_on_it",
        "calibration/test_board.py::test_a_blurred_board_is_named",
        "calibration/test_board.py::test_other_boards_of_its_kind_are_named",
        "calibration/test_board.py::test_a_board_that_would_be_a_picture_of_gigabytes_is_refused",
    ),
    "heads that greet with nonsense, or are not ours": (
        "firmware_bridge/test_link.py::test_a_board_that_greets_with_what_cannot_be_is_no_head",
        "firmware_bridge/test_link.py::test_who_else_turns_it_is_news_once",
        "firmware_bridge/test_link.py::test_a_port_is_closed_to_programs_that_heed_no_lock",
    ),
    "bytes that no host sends, at a head": (
        "firmware_bridge/test_firmware_core.py::test_no_mutated_frames_make_a_pulse_outside_the_limits",
        "firmware_bridge/test_chip_attack.py",
        "firmware_bridge/test_chip_link.py::test_moves_through_a_line_that_spoils_one_byte_in_a_hundred",
        "firmware_bridge/test_chip_settings.py::test_no_pulse_leaves_what_any_servo_stands_whatever_bytes_and_settings_arrive",
    ),
    "a head unplugged, or reset, fifty times": (
        "firmware_bridge/test_chip_board.py::test_unplugged_and_back_again_and_again",
        "firmware_bridge/test_chip_board.py::test_reset_at_any_moment",
    ),
    "pictures to calibrate from that show no board, or another": (
        "cli/test_calibrate_cli.py::test_garbage_is_one_clear_line_and_the_old_calibration_stays",
    ),
    "killed at every step of a save": (
        "base/test_checkpoint.py::test_killed_at_every_step_the_newest_is_found_and_the_older_stay",
    ),
    "killed while it learns, at 200 instants": (
        "run/test_survival.py::test_killed_at_any_instant_what_was_saved_is_there_bit_for_bit",
    ),
    "damaged files, a thousand of each kind": ("attacks/test_mutated_files.py",),
}


def main(processes: str = "2") -> int:
    """Run all of them and print the table; 0 where nothing fell."""
    started = time.monotonic()
    with tempfile.NamedTemporaryFile(suffix=".xml") as found:
        selected = [f"tests/{each}" for tests in FAULTS.values() for each in tests]
        subprocess.run(
            [sys.executable, "-m", "pytest", "-n", processes, "--dist", "loadfile"]
            + [f"--junitxml={found.name}", *selected],
            cwd=ROOT, check=False,
        )  # fmt: skip
        outcomes = outcomes_in(found.name)
    print(f"\n{'kind of fault':<52}{'held':>6}{'fell':>6}{'not run':>9}")
    for fault, tests in FAULTS.items():
        count = Counter(
            outcome for name, outcome in outcomes.items() if any(is_of(name, t) for t in tests)
        )
        print(f"{fault:<52}{count['held']:>6}{count['fell']:>6}{count['not run']:>9}")
    fell = sum(outcome == "fell" for outcome in outcomes.values())
    print(f"{fell} of {len(outcomes)} fell, in {time.monotonic() - started:.0f} s")
    return int(fell > 0 or not outcomes)


def outcomes_in(path: str) -> dict[str, str]:
    """Of each test of a JUnit file, its name as a path and what became of it."""
    outcomes = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        said = {child.tag for child in case}
        fell = said & {"failure", "error"}
        outcomes[name] = "fell" if fell else "not run" if "skipped" in said else "held"
    return outcomes


def is_of(name: str, selected: str) -> bool:
    """Whether a test belongs to a file, a folder, or is a case of a test, of tests/."""
    whole = f"tests/{selected}"
    return name.partition("[")[0] == whole or name.startswith((f"{whole}::", f"{whole}/"))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
