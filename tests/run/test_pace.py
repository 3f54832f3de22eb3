"""The pace of learning from a live camera."""

import numpy as np
import pytest

from edge_rjepa.run.pace import LATENCIES, Latency, Pace
from edge_rjepa.sources import Frame

IMAGE = np.zeros((1, 1, 3), np.uint8)


def run(pace, frames_per_s, cost_s, frames, every=1):
    """A camera whose frames cost `cost_s` a fixation, every so-manieth handed out."""
    counts = []
    first = pace._last.sequence + every if pace._last else 0
    for sequence in range(first, first + frames * every, every):
        counts.append(pace.fixations)
        frame = Frame(IMAGE, sequence / frames_per_s, (0.0, 0.0), sequence)
        pace.learned(frame, counts[-1] * cost_s)
    return counts


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("affordable", [1.3, 4.0, 9.0, 15.0])
def test_fixations_settle_at_what_there_is_time_for(affordable, every):
    pace = Pace(16, 30.0)
    cost_s = 0.8 / 30.0 / affordable
    counts = run(pace, 30.0, cost_s, 500, every)
    assert counts[0] == 16
    assert set(counts[-100:]) <= {max(1, int(affordable) - 2), int(affordable) - 1, int(affordable)}
    assert pace.frames_per_s == pytest.approx(30.0)


def test_who_keeps_up_uses_all_of_them():
    assert set(run(Pace(16, 30.0), 30.0, 1e-4, 200)) == {16}


def test_even_the_slowest_learns_from_one_fixation_a_frame():
    assert run(Pace(16, 30.0), 30.0, 10.0, 100)[-1] == 1


def test_all_fixations_come_back_when_there_is_time_again():
    pace = Pace(16, 30.0)
    assert run(pace, 30.0, 0.01, 100)[-1] < 4
    assert run(pace, 30.0, 1e-4, 200)[-1] == 16


def test_an_outage_of_the_camera_is_no_slower_camera():
    pace = Pace(16, 30.0)
    run(pace, 30.0, 0.8 / 30.0 / 6.0, 500)
    settled = pace.fixations
    late = Frame(IMAGE, pace._last.t_capture_s + 60.0, (0.0, 0.0), pace._last.sequence + 1)
    pace.learned(late, 0.02)
    assert pace.fixations <= settled + 1


def test_a_clock_that_is_set_back_does_no_harm():
    pace = Pace(16, 30.0)
    run(pace, 30.0, 1e-4, 50)
    back = Frame(IMAGE, pace._last.t_capture_s - 9000.0, (0.0, 0.0), pace._last.sequence + 1)
    pace.learned(back, 1e-3)
    for i in range(1, 50):
        frame = back._replace(t_capture_s=back.t_capture_s + i / 30.0, sequence=back.sequence + i)
        pace.learned(frame, 1e-3)
    assert pace.fixations == 16 and pace.frames_per_s == pytest.approx(30.0)


def test_a_burst_at_the_beginning_costs_little():
    pace = Pace(16, 30.0)
    for sequence in range(8):
        pace.learned(Frame(IMAGE, sequence * 1e-3, (0.0, 0.0), sequence), 2e-3)
    assert pace.fixations == 16


@pytest.mark.parametrize("frames_per_s", [2.0, 200.0])
def test_the_cameras_own_rate_is_found(frames_per_s):
    pace = Pace(16, 30.0)
    run(pace, frames_per_s, 1e-5, 400)
    assert pace.frames_per_s == pytest.approx(frames_per_s, rel=0.01)


def test_latency_is_of_the_last_frames():
    latency = Latency()
    assert latency.percentile_ms(50.0) is None
    for i in range(LATENCIES + 100):
        latency.add(1.0 if i < 100 else 0.02)
    assert latency.percentile_ms(50.0) == latency.percentile_ms(100.0) == pytest.approx(20.0)
