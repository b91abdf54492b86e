"""How a model's log-probs are computed: one backend, for policy, reference and scoring alike.

A backend turns a batch into the states at the response positions, and states into logits. Every
difference between two models is taken between values that came the same way, so that a policy that
equals its reference has log-ratios of exactly zero.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import torch
from torch import Tensor
from torch.nn import Linear, Parameter

from dpo_bench.data.batches import Batch, Ids, pad_batch, pad_responses
from dpo_bench.data.packing import Pack, pack_pairs, pack_responses
from dpo_bench.model.host_memory import HostCopy
from dpo_bench.model.linear_head import HALVES, linear_logits, wide
from dpo_bench.model.packed_attention import Kernel, keeping_pack, packed_attention
from dpo_bench.model.ranks import ALONE

if TYPE_CHECKING:
    from dpo_bench.data.tokenized import TokenizedPairs
    from dpo_bench.model.lower_layers import LowerLayers
    from dpo_bench.model.master_weights import MasterWeights

Found = TypeVar("Found")
AnyBatch = Batch | Pack
Sampler = Literal["continuous", "batched", "equal", "uncached"]
CPU_TOKENS = (512, 2048)
CPU_WORK = 1 << 30
"""Parameters times tokens of a forward pass on a CPU: enough for its calls to cost little beside
its arithmetic; more would take memory and no less time."""
GPU_TOKENS = 16384
"""Tokens of a forward pass on a GPU; not measured."""


def suitable_tokens(device: str, parameters: int) -> int:
    """Tokens of a forward pass beyond which nothing becomes quicker.

    Args:
        device: ``cpu`` or ``cuda``.
        parameters: of the model.
    """
    if device != "cpu":
        return GPU_TOKENS
    least, most = CPU_TOKENS
    return min(most, max(least, CPU_WORK // parameters))


class LogprobBackend(ABC):
    """A model and the way its log-probs are computed.

    Attributes:
        model: a causal language model of transformers.
        precision: ``fp32``, or ``bf16``: the forward pass runs with weights in bf16, or under
            autocast where they are in fp32. Logits are in fp32 in either case.
        masks_padding: whether an attention mask hides the padding. Behind the last token it changes
            nothing in a causal model, and costs time.
        packs: whether batches are packed, each prompt in them once, rather than padded.
        sampler: how responses are sampled; see `dpo_bench.model.sampling`.
        most_tokens: tokens of a forward pass that were found to fit into memory; None: not limited.
        host: has the weights while they are not used, after `leave`; None: they stay.
        shared_vocabulary: how many tokens its distributions range over, the first ones, where it is
            compared with a model that has fewer; None: all.
        attention: how attention over packed texts is computed.
        compiled: opens the compiled forms of the model's layers, for packed passes; None: there are
            none.
        budget: most tokens of a forward pass where nothing else is asked for; 0: what suits the
            device.
        masters: what the optimizer changes in the place of weights in bf16; None where it changes
            the weights themselves.
        lower: has the hidden states behind the model's frozen lower layers, where passes over
            packed texts then begin; None: they begin at the tokens.
        ranks: the processes that hold the model together.
        enter: what a forward pass goes through where they divide its weights; see `run`.
    """

    kind: str

    def __init__(
        self,
        model: Any,
        precision: str = "fp32",
        *,
        masks_padding: bool = False,
        packs: bool = False,
        sampler: Sampler = "batched",
    ) -> None:
        self.model = model
        self.precision = precision
        self.masks_padding = masks_padding
        self.packs = packs
        self.sampler = sampler
        self.most_tokens: int | None = None
        self.shared_vocabulary: int | None = None
        self.budget = 0
        self.attention: Kernel = "buckets"
        self.compiled: Callable[[], contextlib.AbstractContextManager[None]] | None = None
        self.masters: MasterWeights | None = None
        self.lower: LowerLayers | None = None
        self.ranks = ALONE
        self.enter: Callable[..., Any] | None = None
        self.host: HostCopy | None = None

    @property
    def name(self) -> str:
        """Identifies the path: values of two paths agree only to rounding."""
        way = "/packed" if self.packs else "/masked" if self.masks_padding else ""
        shared = f"/first {self.shared_vocabulary}" if self.shared_vocabulary else ""
        return f"{self.kind}{way}{shared}"

    @property
    def numerics(self) -> str:
        """All that the bits of its values go with, besides weights, texts, device and precision."""
        found = [self.name]
        if self.precision == "bf16":
            found.append("weights in bf16" if self.is_narrow else "autocast")
        if self.packs and self.attention != "buckets":
            found.append(self.attention)
        if self.compiled is not None:
            found.append("compiled")
        if self.lower is not None:
            found.append(f"lower {self.lower.count} layers apart")
        if self.fills:
            found.append(f"{self.fixed_tokens} tokens")
        if self.device.type == "cuda":
            found.append(torch.cuda.get_device_name(self.device))
        return ", ".join(found)

    @property
    def is_narrow(self) -> bool:
        """Whether what is computed with is in bf16, whatever the weights are kept in."""
        divided = self.precision == "bf16" and not self.ranks.alone
        return divided or self.model.dtype in HALVES

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.host.device if self.host else self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the logits and log-probs: the weights' own, but fp32 where these are narrower."""
        return wide(self.model.dtype)

    @property
    def vocabulary(self) -> int:
        """Number of tokens that a distribution ranges over."""
        return self.shared_vocabulary or self.embedded

    @property
    def embedded(self) -> int:
        """Number of tokens that the model embeds."""
        return int(self.model.config.get_text_config().vocab_size)

    def autocast(self) -> torch.autocast:
        """The context in which the model's forward pass runs."""
        enabled = self.precision == "bf16" and not self.is_narrow
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def optimized(self) -> dict[str, Parameter]:
        """What an optimizer changes, or would if it were not frozen, by the parameter's name."""
        masters = {} if self.masters is None else self.masters.masters
        return {name: masters.get(name, one) for name, one in self.model.named_parameters()}

    @contextlib.contextmanager
    def full_precision(self) -> Iterator[None]:
        """While this is open the model holds its weights as the optimizer has them.

        To read or to overwrite them; nothing is computed meanwhile.
        """
        with contextlib.nullcontext() if self.masters is None else self.masters.in_place():
            yield

    def tokens_per_pass(self, wanted: int = 0) -> int:
        """Most tokens of a forward pass: as wanted, or what suits the device when that is 0.

        Never more than was found to fit.
        """
        found = wanted or self.budget
        if not found and self.fills and self.device.type == "cpu":
            found = CPU_TOKENS[0]
        found = found or suitable_tokens(self.device.type, int(self.model.num_parameters()))
        return min(found, self.most_tokens or found)

    def leave(self) -> None:
        """Let the model, which must not change any more, be on its device only while it is used."""
        self.host = HostCopy(self.model, self.device)
        self.enter = self.host.call

    def present(self) -> contextlib.AbstractContextManager[None]:
        """While this is open the model stays on its device, for several uses after each other."""
        return contextlib.nullcontext() if self.host is None else self.host.there()

    @property
    def fills(self) -> bool:
        """Whether every pass is filled up to the same number of tokens.

        In bf16 a matrix product is rounded in a way that goes with its size. Where all passes are
        of one size, a text's log-probs have the same bits whatever shares its pass, and a policy
        that equals its reference has log-ratios of exactly zero. In fp32 only last bits go with it
        (hidden states of width 576: up to 2e-5).
        """
        return self.packs and self.precision == "bf16"

    @property
    def fixed_tokens(self) -> int:
        """Number of tokens that every pass is filled up to; 0 where none is."""
        return self.tokens_per_pass() if self.fills else 0

    def batch(self, pairs: TokenizedPairs, indices: Sequence[int]) -> AnyBatch:
        """Pairs as this path reads them, on its device: the chosen responses, then the rejected."""
        if self.packs:
            pack = pack_pairs if self.lower is None else self.lower.pack
            return pack(pairs, indices, self.fixed_tokens).to(self.device)
        return pad_batch(pairs, indices).to(self.device)

    def response_batch(self, prompts: Sequence[Ids], responses: Sequence[Ids]) -> AnyBatch:
        """Prompts with their responses as this path reads them, on its device."""
        if self.packs:
            return pack_responses(prompts, responses, self.fixed_tokens).to(self.device)
        return pad_responses(prompts, responses).to(self.device)

    def run(self, function: Callable[..., Found], *arguments: Any) -> Found:
        """Call a function that uses the model's weights: all that do, pass through here.

        Where they are divided among ranks they are put together while it runs, which all ranks do
        at once (`dpo_bench.model.sharded`). One call covers states and logits, and calls are
        nested only for two different models.

        Args:
            function: gives a tensor or a tuple of tensors.
            arguments: handed to it as they are.
        """
        if self.enter is None:
            return function(*arguments)
        found: Found = self.enter(function, *arguments)
        return found

    @abstractmethod
    def states(self, batch: AnyBatch) -> Tensor:
        """What `logits` needs of each response position; shape [token, anything]."""

    def logits(self, states: Tensor) -> Tensor:
        """Logits that predict each response token, any slice of them; shape [token, vocabulary]."""
        logits = self._logits(states)
        return logits if self.shared_vocabulary is None else logits[:, : self.shared_vocabulary]

    @abstractmethod
    def _logits(self, states: Tensor) -> Tensor:
        """The same over all tokens that the model embeds."""

    def linear_head(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias, where `logits` is a linear map; [vocabulary, width] and [vocabulary]."""
        return None

    @property
    @abstractmethod
    def body(self) -> Any:
        """The part of the model that `last_states` calls."""

    def last_states(self, inputs: Mapping[str, Any], ends: Tensor | None = None) -> Tensor:
        """What `logits` needs to predict the token behind each row; shape [row, anything].

        So tokens are drawn from the logits that score them, at their precision.

        Args:
            inputs: of `body`.
            ends: the tokens behind which it is predicted, counted over all rows; shape [text];
                None: the last of each row.
        """
        return self.run(self._last_states, inputs, ends)

    @abstractmethod
    def _last_states(self, inputs: Mapping[str, Any], ends: Tensor | None) -> Tensor:
        """The same, where the weights are there."""

    def _kept(self, values: Tensor) -> Tensor:
        return values if self.compiled is None else keeping_pack(values)

    @contextlib.contextmanager
    def _inputs(self, batch: AnyBatch) -> Iterator[dict[str, Tensor]]:
        """What the model is given; while this is open it treats it as the batch needs."""
        if isinstance(batch, Pack):
            lower = (
                contextlib.nullcontext() if self.lower is None else self.lower.given(self, batch)
            )
            with lower, self.packed(batch):
                yield {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
        elif self.masks_padding:
            yield {"input_ids": batch.input_ids, "attention_mask": attention_mask(batch)}
        else:
            yield {"input_ids": batch.input_ids}

    @contextlib.contextmanager
    def packed(self, pack: Pack) -> Iterator[None]:
        """While this is open the model's layers treat the tokens they see as those of a pack."""
        compiled = contextlib.nullcontext() if self.compiled is None else self.compiled()
        with packed_attention(self.model, pack, self.attention), compiled:
            yield

    @contextlib.contextmanager
    def _precise_head(self) -> Iterator[None]:
        """While this is open the output embedding gives logits of `dtype`, out of autocast.

        Logits rounded to bf16 put a quarter of a nat and more of noise on a response of 300 tokens.
        """
        head = self.model.get_output_embeddings()
        if self.precision != "bf16" or head is None:
            yield
            return
        original = head.forward

        def forward(hidden: Tensor) -> Tensor:
            with torch.autocast(hidden.device.type, enabled=False):
                if is_linear(head) and head.weight.dtype in HALVES:
                    return linear_logits(hidden.to(head.weight.dtype), head.weight, head.bias)
                logits: Tensor = original(hidden.to(self.dtype))
            return logits

        with _forward_replaced(head, forward):
            yield


class HiddenStateBackend(LogprobBackend):
    """Base transformer, then the output embedding at the response positions only."""

    kind = "hidden"

    def states(self, batch: AnyBatch) -> Tensor:
        """Hidden states at the response positions; shape [token, width]."""
        with self.autocast(), self._inputs(batch) as inputs:
            hidden = self._kept(self.model.base_model(**inputs).last_hidden_state)
        return at_responses(hidden, batch)

    @property
    def body(self) -> Any:
        """The base transformer."""
        return self.model.base_model

    def _last_states(self, inputs: Mapping[str, Any], ends: Tensor | None) -> Tensor:
        """Hidden states at the last position; shape [row, width]."""
        with self.autocast():
            return at_ends(self.body(**inputs).last_hidden_state, ends)

    def _logits(self, states: Tensor) -> Tensor:
        """What the output embedding makes of hidden states; shape [token, vocabulary]."""
        with torch.autocast(self.device.type, enabled=False), self._precise_head():
            return self._head(states.to(self.dtype))

    def linear_head(self) -> tuple[Tensor, Tensor | None] | None:
        """The output embedding's, where that is a plain linear layer."""
        head = self.model.get_output_embeddings()
        if not is_linear(head):
            return None
        cut = slice(self.shared_vocabulary)
        return head.weight[cut], None if head.bias is None else head.bias[cut]

    def _head(self, states: Tensor) -> Tensor:
        logits: Tensor = self.model.get_output_embeddings()(states)
        return logits


class OwnHeadBackend(HiddenStateBackend):
    """The same for models that scale, cap or project: their own code makes the logits.

    It is called with a base that hands it the hidden states of the response positions.
    """

    kind = "own-head"

    def linear_head(self) -> None:
        """Not known to be linear."""
        return

    def _head(self, states: Tensor) -> Tensor:
        nothing = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        with self._base_giving(states):
            logits: Tensor = self.model(input_ids=nothing).logits[0]
        return logits

    @contextlib.contextmanager
    def _base_giving(self, states: Tensor) -> Iterator[None]:
        """While this is open the base transformer gives these states, whatever it is given."""
        base = self.model.base_model
        if base is self.model:
            raise AttributeError("the model is not parted into a base and a head")
        output = _OnlyStates(states[None])
        with _forward_replaced(base, lambda *_, **__: output):
            yield


class _OnlyStates(tuple[Tensor]):
    """Hidden states as a base transformer's output, of which nothing else is known."""

    __slots__ = ()

    def __new__(cls, states: Tensor) -> Self:
        return super().__new__(cls, (states,))

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, _name: str) -> None:
        """Caches, attentions, router logits ...: not there."""


class FullLogitsBackend(LogprobBackend):
    """The whole model at every position, for architectures whose head looks at more than states."""

    kind = "full"

    def states(self, batch: AnyBatch) -> Tensor:
        """Logits at the response positions; shape [token, vocabulary]."""
        with self.autocast(), self._precise_head(), self._inputs(batch) as inputs:
            logits = self._kept(self.model(**inputs).logits)
        return at_responses(logits, batch).to(self.dtype)

    @property
    def body(self) -> Any:
        """The model."""
        return self.model

    def _last_states(self, inputs: Mapping[str, Any], ends: Tensor | None) -> Tensor:
        """Logits at the last position; shape [row, vocabulary]."""
        with self.autocast(), self._precise_head():
            logits = at_ends(self.model(**inputs).logits, ends)
        return logits.to(self.dtype)

    def _logits(self, states: Tensor) -> Tensor:
        """The states themselves."""
        return states


def is_linear(head: Any) -> bool:
    """Whether an output embedding is a plain linear layer.

    A weight that is wrapped (sharded, quantized) is multiplied by its module's own code.
    """
    return type(head) is Linear and type(head.weight) is Parameter


@contextlib.contextmanager
def _forward_replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """While this is open a module's forward is another, and then what it was."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def common_path(first: LogprobBackend, second: LogprobBackend) -> LogprobBackend:
    """The one of two paths whose batches both can read: any model reads padded ones."""
    return first if second.packs else second


def at_responses(values: Tensor, batch: AnyBatch) -> Tensor:
    """The entries that predict the response tokens: [row, longest, ...] -> [token, ...]."""
    if isinstance(batch, Pack):
        return values[0].index_select(0, batch.state)
    index = batch.row * batch.input_ids.shape[1] + batch.position
    return values.flatten(0, 1).index_select(0, index)


def at_ends(values: Tensor, ends: Tensor | None) -> Tensor:
    """Entries at tokens counted over all rows, or at each row's last; see `last_states`."""
    return values[:, -1] if ends is None else values.flatten(0, 1).index_select(0, ends)


def attention_mask(batch: Batch) -> Tensor:
    """1 up to the position that predicts a row's last response token, 0 behind it.

    Shape [row, longest]. What stands behind can influence nothing that is asked for.
    """
    rows, longest = batch.input_ids.shape
    last = batch.position.new_zeros(rows).scatter_reduce(0, batch.row, batch.position, "amax")
    positions = torch.arange(longest, device=batch.input_ids.device)
    return (positions <= last[:, None]).long()
