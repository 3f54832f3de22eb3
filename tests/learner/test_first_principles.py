"""docs/first-principles.md: what it prints is what the learner computes, number by number."""

import re
from pathlib import Path

import numpy as np
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "first-principles.md").read_text()
FENCES = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SET_UP, BLOCK = (text for language, text in FENCES if language == "python")
LINES = [line for language, text in FENCES if not language for line in text.splitlines() if line]
DIGITS = 4  # after the point, on the page


@pytest.fixture(scope="module")
def learner():
    """Names of the page's two programs: the learner before the block, and what the block gave."""
    names = {}
    exec(SET_UP, names)
    names["E_0"] = names["model"].tensors()["traces.E"][0, 0].copy()
    names["predicted"] = names["model"].copy().predict(names["x"][1:], names["a"][1:])
    exec(BLOCK, names)
    return names


@pytest.fixture(scope="module")
def hand(learner):
    """Every quantity of the page by its name there, from the equations alone."""
    W_z, W, lam, V_1, V_2, V_3 = (
        np.squeeze(learner["weights"][name]) for name in ("W_z", "W", "lam", "V_1", "V_2", "V_3")
    )
    x, a = learner["x"], learner["a"]
    keep, gain = 1 / (1 + np.exp(-lam)), 0.5  # of the state; of the gain field, whose weights are 0
    found = {"keep": keep, "J": keep, "y_before": np.zeros(2)}

    def note(**named):
        found.update(named)

    y = found["y_before"]
    for t in range(3):
        z = np.tanh(W_z @ [*x[t], 1])
        u = np.array([*z, *a[t], 1])
        if t > 0:
            q = V_1 @ [*y, *found[f"z_{t - 1}"], *a[t], 1]
            p1 = np.tanh(q) * gain
            p2 = np.tanh(V_2 @ [p1, 1])
            zhat = V_3 @ [p2, 1]
            e = z - zhat
            d_p2 = -e @ V_3[:, 0]
            d_p1 = d_p2 * (1 - p2**2) * V_2[0]
            d_q = d_p1 * gain * (1 - np.tanh(q) ** 2)
            note(**{f"q_{t}": q, f"p1_{t}": p1, f"p2_{t}": p2, f"zhat_{t}": zhat, f"e_{t}": e})
            note(**{f"surprise_{t}": e @ e / 2, f"loss_{t}": e @ e / 2 - z @ z / 2})
            note(**{f"d_zhat_{t}": -e, f"d_p2_{t}": d_p2, f"d_p1_{t}": d_p1, f"d_q_{t}": d_q})
            note(**{f"delta_{t - 1}": d_q * V_1[:2]})
        s = W @ u
        y = keep * y + (1 - keep) * np.tanh(s)
        B = (1 - keep) * (1 - np.tanh(s) ** 2)
        note(**{f"z_{t}": z, f"u_{t}": u, f"s_{t}": s, f"tanh_s_{t}": np.tanh(s)})
        note(**{f"y_{t}": y, f"B_{t}": B})

    # Recurrent-Forward Propagation
    J, delta_0, delta_1 = found["J"], found["delta_0"], found["delta_1"]
    E_0 = np.outer(found["B_0"], found["u_0"])
    alpha, beta_1, beta_2 = delta_0 + delta_1 * J, delta_1 * found["B_1"], np.zeros(2)
    gamma_1, gamma_2 = J * found["B_1"], found["B_2"]
    dW = alpha[:, None] * E_0 + np.outer(beta_1, found["u_1"]) + np.outer(beta_2, found["u_2"])
    E_1 = J[:, None] * E_0 + np.outer(found["B_1"], found["u_1"])
    E_2 = (J * J)[:, None] * E_0 + np.outer(gamma_1, found["u_1"]) + np.outer(gamma_2, found["u_2"])
    note(E_0=E_0, E_1=E_1, E_2=E_2, alpha=alpha, beta_1=beta_1, beta_2=beta_2, dW=dW)
    note(gamma_1=gamma_1, gamma_2=gamma_2)

    # Backpropagation through time, over all three fixations
    credit_1 = delta_1
    credit_0 = delta_0 + J * credit_1
    bptt = np.outer(credit_1 * found["B_1"], found["u_1"])
    bptt += np.outer(credit_0 * found["B_0"], found["u_0"])
    note(credit_1=credit_1, credit_0=credit_0, bptt=bptt)

    # The statistics that the block leaves
    Z, errors = (np.array([found[f"{name}_{t}"] for t in (1, 2)]) for name in ("z", "e"))
    S_z, S_e = np.cov(Z.T, bias=True), errors.T @ errors / 2
    det_z, det_e = (np.linalg.det(S + np.eye(2)) for S in (S_z, S_e))
    note(mu=Z.mean(axis=0), S_z=S_z, S_e=S_e, det_z=det_z, det_e=det_e)
    note(information=np.log(det_z / det_e) / 2)
    return found


def test_the_learner_computes_what_the_hand_computes(learner, hand):
    def same(found, *names):
        expected = [hand[name] for name in names] if len(names) > 1 else hand[names[0]]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14, err_msg=str(names))

    report = learner["report"]
    same(learner["predicted"].z, "z_1", "z_2")
    same(learner["predicted"].z_hat, "zhat_1", "zhat_2")
    same(learner["predicted"].h, "y_1", "y_2")
    same(report.surprise, "surprise_1", "surprise_2")
    assert report.loss * 2 == pytest.approx(hand["loss_1"] + hand["loss_2"], abs=1e-14)
    same(learner["E_0"], "E_0")
    same(learner["gradient"], "dW")
    same(learner["trace"], "E_2")
    same(learner["model"].state[0], "y_2")
    same(learner["model"].embedding_covariance, "S_z")
    same(learner["model"].error_covariance, "S_e")
    same(report.information, "information")


def test_backpropagation_through_time_gives_the_same_gradient(hand):
    np.testing.assert_allclose(hand["bptt"], hand["dW"], rtol=0, atol=1e-15)
    assert np.abs(hand["alpha"][:, None] * hand["E_0"]).max() > 0.1, "the past is part of it"


@pytest.mark.parametrize("line", LINES)
def test_every_line_of_the_page_is_true(line, hand):
    """`name[unit] = calculation = .. = value`: all parts agree, the last with the quantity."""
    named, *parts = line.split("=")
    name, *indices = re.findall(r"\w+", named)
    true = hand[name][tuple(int(index) - 1 for index in indices)] if indices else hand[name]
    *calculations, value = [evaluate(part.strip()) for part in parts]
    np.testing.assert_allclose(value, true, rtol=0, atol=0.501 * 10**-DIGITS)
    for calculation in calculations:  # from rounded numbers
        np.testing.assert_allclose(calculation, true, rtol=0, atol=2 * 10**-DIGITS)


def evaluate(text):
    """A sum on the page as a number or, where it holds lists such as (1, 0.5), as an array."""
    arrays = re.sub(r"\(([^()]*,[^()]*)\)", r"(array([\1]))", text)
    vocabulary = {"tanh": tanh, "log": np.log, "array": np.array, "__builtins__": {}}
    return eval(arrays, vocabulary)


def tanh(*numbers):
    return np.tanh(numbers if len(numbers) > 1 else numbers[0])


def test_the_page_prints_no_number_that_is_not_checked():
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(r"\d\.\d", prose)
    assert len(LINES) > 50


@pytest.mark.parametrize("line", ["z_1 = (0.7616, 0.0001)", "y_1[1] = 0.5*0.3 + 0.5 = 0.5337"])
def test_a_wrong_number_is_noticed(line, hand):
    with pytest.raises(AssertionError):
        test_every_line_of_the_page_is_true(line, hand)
