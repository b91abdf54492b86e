"""The reference's log-probs of every response: computed once, kept by content, shared by all.

Loss, strength, seed and output folder are no part of the key, so every trial of every sweep with
the same model and data finds them. They are kept per token in fp32, in an archive whose checksums
are verified on reading; a value that is missing or not finite is an error and is never filled in.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dpo_bench.data.batches import consecutive_passes
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.logps import LogpPath, sum_by_row, token_logps
from dpo_bench.model.statistics import sum_shared
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import cache_root, digest, write_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.data.tokenised import TokenisedPairs


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
    path: LogpPath,
    pairs: TokenisedPairs,
    model_digest: str,
    device: str,
    progress: Progress = quiet,
) -> ReferenceLogps:
    """The reference's log-probs, from the cache or computed and cached.

    Args:
        path: the reference with the kernel path that the policy takes too.
        pairs: the tokenised pairs.
        model_digest: of the reference's weights.
        device: device and precision, e.g. ``cpu/fp32``.
        progress: told after each pass.

    Raises:
        EnvironmentProblem: the reference gives a value that is not finite.
    """
    chosen, rejected = _tokens(path, pairs, model_digest, device, progress)
    return ReferenceLogps(
        _sums(chosen, pairs.chosen_lengths), _sums(rejected, pairs.rejected_lengths)
    )


def shared_reference_logps(
    path: LogpPath,
    pairs: TokenisedPairs,
    model_digest: str,
    device: str,
    progress: Progress = quiet,
) -> ReferenceLogps:
    """Like `reference_logps`, over the first min(chosen, rejected) tokens of each response."""
    chosen, rejected = _tokens(path, pairs, model_digest, device, progress)
    lengths = np.concatenate([pairs.chosen_lengths, pairs.rejected_lengths])
    both = torch.from_numpy(np.concatenate([chosen, rejected]))
    return ReferenceLogps(*sum_shared(both, torch.from_numpy(lengths)).chunk(2))


def _tokens(
    path: LogpPath, pairs: TokenisedPairs, model_digest: str, device: str, progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log-probs of all tokens of chosen and rejected responses."""
    key = digest(
        {"model": model_digest, "pairs": pairs.digest, "device": device, "path": path.name}
    )
    file = cache_root() / "reference-logps" / f"{key}.npz"
    tokens = _read(file, pairs)
    if tokens is None:
        tokens = _compute(path, pairs, progress)
        buffer = io.BytesIO()
        np.savez(buffer, chosen=tokens[0], rejected=tokens[1])
        write_atomic(file, buffer.getvalue())
    return tokens


def _read(
    file: Path, pairs: TokenisedPairs
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """The cached values, or None when there are none that are whole: then they are made anew."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as archive:
            chosen, rejected = archive["chosen"], archive["rejected"]
    except (OSError, EOFError, zipfile.BadZipFile, KeyError, ValueError):
        return None
    whole = len(chosen) == pairs.chosen_lengths.sum() and (
        len(rejected) == pairs.rejected_lengths.sum()
    )
    return (chosen, rejected) if whole else None


def _compute(
    path: LogpPath, pairs: TokenisedPairs, progress: Progress
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for indices in consecutive_passes(pairs.sizes, path.tokens_per_pass()):
        batch = path.batch(pairs, indices)
        with torch.inference_mode():
            values = token_logps(path, batch).float().cpu()
        split = int(batch.lengths[: len(indices)].sum())
        sides[0].append(values[:split])
        sides[1].append(values[split:])
        progress("reference log-probs", indices.stop, len(pairs))
    chosen, rejected = (torch.cat(side) for side in sides)
    if not (chosen.isfinite().all() and rejected.isfinite().all()):
        raise EnvironmentProblem(
            "the reference gives log-probs that are not finite: its weights are damaged, or its "
            "precision is too low for it; try --set training.precision=fp32."
        )
    return chosen.numpy(), rejected.numpy()


def _sums(values: NDArray[np.float32], lengths: NDArray[np.int64]) -> Tensor:
    return sum_by_row(torch.from_numpy(values), torch.from_numpy(lengths))
