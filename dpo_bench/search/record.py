"""What a search came to, as ``search.json`` has it: the report and the comparison read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dpo_bench.experiment import PlannedTrial
from dpo_bench.search.exploration import Explored
from dpo_bench.search.plan import SearchPlan, Series, Step

Identify = Callable[[PlannedTrial], str]


def record_of(plan: SearchPlan, step: Step, identify: Identify) -> dict[str, Any]:
    """A step as plain values.

    Args:
        plan: of the experiment.
        step: what the results so far come to.
        identify: gives a trial's identity.
    """
    return {
        "trials": [identify(trial) for trial in step.asked],
        "seeds": list(step.seeds),
        "series": [_series(plan, one, identify) for one in step.series],
        "looks": [
            {"seeds": list(one.seeds), "level": one.level, "open": sorted(one.open)}
            for one in step.looks
        ],
        "end": step.end,
    }


def _series(plan: SearchPlan, series: Series, identify: Identify) -> dict[str, Any]:
    entry, exploration = series.entry, series.exploration

    def identity(one: Explored) -> str:
        return identify(plan.trial(entry, one.setting, plan.seeds[0]))

    outcomes = [one.outcome for one in exploration.explored if one.outcome]
    return {
        "loss": entry.loss,
        "key": entry.key,
        "learning_rate": entry.rate,
        "chosen": series.chosen,
        "searched": len(exploration.explored),
        "stopped": sum(one.status == "stopped" for one in outcomes),
        "targets": [
            _target(kl, exploration.met.get(kl), exploration.reasons.get(kl, ""), identity)
            for kl in entry.sought.kls
        ],
        "path": [identify(trial) for trial in series.path],
    }


def _target(
    kl: float, met: Explored | None, why: str, identity: Callable[[Explored], str]
) -> dict[str, Any]:
    found: Mapping[str, Any] = {"reached": None, "by": "", "setting": {}, "trial": None, "why": why}
    if met is not None and met.outcome is not None:
        found = {
            "reached": met.outcome.kl,
            "by": met.by,
            "setting": dict(met.setting),
            "trial": identity(met),
            "why": "",
        }
    return {"kl": kl, **found}
