"""A step whose gradient is computed again, in smaller passes, when the memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dpo_bench.model.out_of_memory import TokenLimit, fitting
from dpo_bench.training.step_metrics import pair_sums
from dpo_bench.training.steps import StepGradient, Tell


@dataclass(frozen=True, slots=True)
class FittingGradient:
    """Calls a `StepGradient`, and calls it again where its passes did not fit.

    The whole step is done again: gradients are cleared, and what runs on over the steps behind a
    loss's needs is put back to where it was. Of several ranks one that is out of memory fails: the
    others are in the midst of what they do together.

    Attributes:
        gradient: of a step.
        clear: empties the parameters' gradients.
    """

    gradient: StepGradient
    clear: Callable[[], object]

    def __call__(self, indices: Sequence[int], tell: Tell = pair_sums) -> Tensor:
        """As `StepGradient` does.

        Raises:
            EnvironmentProblem: the memory does not hold a pass of the longest pair alone.
        """
        measurer = self.gradient.measurer
        limit = TokenLimit(measurer.backend, self.gradient.tokens_per_pass)
        before = [dict(vars(one)) for one in measurer.providers.values()]

        def attempt() -> Tensor:
            for provider, state in zip(measurer.providers.values(), before, strict=True):
                vars(provider).update(state)
            self.clear()
            return replace(self.gradient, tokens_per_pass=limit.now())(indices, tell)

        if not measurer.backend.ranks.alone:
            return attempt()
        return fitting(limit, measurer.pairs.sizes[list(indices)], attempt)
