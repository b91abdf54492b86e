"""Who samples responses: this program, or a server that somebody runs.

An engine only samples. Log-probs, KL and entropy are always taken by this program's own pass over
what was sampled: an engine's would be another kernel's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from dpo_bench.evaluation.sampling_server import ServerSampler
from dpo_bench.model.rounded_copy import rounded
from dpo_bench.model.sampling import Response, SamplingPlan, sample_responses
from dpo_bench.progress import Progress, quiet

if TYPE_CHECKING:
    from dpo_bench.experiment.config import Evaluation
    from dpo_bench.model.logprob_backends import LogprobBackend


class Engine(Protocol):
    """Samples responses of a policy."""

    def __call__(
        self,
        backend: LogprobBackend,
        prompts: Sequence[Sequence[int]],
        plan: SamplingPlan,
        progress: Progress = quiet,
    ) -> list[Response]:
        """Responses to each prompt, in the order (prompt, sample).

        Args:
            backend: the policy.
            prompts: token ids of each.
            plan: how to sample.
            progress: told of finished responses.
        """


def find_engine(options: Evaluation) -> Engine:
    """The engine of an experiment.

    Raises:
        ConfigurationError: its address is none.
    """
    return builtin if options.sampler == "builtin" else ServerSampler(options.sampler_url)


def builtin(
    backend: LogprobBackend,
    prompts: Sequence[Sequence[int]],
    plan: SamplingPlan,
    progress: Progress = quiet,
) -> list[Response]:
    """This program's own: every policy gets the same random numbers (`dpo_bench.model.sampling`).

    The prompts are dealt to all ranks, each of which has all weights then.
    """
    ranks = backend.ranks
    if ranks.alone:
        with rounded(backend) as sampling:
            return sample_responses(sampling, prompts, plan, progress)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    shares = [order[rank :: ranks.size] for rank in range(ranks.size)]
    found = ranks.spread(
        _sample_share,
        shares,
        backend,
        list(prompts),
        plan,
        after=lambda _: progress("sampling", len(prompts), len(prompts)),
    )
    both = (response for share in found for response in share)
    return sorted(both, key=lambda response: (response.prompt_id, response.sample))


def _sample_share(
    backend: LogprobBackend, prompts: Sequence[Sequence[int]], plan: SamplingPlan, only: list[int]
) -> list[Response]:
    from dpo_bench.model.sharded import whole

    with whole(backend):
        return sample_responses(backend, prompts, plan, only=only)
