"""diagnostics: every figure of theory.md section 8 on snapshots made by hand, with known answers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from lntrain import DiagonalLinear, LabelNoiseSGD, Problem, Snapshot, evaluate, predict, train, weighted_lasso
from lntrain.runs.console import result_text
from lntrain.runs.dashboard import TAGS
from lntrain.theory import support
from lntrain.training import evaluation
from lntrain.training.evaluation import distance, kkt_residual, measure, support_scores

F64 = torch.float64
# X = 2 I, n = 4: S = I, c = 1, slope = y / 2 = (2, -1.5, .25, 1); lambda = .5 gives beta* = (1.5, -1, 0, .5)
PROBLEM = Problem(2 * torch.eye(4, dtype=F64), torch.tensor([4.0, -3.0, 0.5, 2.0], dtype=F64), [2.0, -1.0, 0.0, 0.0])
PENALTY = torch.full((4,), 0.5, dtype=F64)
REFERENCE = weighted_lasso(PROBLEM.X, PROBLEM.y, PENALTY)
BETA = torch.tensor([1.5, -1.0, 0.0, 0.5], dtype=F64)


def _snapshot(mean=BETA, coef=BETA, noise=None, fall=(0.0, 0.0, -20.0, 0.0), **changes):
    earlier = torch.zeros(2, 4, dtype=F64)
    now = torch.tensor([fall, [-20.0] * 4], dtype=F64)  # log w_minus^2 falls everywhere
    values = {
        "step": 100,
        "coef": coef,
        "mean_coef": mean,
        "mean_noise": torch.zeros(4, dtype=F64) if noise is None else noise,
        "log_weights": now,
        "earlier_log_weights": earlier,
        "earlier_step": 50,
        "loss": torch.tensor(0.25, dtype=F64),
        "lr": 0.1,
        "std": 1.0,
        "scheduled": True,
        "engine": "torch",
        "_state": {},
    }
    return Snapshot(**{**values, **changes})


def test_at_the_lasso_every_figure_is_perfect():
    row = evaluate(PROBLEM, _snapshot(), REFERENCE, PENALTY)
    zero = ("distance_mean", "distance_last", "distance_compensated", "suboptimality_mean", "kkt_residual")
    assert [row[name] for name in zero] == pytest.approx([0.0] * 5, abs=1e-9)
    assert row["lambda_ratio"] == pytest.approx(1.0, rel=1e-9)
    assert [row[f"support_{k}"] for k in ("f1", "precision", "recall", "size")] == [1.0, 1.0, 1.0, 3.0]
    assert (row["step"], row["train_loss"], row["l1_norm_mean"], row["l1_norm_last"]) == (100.0, 0.25, 3.0, 3.0)
    truth = math.sqrt(0.5**2 + 0 + 0 + 0.5**2) / math.sqrt(5)
    assert (row["distance_truth_mean"], row["distance_truth_last"]) == pytest.approx((truth, truth))


@pytest.mark.parametrize("stream", ["labels", "gram"])
def test_the_error_of_a_verdict_is_that_of_the_numbers_drawn(stream, monkeypatch):
    """The mean noise's square a number: of 9 labels, or of the 4 directions that it is the combination of."""
    seen = []
    monkeypatch.setattr(evaluation, "verdict", lambda *given: seen.append(given) or support.verdict(*given))
    problem = Problem(torch.cat([PROBLEM.X, torch.ones(5, 4, dtype=F64)]), torch.ones(9, dtype=F64))
    lasso = weighted_lasso(problem.X, problem.y, PENALTY)
    noise = torch.arange(9, dtype=F64)
    evaluate(problem, _snapshot(noise=noise, _state={"stream": stream}), lasso)
    assert float(seen[0][4]) == float(noise.square().sum()) / {"labels": 9, "gram": 4}[stream]


def test_distances_are_relative_to_the_reference():
    shift = torch.tensor([0.0, 0.3, 0.0, 0.4], dtype=F64)
    row = evaluate(PROBLEM, _snapshot(mean=BETA + shift, coef=BETA - 2 * shift), REFERENCE, PENALTY)
    size = math.sqrt(1.5**2 + 1 + 0.25)
    assert row["distance_mean"] == pytest.approx(0.5 / size, rel=1e-6)
    assert row["distance_last"] == pytest.approx(1.0 / size, rel=1e-6)
    assert distance(BETA, torch.zeros(4, dtype=F64)) == pytest.approx(size)  # nothing to divide by


def test_suboptimality_is_the_relative_excess_of_the_objective():
    """F = (1/2)|beta - slope|^2 + const + .5 |beta|_1: moving beta_1 by -.2 costs .02 on the support."""
    moved = BETA + torch.tensor([-0.2, 0.0, 0.0, 0.0], dtype=F64)
    row = evaluate(PROBLEM, _snapshot(mean=moved), REFERENCE, PENALTY)
    assert row["suboptimality_mean"] == pytest.approx(0.02 / REFERENCE.objective, rel=1e-6)


def test_lambda_ratio_is_the_mean_slope_over_lambda_on_the_references_support():
    """-sign g = slope - |beta|: beta smaller by .1 at one of three coordinates gives lambda .6 there."""
    moved = BETA + torch.tensor([-0.1, 0.0, 9.0, 0.0], dtype=F64)  # off the support nothing counts
    row = evaluate(PROBLEM, _snapshot(mean=moved), REFERENCE, PENALTY)
    assert row["lambda_ratio"] == pytest.approx((0.6 / 0.5 + 1 + 1) / 3, rel=1e-8)
    assert row["kkt_residual"] == pytest.approx((8.75 - 0.5) / 0.5)  # there |g| = 9 - .25, lambda .5


def test_compensated_labels_enter_the_gradient_and_the_reference():
    """Labels y + noise shift slope by noise / 2: that Lasso is beta* + noise / 2 on the support."""
    noise = torch.tensor([0.2, -0.4, 0.0, 0.6], dtype=F64)
    mean = BETA + noise / 2
    row = evaluate(PROBLEM, _snapshot(mean=mean, noise=noise), REFERENCE, PENALTY)
    assert row["distance_compensated"] == pytest.approx(0.0, abs=1e-9)
    assert row["kkt_residual"] == pytest.approx(0.0, abs=1e-9)
    assert row["lambda_ratio"] == pytest.approx(1.0, rel=1e-9)
    assert row["distance_mean"] == pytest.approx(float((noise / 2).norm() / BETA.norm()), rel=1e-6)


@pytest.mark.parametrize(
    ("gradient", "coef", "off", "positive", "expected"),
    [
        ([-1.0, 1.0], [1.0, -1.0], [False, False], False, 0.0),
        ([-0.9, 1.3], [1.0, -1.0], [False, False], False, 0.3),
        ([0.9, -0.5], [0.0, 0.0], [True, True], False, 0.0),
        ([0.0, 1.5], [0.0, 0.0], [True, True], False, 0.5),
        ([0.0, 1.5], [0.0, 0.0], [True, True], True, 0.0),
        ([0.0, -1.5], [0.0, 0.0], [True, True], True, 0.5),
        ([-1.0, 0.5], [1.0, 1e-9], [False, True], False, 0.0),
    ],
)
def test_kkt_residual(gradient, coef, off, positive, expected):
    values = [torch.tensor(v, dtype=F64) for v in (gradient, coef)]
    assert kkt_residual(values[0], values[1], torch.ones(2, dtype=F64), torch.tensor(off), positive) == pytest.approx(
        expected
    )


def test_kkt_residual_is_relative_to_each_lambda():
    g, beta = torch.tensor([-1.0, -4.4], dtype=F64), torch.ones(2, dtype=F64)
    assert kkt_residual(
        g, beta, torch.tensor([1.0, 4.0], dtype=F64), torch.zeros(2, dtype=torch.bool)
    ) == pytest.approx(0.1)


def test_an_undecided_coordinate_is_counted_and_not_claimed():
    """Mean noise .5 a label: sd(g) = .25; .5 and margin .25 are within 2.33 sd of lambda = .5, 1.5 and -1 are not."""
    noise = torch.tensor([0.5, -0.5, 0.5, -0.5], dtype=F64)
    row = evaluate(PROBLEM, _snapshot(mean=BETA + noise / 2 * (BETA != 0), noise=noise), REFERENCE, PENALTY)
    assert (row["support_size"], row["support_undecided"]) == (2.0, 2.0)
    assert (row["support_precision"], row["support_recall"]) == (1.0, pytest.approx(2 / 3))
    assert row["support_f1"] == pytest.approx(0.8)


@pytest.mark.parametrize(("undecided", "said"), [(0.0, "(F1 0.800)"), (3.0, "(F1 0.800, undecided 3)")])
def test_the_table_says_how_many_are_undecided(undecided, said):
    row = evaluate(PROBLEM, _snapshot(), REFERENCE, PENALTY) | {"support_undecided": undecided, "support_f1": 0.8}
    plan = {"expected_distance": 0.01, "average": "all", "antithetic": False, "replicas": None}
    (line,) = [line for line in result_text(row | plan, REFERENCE).splitlines() if line.startswith("support")]
    assert line.endswith(said)
    assert TAGS["support_undecided"] == "support/undecided"


def test_drawn_rows_add_their_residuals_to_the_error():
    """Batches of 1, 100 steps: n r^2 / (b K) = .048, so sd(g) = .11 and margins up to .51 are within 2.33 sd."""
    far = BETA + torch.tensor([0.0, 0.0, 0.0, -0.3], dtype=F64)
    state = {"batch_size": 1, "sampling": "replacement"}
    sure, drawn = (evaluate(PROBLEM, _snapshot(mean=far, _state=s), REFERENCE, PENALTY) for s in ({}, state))
    assert (sure["support_undecided"], drawn["support_undecided"]) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("found", "true", "scores"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], (1, 1, 1)),
        ([1, 1, 1, 1], [1, 1, 0, 0], (0.5, 1, 2 / 3)),
        ([1, 0, 0, 0], [1, 1, 0, 0], (1, 0.5, 2 / 3)),
        ([0, 0, 1, 1], [1, 1, 0, 0], (0, 0, 0)),
        ([0, 0, 0, 0], [1, 1, 0, 0], (0, 0, 0)),
        ([0, 0, 0, 0], [0, 0, 0, 0], (1, 1, 1)),
    ],
)
def test_support_scores(found, true, scores):
    got = support_scores(torch.tensor(found).bool(), torch.tensor(true).bool())
    assert tuple(got.values()) == pytest.approx(scores)


def test_replicas_are_scored_alone_then_mean_and_sd():
    shift = torch.tensor([0.0, 0.3, 0.0, 0.4], dtype=F64)
    singles = [_snapshot(mean=BETA + f * shift, coef=BETA) for f in (0.0, 1.0, 4.0)]
    stacked = {
        f.name: torch.stack([getattr(s, f.name) for s in singles])
        for f in dataclasses.fields(Snapshot)
        if isinstance(getattr(singles[0], f.name), torch.Tensor)
    }
    row = evaluate(PROBLEM, dataclasses.replace(singles[0], **stacked), REFERENCE, PENALTY)
    alone = [evaluate(PROBLEM, s, REFERENCE, PENALTY) for s in singles]
    for name in alone[0]:
        if name != "step":
            values = torch.tensor([a[name] for a in alone], dtype=F64)
            assert row[name] == pytest.approx(float(values.mean()), rel=1e-12, abs=1e-15)
            assert row[f"{name}_sd"] == pytest.approx(float(values.std()), rel=1e-9, abs=1e-15)
    other = weighted_lasso(PROBLEM.X, PROBLEM.y, 2 * PENALTY)
    own = evaluate(PROBLEM, dataclasses.replace(singles[0], **stacked), [REFERENCE, REFERENCE, other])
    assert own["distance_last"] == pytest.approx(
        (0 + 0 + float(distance(BETA, other.coef))) / 3, rel=1e-6
    )  # each against its own Lasso


def test_without_a_reference_or_coefficients_what_is_known_is_reported():
    row = evaluate(PROBLEM, _snapshot(), None)
    assert set(row) == {
        "step",
        "train_loss",
        "l1_norm_last",
        "l1_norm_mean",
        "distance_truth_mean",
        "distance_truth_last",
    }
    assert set(evaluate(PROBLEM, _snapshot(coef=None, mean=None), REFERENCE)) == {"step", "train_loss"}


def test_evaluate_is_pure():
    snapshot = _snapshot()
    before = [getattr(snapshot, n).clone() for n in ("coef", "mean_coef", "mean_noise", "log_weights")]
    first, second = (evaluate(PROBLEM, snapshot, REFERENCE, PENALTY) for _ in range(2))
    assert first == second
    for name, value in zip(("coef", "mean_coef", "mean_noise", "log_weights"), before, strict=True):
        assert torch.equal(getattr(snapshot, name), value)


def test_an_empty_reference_gives_no_lambda_ratio():
    zero = weighted_lasso(PROBLEM.X, PROBLEM.y, 10 * PENALTY)
    row = evaluate(PROBLEM, _snapshot(), zero)
    assert math.isnan(row["lambda_ratio"])
    assert row["distance_mean"] == pytest.approx(float(BETA.norm()))


@pytest.mark.parametrize("groups", [None, [[0, 1], [2, 3]]], ids=["lasso", "groups"])
def test_a_replica_that_diverged_is_nan_and_the_others_are_as_ever(groups):
    def kept(lr):
        model = DiagonalLinear(4, groups=groups, replicas=len(lr))
        optimizer = LabelNoiseSGD(model.parameters(), lr=lr, noise=1.0, seed=list(range(len(lr))))
        *_, last = train(model, optimizer, PROBLEM, 64, diverged="keep")
        return last

    alone = DiagonalLinear(4, groups=groups)
    found = predict(alone, LabelNoiseSGD(alone.parameters(), lr=0.01, noise=1.0), PROBLEM)
    own, both = (measure(PROBLEM, kept(lr), found) for lr in ([0.01], [0.01, 1e3]))
    assert own.keys() == both.keys()
    for name, values in both.items():
        assert values.isnan().tolist() == [False, True]
        torch.testing.assert_close(values[:1], own[name], rtol=1e-9, atol=1e-12)
