"""The table of claims: name -> source, setting, the function that measures it, and the formula that it tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lntrain.claims import rates, section3, section4, section5, section6, theorems
from lntrain.experiments.verdicts import At, Outcome

HERE = "lntrain.claims"


@dataclass(frozen=True)
class Row:
    """A claim. formula: "module:name" (or "module:name[key]"), which `--mutate` multiplies by 1.2."""

    source: str
    setting: str
    measure: Callable[[At], Outcome]
    formula: str

    @property
    def claim(self) -> str:
        """What is claimed, in one line."""
        return (self.measure.__doc__ or "").strip().partition("\n")[0]


SMALL = "n=40, d=60, k=4 of +/- 1"
CLEAR = SMALL + ", no near tie"
ROWS = {
    "sampling": Row(
        "section 3",
        SMALL + ", columns of size .5 to 2, 8 seeds",
        section3.samplings,
        "lntrain.penalty.formula:effective_penalty",
    ),
    "sampling-noise": Row(
        "section 3",
        "n=40, d=k=10, data noise 3 over label noise 1, b=4, 16 seeds",
        section3.sampling_noise,
        "lntrain.penalty.corrections:sampling_penalty",
    ),
    "momentum": Row(
        "section 3",
        SMALL + ", columns of size .5 to 2, lr extrapolated to 0, 8 seeds",
        section3.momentum,
        "lntrain.penalty.formula:effective_lr",
    ),
    "antithetic-momentum": Row(
        "section 3",
        SMALL + ", columns of size .5 to 2, lr extrapolated to 0, 8 seeds",
        section3.antithetic_momentum,
        f"{HERE}.section3:antithetic_factor",
    ),
    "weight-decay": Row(
        "section 3",
        SMALL + ", columns of size .5 to 2, 8 seeds",
        section3.weight_decay,
        "lntrain.penalty.formula:decay_penalty",
    ),
    "parametrisation": Row(
        "sections 2, 3",
        SMALL + ", columns of size .5 to 2, 8 seeds",
        section3.parametrisations,
        "lntrain.penalty.formula:step_factor",
    ),
    "hadamard": Row(
        "section 2", SMALL + ", columns of size .5 to 2, 4 seeds", section3.twin, f"{HERE}.section3:half_step"
    ),
    "column-weights": Row(
        "section 3",
        CLEAR + ", columns of size .5 to 2, 8 seeds",
        section3.weighted,
        "lntrain.penalty.formula:mean_squares",
    ),
    "mean": Row(
        "section 4",
        CLEAR + ", alpha .03 of alpha_max, lr .005, 8 seeds",
        section4.mean_converges,
        "lntrain.penalty.formula:effective_penalty",
    ),
    "antithetic-last": Row(
        "section 4",
        CLEAR + ", alpha .05 of alpha_max, lr .0005 (.00025 full), 8 seeds",
        section4.antithetic_last,
        "lntrain.penalty.formula:effective_penalty",
    ),
    "raw-rate": Row(
        "section 4",
        "n=20, d=40, k=3, no near tie, 16 groups of 4 seeds (32 full)",
        rates.raw_rate,
        f"{HERE}.rates:RATES[raw]",
    ),
    "compensated-rate": Row(
        "section 4",
        "n=20, d=40, k=3, no near tie, init .001, 16 seeds",
        rates.compensated_rate,
        f"{HERE}.rates:RATES[compensated]",
    ),
    "steps-needed": Row(
        "section 5",
        "n=20, d=40, k=3, no near tie, lr .01, 64 seeds, means of K steps",
        rates.steps_needed,
        "lntrain.penalty.corrections:plan_steps",
    ),
    "finite-step": Row(
        "section 4",
        "1-D, beta=2, lambda=1, lr .0025, 16 seeds (32 full)",
        rates.finite_step,
        "lntrain.theory.dynamics:finite_step_bias",
    ),
    "finite-step-order": Row(
        "section 4",
        "n=20, d=40, k=3, lambda .05, lr .02 to .005, 16 seeds",
        rates.finite_step_order,
        f"{HERE}.rates:RATES[finite step]",
    ),
    "antithetic-order": Row(
        "section 4", CLEAR + ", lr .02 to .005, 20 seeds", rates.antithetic_order, f"{HERE}.rates:RATES[antithetic]"
    ),
    "averaged-weights": Row(
        "section 4", "n=40, d=60, k=4, beta = w^2, 8 seeds", section4.averaged_weights, f"{HERE}.section4:weight_bias"
    ),
    "fluctuation": Row(
        "section 4", CLEAR + ", lr .0025, 8 seeds", section4.fluctuation, "lntrain.theory.gamma:gamma_law"
    ),
    "annealed": Row(
        "section 4",
        "n=20, d=40, k=3 on the smallest columns, std falls as 1/t, 8 seeds (16 full)",
        section4.annealed,
        "lntrain.lasso.references:basis_pursuit",
    ),
    "without-noise": Row(
        "section 4",
        "n=20, d=40, k=3, min l1 clear of ties, init 1 to .001",
        section4.without_noise,
        f"{HERE}.section4:interpolator_init",
    ),
    "theorem-2": Row(
        "paper, Theorem 2",
        "n=40, d=60, k=3, 20 problems (100 full)",
        theorems.theorem_2,
        "lntrain.theory.regime:delta_minus",
    ),
    "theorem-3": Row(
        "paper, Theorem 3",
        "n=40, d=60, k=3, 1.1 delta_plus, the paper's loss, 16 seeds (64 full)",
        theorems.theorem_3,
        "lntrain.theory.laws:predicted_exponents",
    ),
    "theorem-4": Row(
        "paper, Theorem 4",
        "n=40, d=60, k=3, .05 to .2 delta_minus, the paper's loss, 16 seeds (64 for the decay)",
        theorems.theorem_4,
        f"{HERE}.theorems:spread_exponent",
    ),
    "open-band": Row(
        "paper, open",
        "n=40, d=60, k=3, delta_minus to delta_plus, the paper's loss, 8 seeds",
        theorems.open_band,
        "lntrain.penalty.formula:effective_penalty",
    ),
    "gamma-law": Row(
        "section 5",
        "n=100, d=40, AR(.7) design, 10 on the support, no near tie, 64 seeds",
        section5.gamma_invariant,
        "lntrain.theory.gamma:gamma_law",
    ),
    "loss": Row(
        "section 5",
        SMALL + ", with and without data noise, 8 seeds",
        section5.loss_identity,
        f"{HERE}.section5:optimal_loss",
    ),
    "exponents": Row(
        "section 5", CLEAR + ", 32 seeds (256 full)", section5.exponents, "lntrain.theory.laws:predicted_exponents"
    ),
    "init-forgotten": Row(
        "section 5", CLEAR + ", init .05 and 1, 8 seeds", section5.init_forgotten, f"{HERE}.section5:forgetting"
    ),
    "support": Row(
        "section 5",
        "20 problems, n=30, d=40, k=2, domination margin > .05, 8 seeds",
        section5.supports,
        "lntrain.theory.laws:predicted_exponents",
    ),
    "depth": Row(
        "section 6",
        "n=40, d=10, k=5, depth 3 and 4, 8 seeds",
        section6.depth,
        "lntrain.penalty.corrections:depth_penalty",
    ),
    "flips": Row(
        "section 6",
        "n=30, d=20, k=3, two classes, p=.2, cross entropy, 8 seeds",
        section6.flips,
        f"{HERE}.section6:flip_variance",
    ),
}
