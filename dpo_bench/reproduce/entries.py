"""All experiments by name. Listing them loads no torch."""

from __future__ import annotations

from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import ConfigurationError
from dpo_bench.reproduce.paper_tables import published_tables
from dpo_bench.reproduce.record import Reproducible, RunnableResult

IPO = "Azar et al. 2023, arXiv:2310.12036"

EXPERIMENTS = (
    RunnableResult(
        "ipo-figure-1",
        "DPO runs to the edge of the simplex, IPO stops: three actions, three strengths",
        f"{IPO}, section 5.4, figure 1",
        6.0,
        "exact",
        "exact.ipo_figure_1:figure_1",
    ),
    RunnableResult(
        "ipo-figure-1-literal",
        "the same with 18,000 updates, a literal reading of the figure's axis",
        f"{IPO}, section 5.4, figure 1",
        40.0,
        "variant",
        "exact.ipo_figure_1:literal",
    ),
    RunnableResult(
        "ipo-closed-forms",
        "where IPO ends, on four sets of preferences, and what DPO does there",
        f"{IPO}, section 5, figure 2",
        3.0,
        "exact",
        "exact.ipo_closed_forms:run",
    ),
    RunnableResult(
        "population-optima",
        "with unlimited data DPO, IPO and chi-PO reach their closed forms",
        "arXiv:2305.18290 eq. 4; arXiv:2310.12036; arXiv:2407.13399",
        1.0,
        "exact",
        "exact.population_optima:run",
    ),
    RunnableResult(
        "noise-identities",
        "cDPO's stationary margin; robust DPO is unbiased under flips",
        "Mitchell 2023, note on cDPO; Chowdhury et al. 2024, arXiv:2403.00409",
        1.0,
        "exact",
        "exact.noise_identities:run",
    ),
    RunnableResult(
        "kl-estimators",
        "bias and spread of k1, k2, k3, Monte Carlo and Rao-Blackwellised KL",
        "Schulman 2020, Approximating KL divergence; Amini et al. 2025, arXiv:2504.10637",
        1.0,
        "exact",
        "exact.kl_estimators:run",
    ),
    RunnableResult(
        "ranking-flip",
        "the loss at which DPO has corrected a pair that the reference ranks wrongly",
        "Chen et al. 2024, arXiv:2405.19534, the ranking-correction bound",
        1.0,
        "exact",
        "exact.ranking_flip:run",
    ),
    RunnableResult(
        "out-of-preference",
        "learning a reward, and states without preferences, close DPO's gap: order only",
        "Li, Xu, Yu 2023, arXiv:2312.10584, linear bandit",
        9.0,
        "exact",
        "exact.out_of_preference:run",
    ),
    RunnableResult(
        "claims",
        "eight claims about preference losses, in a world with exact reward and KL",
        "arXiv:2305.18290, 2310.12036, 2406.02900, 2403.00409 and the note on cDPO",
        20.0,
        "claims",
        "claims.claims:run",
    ),
    RunnableResult(
        "alpaca-eval-length-control",
        "length-controlled win rates of the public leaderboard, from its annotations",
        "Dubois et al. 2024, arXiv:2404.04475; tatsu-lab/alpaca_eval",
        2.0,
        "data",
        "raw.alpaca_eval:run",
        "AlpacaEval's annotations (git clone --depth 1 https://github.com/tatsu-lab/alpaca_eval,"
        " or a folder with annotations.npz)",
    ),
)


def experiments() -> tuple[Reproducible, ...]:
    """All of them, the tables of papers last."""
    return (*EXPERIMENTS, *published_tables())


def find_experiment(name: str) -> Reproducible:
    """The experiment or table of this name.

    Raises:
        ConfigurationError: there is none; the message suggests the nearest name.
    """
    known = {one.name: one for one in experiments()}
    if name not in known:
        raise ConfigurationError(
            f"nothing to reproduce is called {name!r}{nearest(name, known)}. "
            "`dpo-bench reproduce` lists all."
        )
    return known[name]


def exact_experiments() -> tuple[RunnableResult, ...]:
    """What `reproduce --exact` runs."""
    return tuple(one for one in EXPERIMENTS if one.kind == "exact")
