"""The sweep's jobs, what is done before, and its table; Ray itself is not installed here."""

import argparse

from benchmarks.sweep import is_done, is_of, jobs_of, kept_in, table, values_of


def options(**changes):
    """As the command line gives them."""
    usual = {
        "protocol": "glimpses", "set": [values_of("n_hidden=8,16"), values_of("cell=gated")],
        "seeds": 2, "budgets": (100, 200), "learner": "RFP", "quick": False, "pictures": None,
    }  # fmt: skip
    return argparse.Namespace(**{**usual, **changes})


def row(job, fixations, score=0.5):
    """As benchmarks/learning.py makes them."""
    named = {"protocol": job.protocol, "learner": job.learner, "cell": job.cell, "seed": job.seed}
    return {**named, **dict(job.network), "fixations": fixations, "accuracy": score}


def test_every_combination_is_a_job_for_every_seed():
    jobs = jobs_of(options(set=[values_of("n_hidden=8,16"), values_of("update_every=1,2,4")]))
    assert len(jobs) == len(set(jobs)) == 2 * 3 * 2
    assert jobs[0].network == (("n_hidden", 8), ("update_every", 1))


def test_values_are_json_or_text():
    assert values_of("learning_rate=1e-3,3e-3") == ("learning_rate", [1e-3, 3e-3])
    assert values_of("cell=gated,leaky") == ("cell", ["gated", "leaky"])


def test_a_job_is_done_when_its_last_row_is_there():
    job, other, *_ = jobs_of(options())
    rows = [row(job, 100), row(other, 200)]
    assert not is_done(job, rows) and is_done(other, rows)
    assert is_done(job, [*rows, row(job, 200)])
    assert is_of(row(job, 100), job) and not is_of(row(job, 300), job)


def test_a_line_that_broke_off_is_left_out(tmp_path, capsys):
    out = tmp_path / "sweep.jsonl"
    assert kept_in(out) == []
    out.write_text('{"a": 1}\n{"a": ')
    assert kept_in(out) == [{"a": 1}] and "broke off" in capsys.readouterr().out


def test_the_table_has_a_line_for_each_combination():
    jobs = jobs_of(options(set=[values_of("n_hidden=8,16")]))
    rows = [row(job, 200, 0.5 + 0.1 * job.seed) for job in jobs]
    lines = table(jobs, rows).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| 8 |") and lines[3] == "| 16 | 200 | 2 | 0.550 (0.500 .. 0.600) |"
