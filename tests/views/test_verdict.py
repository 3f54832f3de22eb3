"""The sentence about how learning goes follows what is measured."""

import math

import pytest

from edge_rjepa.views.verdict import BEGUN, LEARNED, LEARNING, NOTHING, verdict


def measures(information, until=200_000, every=2_000, a_second=5_000):
    """Lines of a run; information: nats as a function of the fixations."""
    return [
        {"fixations": n, "seconds": n / a_second, "information": information(n)}
        for n in range(every, until + 1, every)
    ]


@pytest.mark.parametrize(
    ("information", "stage"),
    [
        (lambda n: 0.05, NOTHING),
        (lambda n: math.nan, NOTHING),
        (lambda n: math.log2(n / 1000), LEARNING),
        (lambda n: min(2.0, n / 10_000), LEARNED),
    ],
)
def test_the_verdict_follows_the_information(information, stage):
    assert verdict(measures(information)).stage == stage


def test_a_run_that_has_only_begun_is_not_judged():
    assert verdict([]).stage == verdict(measures(lambda n: n, 10_000)).stage == BEGUN


def test_it_says_how_long_to_go_on():
    assert "10 minutes more" in verdict(measures(lambda n: n, 3_000_000)).sentence
