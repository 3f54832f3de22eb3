"""The sentence about how learning goes follows what is measured."""

import math

import pytest

from edge_rjepa.views.verdict import BEGUN, COLLAPSED, LEARNED, LEARNING, NOTHING, verdict


def measures(information, until=200_000, every=2_000, a_second=5_000):
    """Lines of a run; information: nats as a function of the fixations."""
    return [
        {"fixations": n, "seconds": n / a_second, "information": information(n)}
        for n in range(every, until + 1, every)
    ]


def doubling(n):
    """As in a run that learns."""
    return 0.1 * n**0.4


def summary(before, after, std=0.5):
    usual = {"information": 0.2, "effective_rank": 20.0, "embedding_std": std}
    return {"before": usual | {"known_again": before}, "after": usual | {"known_again": after}}


@pytest.mark.parametrize(
    ("information", "stage"),
    [
        (lambda n: 0.05, NOTHING),
        (lambda n: -0.5, NOTHING),
        (lambda n: math.nan, NOTHING),
        (doubling, LEARNING),
        (lambda n: min(2.0, n / 10_000), LEARNED),
        (lambda n: 5.0 - n / 100_000, LEARNED),
    ],
)
def test_the_stage_follows_the_information(information, stage):
    assert verdict(measures(information)).stage == stage


def test_a_run_that_has_only_begun_is_not_judged():
    begun = measures(doubling, 10_000)
    assert verdict([]).stage == verdict(begun).stage == BEGUN
    assert verdict(begun, summary(0.2, 0.9)).stage == BEGUN


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (0.43, 0.83, "83% of views again that it never learned from (43% before it learned), eno"),
        (0.20, 0.40, "40% of views again that it never learned from (20% before it learned). It"),
        (0.40, 0.42, "42% of views again that it never learned from, no more than before"),
        (0.94, 0.99, "99% of views again that it never learned from (94% before"),
        (0.94, 0.95, "95% of views again that it never learned from, no more than before"),
        (0.40, math.nan, "It still learns"),
        (math.nan, 0.60, "60% of views again that it never learned from. It still"),
    ],
)
def test_what_it_is_worth_is_said_where_it_was_measured(before, after, says):
    said = verdict(measures(doubling), summary(before, after))
    assert says in said.sentence and said.stage == LEARNING


@pytest.mark.parametrize("nats", [-1.5, 0.0, 3.0])
def test_the_information_on_held_out_views_is_not_asked(nats):
    """In one run it was below -1 all the time, while descriptions got better."""
    judged = summary(0.14, 0.46)
    judged["after"]["information"] = nats
    assert verdict(measures(doubling), judged) == verdict(measures(doubling), summary(0.14, 0.46))


def test_after_very_many_fixations_information_alone_does_not_pay():
    assert verdict(measures(doubling, 390_000)).stage == LEARNING
    assert verdict(measures(doubling, 410_000)).stage == LEARNED


def test_while_it_learns_the_newest_judgement_counts():
    lines = measures(doubling)
    lines[20] |= {"held_out_known_again": 0.5}
    lines[40] |= {"held_out_known_again": 0.75}
    said = verdict(lines)
    assert said.stage == LEARNING
    assert said.sentence.startswith("It knows 75% of views again that it never learned from, enou")


def test_little_held_out_information_is_no_reason_to_say_that_it_has_not_learned():
    """It falls in long runs on few pictures, while descriptions get better."""
    assert "not learned" not in verdict(measures(doubling), summary(0.4, 0.8)).sentence


@pytest.mark.parametrize("judged", [None, {"before": None, "after": None}, {}])
def test_a_run_that_was_not_judged_is_told_how_it_goes(judged):
    assert verdict(measures(doubling), judged).stage == LEARNING


def test_a_run_of_an_older_version_is_told_how_it_goes():
    old = summary(0.2, 0.8)
    del old["before"]["known_again"], old["after"]["known_again"]
    assert verdict(measures(doubling), old).sentence.startswith("It still learns")


def test_a_collapse_is_named():
    assert verdict(measures(doubling), summary(0.2, 0.8, std=0.001)).stage == COLLAPSED


@pytest.mark.parametrize(
    ("a_second", "says"),
    [(5_000, "a minute or two"), (500, "7 minutes"), (30, "2 hours")],
)
def test_it_says_how_long_to_go_on(a_second, says):
    lines = measures(doubling, a_second=a_second)
    assert f"still learns: {says} more pay" in verdict(lines).sentence


def test_what_is_missing_is_left_out():
    lines = [{"fixations": n} for n in range(2000, 100_000, 2000)]
    assert verdict(lines).stage == NOTHING
    timeless = [line | {"information": doubling(line["fixations"])} for line in lines]
    assert "as many fixations more pay" in verdict(timeless).sentence
