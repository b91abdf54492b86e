"""How a model's log-probs are computed: one path, for policy, reference and scoring alike.

A path turns a batch into the states at the response positions, and states into logits. Every
difference between two models is taken between values that came the same way, so that a policy that
equals its reference has log-ratios of exactly zero.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dpo_bench.errors import EnvironmentProblem

if TYPE_CHECKING:
    from dpo_bench.data.batches import Batch

log = logging.getLogger(__name__)

PROBE_TOKENS = 12
PROBE_SEED = 20230529
PROBE_LOGITS = 30.0
"""Standard deviation of the logits at which the head is probed: soft-caps (30 or 50 in the models
that have them) and scales act on logits of this size, and hardly on a fresh model's small ones."""


class LogpPath(ABC):
    """A model and the way its log-probs are computed.

    Attributes:
        model: a causal language model of transformers; its weights are the master weights.
        precision: ``fp32``, or ``bf16``: the forward pass runs under autocast. Logits are computed
            from the master weights, at their precision, in either case.
        masks_padding: whether an attention mask hides the padding. Behind the last token it changes
            nothing in a causal model, and costs time.
    """

    kind: str

    def __init__(self, model: Any, precision: str = "fp32", *, masks_padding: bool = False) -> None:
        self.model = model
        self.precision = precision
        self.masks_padding = masks_padding

    @property
    def name(self) -> str:
        """Identifies the path: values of two paths agree only to rounding."""
        return f"{self.kind}/masked" if self.masks_padding else self.kind

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits and log-probs: the master weights' own."""
        return self.model.dtype  # type: ignore[no-any-return]

    @property
    def vocabulary(self) -> int:
        """Number of tokens that a distribution ranges over."""
        return int(self.model.config.get_text_config().vocab_size)

    def autocast(self) -> torch.autocast:
        """The context in which the model's forward pass runs."""
        return torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        )

    @abstractmethod
    def states(self, batch: Batch) -> Tensor:
        """What `logits` needs of each response position; shape [token, anything]."""

    @abstractmethod
    def logits(self, states: Tensor) -> Tensor:
        """Logits that predict each response token, any slice of them; shape [token, vocabulary]."""

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        if not self.masks_padding:
            return {"input_ids": batch.input_ids}
        return {"input_ids": batch.input_ids, "attention_mask": attention_mask(batch)}


class HiddenPath(LogpPath):
    """Base transformer, then the output embedding at the response positions only."""

    kind = "hidden"

    def states(self, batch: Batch) -> Tensor:
        """Hidden states at the response positions; shape [token, width]."""
        with self.autocast():
            hidden = self.model.base_model(**self._inputs(batch)).last_hidden_state
        return at_responses(hidden, batch)

    def logits(self, states: Tensor) -> Tensor:
        """The output embedding applied to hidden states; shape [token, vocabulary]."""
        with torch.autocast(self.device.type, enabled=False):
            logits: Tensor = self.model.get_output_embeddings()(states.to(self.dtype))
        return logits


class FullPath(LogpPath):
    """The whole model at every position, for architectures that do more than embed the output."""

    kind = "full"

    def states(self, batch: Batch) -> Tensor:
        """Logits at the response positions; shape [token, vocabulary]."""
        with self.autocast(), self._precise_head():
            logits = self.model(**self._inputs(batch)).logits
        return at_responses(logits, batch).to(self.dtype)

    def logits(self, states: Tensor) -> Tensor:
        """The states themselves."""
        return states

    @contextlib.contextmanager
    def _precise_head(self) -> Iterator[None]:
        """Keep the output embedding out of autocast.

        Logits rounded to bf16 put a quarter of a nat and more of noise on a response of 300 tokens.
        """
        head = self.model.get_output_embeddings()
        if self.precision != "bf16" or head is None:
            yield
            return
        original = head.forward

        def forward(hidden: Tensor) -> Tensor:
            with torch.autocast(hidden.device.type, enabled=False):
                logits: Tensor = original(hidden.to(self.dtype))
            return logits

        before = vars(head).get("forward")
        head.forward = forward
        try:
            yield
        finally:
            del head.forward
            if before is not None:
                head.forward = before


def at_responses(values: Tensor, batch: Batch) -> Tensor:
    """The entries that predict the response tokens: [row, longest, ...] -> [token, ...]."""
    index = batch.row * batch.input_ids.shape[1] + batch.position
    return values.flatten(0, 1).index_select(0, index)


def attention_mask(batch: Batch) -> Tensor:
    """1 up to the position that predicts a row's last response token, 0 behind it.

    Shape [row, longest]. What stands behind can influence nothing that is asked for.
    """
    rows, longest = batch.input_ids.shape
    last = batch.position.new_zeros(rows).scatter_reduce(0, batch.row, batch.position, "amax")
    positions = torch.arange(longest, device=batch.input_ids.device)
    return (positions <= last[:, None]).long()


def choose_path(model: Any, precision: str = "fp32") -> LogpPath:
    """The quickest path that is right for a model, found by trying it on a few random tokens.

    Architectures differ in what they do between hidden states and logits (soft-caps, scales,
    projections, biases); the numbers show it, whatever the architecture is called.

    Args:
        model: a causal language model of transformers, on its device, in eval mode.
        precision: ``fp32`` or ``bf16``.

    Raises:
        EnvironmentProblem: no path is right: the model is not causal, or padding changes it.
    """
    with torch.no_grad():
        masks_padding = _needs_mask(model)
        quick = _head_is_all(model)
    if not quick:
        log.info(
            "%s does more than embed its hidden states: its log-probs are taken from its logits at "
            "every position, which needs more memory",
            type(model).__name__,
        )
    path = HiddenPath if quick else FullPath
    return path(model, precision, masks_padding=masks_padding)


def _needs_mask(model: Any) -> bool:
    """Whether padding must be masked: run rows alone, shortened and padded, and compare."""
    ids = _probe_ids(model)
    half = ids.shape[1] // 2
    alone, short = _all_logits(model, ids), _all_logits(model, ids[:, :half])
    name = type(model).__name__
    if not _same(alone[:, :half], short):
        raise EnvironmentProblem(
            f"{name} is no causal language model: what it says of a token depends on the tokens "
            "behind it. Give a model that predicts the next token."
        )
    padded = ids.repeat(2, 1)
    padded[1, half:] = 0
    mask = torch.ones_like(padded)
    mask[1, half:] = 0
    for options in ({}, {"attention_mask": mask}):
        logits = _all_logits(model, padded, **options)
        if _same(logits[:1], alone) and _same(logits[1:, :half], short):
            return bool(options)
    raise EnvironmentProblem(
        f"{name} gives a text other log-probs when a longer one is in the same batch, its padding "
        "masked or not: this architecture cannot be measured reliably."
    )


def _head_is_all(model: Any) -> bool:
    """Whether logits are the output embedding of the base model's hidden states, and nothing more.

    Tried on a few tokens, and with random hidden states that make large logits.
    """
    ids, path = _probe_ids(model), HiddenPath(model)
    try:
        hidden = model.base_model(input_ids=ids).last_hidden_state
        if not _same(path.logits(hidden), _all_logits(model, ids)):
            return False
        generator = torch.Generator().manual_seed(PROBE_SEED)
        large = torch.randn(hidden.shape, generator=generator, dtype=hidden.dtype).to(hidden.device)
        large *= PROBE_LOGITS / path.logits(large).std().clamp_min(1e-12)
        with _head_given(model, large):
            return _same(path.logits(large), _all_logits(model, ids))
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        log.debug("%s has no separate head: %s", type(model).__name__, error)
        return False


@contextlib.contextmanager
def _head_given(model: Any, states: Tensor) -> Iterator[None]:
    """Let the output embedding see these hidden states, whatever the model hands it."""
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _module, _inputs: (states,))
    try:
        yield
    finally:
        handle.remove()


def _all_logits(model: Any, ids: Tensor, **options: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, **options).logits
    return logits


def _probe_ids(model: Any) -> Tensor:
    """A row of random tokens, the same for every model with this vocabulary."""
    config = model.config.get_text_config()
    width = min(PROBE_TOKENS, int(getattr(config, "max_position_embeddings", PROBE_TOKENS)))
    generator = torch.Generator().manual_seed(PROBE_SEED)
    ids = torch.randint(0, int(config.vocab_size), (1, width), generator=generator)
    return ids.to(model.device)


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for rounding, relative to the largest value."""
    tolerance = 1e-10 if theirs.dtype == torch.float64 else 1e-4
    finite = theirs.isfinite()
    if not torch.equal(ours.isfinite(), finite):
        return False
    difference, size = (ours - theirs)[finite].abs(), theirs[finite].abs()
    return not len(size) or bool(difference.max() <= tolerance * size.max())
