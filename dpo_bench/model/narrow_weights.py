"""Whether a model computes soundly with weights in bf16, found by trying it on a few tokens."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from dpo_bench.model.choose_backend import probe_ids
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.master_weights import NARROW, MasterWeights

log = logging.getLogger(__name__)

WORSE = 4.0
"""How many times the error of autocast weights in bf16 may make, or the model keeps autocast."""


def narrow_weights(backend: LogprobBackend) -> None:
    """Put a backend's weights into bf16, with masters of those that are trained.

    A model for which that is less precise than autocast by far, or whose code mixes precisions that
    do not go together, is left as it is: it is computed under autocast.

    Args:
        backend: of precision bf16; other ones are left alone.
    """
    if backend.precision != "bf16" or backend.masters is not None:
        return
    model = backend.model
    if model.dtype == NARROW:  # an adapter over a model that has been put into bf16
        backend.masters = MasterWeights(model)
        return
    before = {name: parameter.data for name, parameter in model.named_parameters()}
    found = None
    with torch.no_grad():
        expected, usual = _probe(backend, "fp32"), _probe(backend, "bf16")
    reason = "its code mixes precisions"
    masters = MasterWeights(model)
    try:
        with torch.no_grad():
            found = _probe(backend, "bf16")
        error, accepted = _distance(found, expected), _distance(usual, expected)
        reason = f"its log-probs would be off by {error:.2g} nat and not {accepted:.2g}"
        if error <= WORSE * accepted:
            backend.masters = masters
            return
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        log.debug("%s in bf16: %s", type(model).__name__, error)
    masters.withdraw()
    for name, parameter in model.named_parameters():
        parameter.data = before[name]
    log.info(
        "%s keeps its weights in fp32 and casts them at each use (%s)", type(model).__name__, reason
    )


def _probe(backend: LogprobBackend, precision: str) -> Tensor:
    """Log-probs of every token at every position of a short random text."""
    ids = probe_ids(backend.model)[0].tolist()
    batch = backend.response_batch([ids[:1]], [ids[1:]])
    before, backend.precision = backend.precision, precision
    try:
        return backend.logits(backend.states(batch)).log_softmax(-1)
    finally:
        backend.precision = before


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Root mean square difference, nats."""
    return float((ours - theirs).nan_to_num().square().mean().sqrt())
