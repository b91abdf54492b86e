"""The reference's log-probs of every response: computed once, kept by content, shared by all.

Loss, strength, seed and output folder are no part of the key, so every trial of every sweep with
the same model and data finds them. They are kept per token in fp32; a value that is missing or not
finite is an error and is never filled in.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from dpo_bench.cache import kept
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.logprobs import LogprobBackend, response_logps, sum_by_row, token_logps
from dpo_bench.model.out_of_memory import in_passes
from dpo_bench.model.token_statistics import sum_shared
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import digest, write_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.data.mismatches import Mismatches
    from dpo_bench.data.tokenized import TokenizedPairs

    Values = NDArray[np.float32]
    Arrays = dict[str, Values]


Result = TypeVar("Result")
FILE = "logps.npz"


@dataclass(frozen=True, slots=True)
class ReferenceLogps:
    """The reference's log-probs of all pairs.

    Attributes:
        chosen: of each chosen response, nats, summed over its tokens, fp32, shape [pair].
        rejected: of each rejected response, likewise.
    """

    chosen: Tensor
    rejected: Tensor

    def to(self, device: torch.device) -> ReferenceLogps:
        """The same on a device, where the trainer indexes them without a copy per step."""
        return ReferenceLogps(self.chosen.to(device), self.rejected.to(device))


def reference_logps(
    backend: LogprobBackend,
    pairs: TokenizedPairs,
    model_digest: str,
    device: str,
    progress: Progress = quiet,
) -> ReferenceLogps:
    """The reference's log-probs, from the cache or computed and cached.

    Args:
        backend: the reference with the kernel path that the policy takes too.
        pairs: the tokenized pairs.
        model_digest: of the reference's weights.
        device: device and precision, e.g. ``cpu/fp32``.
        progress: told after each pass.

    Raises:
        EnvironmentProblem: the reference gives a value that is not finite.
    """
    chosen, rejected = _tokens(backend, pairs, model_digest, device, progress)
    return ReferenceLogps(
        _sums(chosen, pairs.chosen_lengths), _sums(rejected, pairs.rejected_lengths)
    )


def shared_reference_logps(
    backend: LogprobBackend,
    pairs: TokenizedPairs,
    model_digest: str,
    device: str,
    progress: Progress = quiet,
) -> ReferenceLogps:
    """Like `reference_logps`, over the first min(chosen, rejected) tokens of each response."""
    chosen, rejected = _tokens(backend, pairs, model_digest, device, progress)
    lengths = np.concatenate([pairs.chosen_lengths, pairs.rejected_lengths])
    both = torch.from_numpy(np.concatenate([chosen, rejected]))
    return ReferenceLogps(*sum_shared(both, torch.from_numpy(lengths)).chunk(2))


def mismatched_reference_logps(
    backend: LogprobBackend,
    mismatches: Mismatches,
    model_digest: str,
    device: str,
    progress: Progress = quiet,
) -> Tensor:
    """Like `reference_logps`, of each pair's response to another prompt; shape [pair]."""
    pairs = mismatches.pairs

    def compute() -> Arrays:
        sums = _by_pass(
            backend, pairs, _mismatched, mismatches, told=("reference, mismatched", progress)
        )
        return {"mismatched": torch.cat(sums).numpy()}

    key = _key(backend, pairs, model_digest, device) | {"texts": "mismatched"}
    return torch.from_numpy(_kept(key, {"mismatched": len(pairs)}, compute)["mismatched"])


def _tokens(
    backend: LogprobBackend,
    pairs: TokenizedPairs,
    model_digest: str,
    device: str,
    progress: Progress,
) -> tuple[Values, Values]:
    """Log-probs of all tokens of chosen and rejected responses."""
    sizes = {
        "chosen": int(pairs.chosen_lengths.sum()),
        "rejected": int(pairs.rejected_lengths.sum()),
    }
    found = _kept(
        _key(backend, pairs, model_digest, device),
        sizes,
        lambda: _compute(backend, pairs, progress),
    )
    return found["chosen"], found["rejected"]


def _key(
    backend: LogprobBackend, pairs: TokenizedPairs, model_digest: str, device: str
) -> dict[str, str]:
    return {
        "model": model_digest,
        "pairs": pairs.digest,
        "device": device,
        "path": backend.numerics,
    }


def _kept(
    key: Mapping[str, str], sizes: Mapping[str, int], compute: Callable[[], Arrays]
) -> Arrays:
    """Arrays of these sizes from the cache, or computed, checked and cached.

    Raises:
        EnvironmentProblem: a computed value is not finite.
    """

    def fill(folder: Path) -> None:
        found = compute()
        if not all(np.isfinite(values).all() for values in found.values()):
            raise EnvironmentProblem(
                "the reference gives log-probs that are not finite: its weights are damaged, or "
                "its precision is too low for it; try --set training.precision=fp32."
            )
        if wrong := [name for name, size in sizes.items() if len(found[name]) != size]:
            raise RuntimeError(f"{wrong[0]}: not as many log-probs as tokens")
        buffer = io.BytesIO()
        np.savez(buffer, **found)  # type: ignore[arg-type]  # its own option is a bool by name
        write_atomic(folder / FILE, buffer.getvalue())

    content = kept("reference-logps", digest(key), fill).read(FILE)
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in sizes}


def _compute(backend: LogprobBackend, pairs: TokenizedPairs, progress: Progress) -> Arrays:
    sides = _by_pass(backend, pairs, _both, pairs, told=("reference log-probs", progress))
    chosen, rejected = (torch.cat(side).numpy() for side in zip(*sides, strict=True))
    return {"chosen": chosen, "rejected": rejected}


def _by_pass(
    backend: LogprobBackend,
    pairs: TokenizedPairs,
    function: Callable[..., Result],
    source: object,
    *,
    told: tuple[str, Progress],
) -> list[Result]:
    """What a function of the backend, a source and some pairs' indices gives, pass by pass."""
    return in_passes(backend, pairs.sizes, function, backend, source, told=told)


def _both(backend: LogprobBackend, pairs: TokenizedPairs, indices: range) -> tuple[Tensor, Tensor]:
    """Log-probs of the tokens of some pairs' chosen and rejected responses."""
    batch = backend.batch(pairs, indices)
    with torch.no_grad():
        values = token_logps(backend, batch).float().cpu()
    chosen, rejected = values.split([int(side.sum()) for side in batch.lengths.chunk(2)])
    return chosen, rejected


def _mismatched(backend: LogprobBackend, mismatches: Mismatches, indices: range) -> Tensor:
    return response_logps(backend, *mismatches.texts(indices)).float().cpu()


def _sums(values: Values, lengths: NDArray[np.int64]) -> Tensor:
    return sum_by_row(torch.from_numpy(values), torch.from_numpy(lengths))
