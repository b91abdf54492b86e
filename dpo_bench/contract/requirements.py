"""What a loss may need beyond sums and counts: names, their fields, and when these follow.

A loss declares needs in `register`; the trainer has a provider for each. Called by hand with the
six plain fields, a loss gets what these determine; anything else that is missing is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dpo_bench.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from dpo_bench.contract.record import PairLogps

Fields = dict[str, "Tensor"]


def _never(_logps: PairLogps) -> Fields | None:
    return None


@dataclass(frozen=True, slots=True)
class Need:
    """Something that a loss may need.

    Attributes:
        fields: the fields of `PairLogps` that it stands for.
        meaning: what it is, for people.
        follows: the fields where the six plain ones determine them, else None.
        of_batch: whether it is known only when the whole batch is: then a loss that needs it is
            batch-coupled.
    """

    fields: tuple[str, ...]
    meaning: str
    follows: Callable[[PairLogps], Fields | None] = _never
    of_batch: bool = False


def _shared_sums(logps: PairLogps) -> Fields | None:
    """Responses of equal lengths share all of their tokens; equal models agree on any part."""
    if not (logps.chosen_tokens == logps.rejected_tokens).all() and not _at_reference(logps):
        return None
    return {
        f"{side}_shared": getattr(logps, side)
        for side in ("policy_chosen", "policy_rejected", "reference_chosen", "reference_rejected")
    }


def _sequential_kl(logps: PairLogps) -> Fields | None:
    zeros = logps.policy_chosen.detach() * 0
    return {"chosen_kl": zeros, "rejected_kl": zeros} if _at_reference(logps) else None


def _mismatched(logps: PairLogps) -> Fields | None:
    zeros = logps.policy_chosen.detach() * 0
    return {"mismatched_logratio": zeros} if _at_reference(logps) else None


def _mean_logratio(logps: PairLogps) -> Fields:
    """The batch's own mean: what it is at the first step of a run."""
    ratios = (logps.chosen_logratio + logps.rejected_logratio).detach() / 2
    return {"mean_logratio": ratios.mean().expand_as(ratios)}


def _at_reference(logps: PairLogps) -> bool:
    """Whether policy and reference agree on every response: the one model is the other."""
    return not (logps.chosen_logratio.any() or logps.rejected_logratio.any())


NEEDS: Mapping[str, Need] = {
    "preference_margin": Need(
        ("preference_margin",), "how much better the chosen response is, from data.margin_column"
    ),
    "shared_sums": Need(
        (
            "policy_chosen_shared",
            "policy_rejected_shared",
            "reference_chosen_shared",
            "reference_rejected_shared",
        ),
        "log-probs summed over the first min(chosen, rejected) tokens",
        _shared_sums,
    ),
    "confidence": Need(
        ("chosen_confidence", "rejected_confidence"),
        "the policy's log-prob of a token against that of a token it would draw, on average",
    ),
    "sequential_kl": Need(
        ("chosen_kl", "rejected_kl"),
        "KL(reference || policy) summed over the response, from a forward pass of the reference",
        _sequential_kl,
    ),
    "mismatched_logratio": Need(
        ("mismatched_logratio",),
        "log-ratio of another prompt's response, from one more forward pass",
        _mismatched,
    ),
    "mean_logratio": Need(
        ("mean_logratio",),
        "mean log-ratio of the run so far, kept by the trainer",
        _mean_logratio,
        of_batch=True,
    ),
}
"""Every need by name."""


def require_known(owner: str, needs: Iterable[str]) -> None:
    """Refuse a need that does not exist.

    Raises:
        ConfigurationError: there is none of that name.
    """
    from dpo_bench.contract.suggestions import nearest

    for name in needs:
        if name not in NEEDS:
            raise ConfigurationError(
                f"{owner} declares an unknown need {name!r}{nearest(name, NEEDS)}; "
                f"there are: {', '.join(NEEDS)}."
            )


def with_defaults(owner: str, needs: Iterable[str], logps: PairLogps) -> PairLogps:
    """A record that has what a loss needs: as given, or as it follows from the plain fields.

    Raises:
        ConfigurationError: a field is missing and nothing determines it.
    """
    for name in needs:
        need = NEEDS[name]
        missing = [field for field in need.fields if getattr(logps, field) is None]
        if not missing:
            continue
        found = need.follows(logps)
        if found is None:
            raise ConfigurationError(
                f"{owner} needs {name}, but the PairLogps has no {missing[0]} ({need.meaning})."
            )
        logps = replace(logps, **{field: found[field] for field in missing})
    return logps
