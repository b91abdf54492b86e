"""How the figures were made and what intervals hold; the words are in ``templates/words``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import KL
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.readings import NEAR, WITHIN
from dpo_bench.analysis.results import SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.report.templating import Words
from dpo_bench.version import __version__
from dpo_bench.wording import number

Note = tuple[str, str]
"""A heading and its text."""

FEWEST_STEPS = 30
"""Where neither steps nor epochs are given; see `training.trainer.number_of_steps`."""


def method_notes(
    results: SweepResults, experiment: Experiment | None, compared: CurvesOnPrompts | None
) -> tuple[Note, ...]:
    """The notes that apply to this sweep.

    Args:
        results: the sweep.
        experiment: what made it; None where that is not known.
        compared: the curves by which losses were compared at matched KL; None when they were not.
    """
    frontier, own = results.frontier, results.reference.frontier
    words = Words(
        "methods",
        **_measured(results, experiment),
        name=results.name,
        has_kl=results.has_kl,
        evaluation=experiment.evaluation if experiment else None,
        frontier_end=frontier[-1].kl if frontier else None,
        frontier_alone=own[-1].kl if own else None,
        frontier_policies=results.optimum.policies if results.optimum else 0,
        frontier_effective=results.optimum.effective if results.optimum else None,
        measures=[one.phrase for one in compared.measures] if compared else [],
    )
    return tuple(words.notes("all"))


def appendix(
    results: SweepResults,
    experiment: Experiment | None,
    series: Sequence[LossCurve],
    comparison: MatchedComparison | str,
) -> tuple[str, str]:
    """The methods in running text from the configuration: how it trained, how it measured.

    Without an experiment it says of training and measuring only that they are not known.
    """
    compared = None if isinstance(comparison, str) else comparison
    grids = {len([s for s in one.settings if s.strength is not None]) for one in series} - {0}
    words = Words(
        "appendix",
        **_measured(results, experiment),
        name=results.name,
        experiment=experiment,
        losses=list(dict.fromkeys(one.loss for one in series)),
        pairs=results.counts.get("training_pairs"),
        grids=grids,
        fewest_steps=FEWEST_STEPS,
        trials=len(results.trials),
        failed=len(results.failed),
        comparison=compared,
        levels=[number(one.kl, KL.decimals) for one in compared.levels] if compared else [],
        baseline=_label(series, compared.baseline) if compared else "",
    )
    return words.paragraph("trained"), words.paragraph("measured")


def _label(series: Sequence[LossCurve], index: int) -> str:
    return next(one.label for one in series if one.index == index)


def _measured(results: SweepResults, experiment: Experiment | None) -> dict[str, Any]:
    """What notes and appendix say of rewards, intervals and curves."""
    met = results.reference.samples
    return {
        "judge": results.judge,
        # As many as were asked for, or as a precision took.
        "opponents": int(met["sample"].max()) + 1 if len(met) else 0,
        "has_reward": results.has_reward,
        "prompts_known": results.prompts_known,
        "resamples": results.resamples,
        "seeds": len(results.seeds),
        "resample": experiment.training.resample if experiment else "",
        "near": NEAR,
        "within": WITHIN,
    }


def citation() -> str:
    """The BibTeX entry of this program's version."""
    return (
        "@software{dpo_bench,\n"
        "  title = {dpo\\_bench: a benchmark of preference losses},\n"
        "  year  = {2026},\n"
        f"  note  = {{Version {__version__}}}\n"
        "}"
    )
