"""What a text reaches of a model that also sees or hears.

Such a model is trained on texts alone. Its towers for images and sounds, and layers that read what
these give, get no gradient; here they are found, whatever they are called, by walking back from
the logits of a text to the weights that took part.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.choose_backend import probe_ids

log = logging.getLogger(__name__)


def freeze_unreached(model: Any) -> None:
    """Freeze the parameters that no text reaches, where a model has other inputs besides.

    What is frozen is neither decayed nor kept in checkpoints, and is saved as it was loaded.

    Args:
        model: of transformers, on its device, in eval mode.

    Raises:
        EnvironmentProblem: the model cannot read a text by itself.
    """
    if not _has_other_inputs(model):
        return
    reached = _reached(model)
    frozen = [one for one in model.parameters() if id(one) not in reached]
    for parameter in frozen:
        parameter.requires_grad_(requires_grad=False)
    if frozen:
        log.info(
            "%s is trained on texts alone: they reach %s of its %s parameters, and the others "
            "(%s) stay as they are",
            type(model).__name__,
            f"{sum(one.numel() for one in model.parameters() if id(one) in reached):,}",
            f"{sum(one.numel() for one in model.parameters()):,}",
            shortened(list(_without(model, "", reached))),
        )


def unreached_modules(model: Any) -> list[str]:
    """Names of the largest modules that have parameters of which no text reaches any."""
    return list(_without(model, "", _reached(model))) if _has_other_inputs(model) else []


def parameters_of_text(model: Any) -> int:
    """How many of a model's parameters its texts pass through, as its code parts them.

    Also of a skeleton, which cannot be run; layers within the text's model that read images count.
    """
    if not _has_other_inputs(model):
        return int(model.num_parameters())
    parts = (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
    counted = {
        id(one): one.numel() for part in parts if part is not None for one in part.parameters()
    }
    return sum(counted.values())


def names_within(modules: Collection[str]) -> str | None:
    """A pattern of the names of modules and of all inside them; None where there are none."""
    return rf"(?:{'|'.join(map(re.escape, modules))})(?:\..*)?" if modules else None


def shortened(names: Sequence[str], most: int = 4) -> str:
    """The first of some names, for a message."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def _has_other_inputs(model: Any) -> bool:
    """Whether a model of transformers' own code may have more inputs than text.

    In code that comes with a model, experts may be modules that one text reaches and another does
    not; transformers' own hold all experts of a layer in one parameter.
    """
    own = type(model).__module__.startswith("transformers.")
    return own and bool(getattr(model.config, "sub_configs", None))


def _without(module: Any, name: str, reached: set[int]) -> Iterator[str]:
    parameters = [id(parameter) for parameter in module.parameters()]
    if parameters and not reached.intersection(parameters):
        yield name
        return
    for child, inner in module.named_children():
        yield from _without(inner, f"{name}.{child}" if name else child, reached)


def _reached(model: Any) -> set[int]:
    """The parameters (by ``id``) that the logits of a text are made of."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(requires_grad=True)
        with torch.enable_grad():
            logits = model(input_ids=probe_ids(model), use_cache=False).logits
    except (
        AssertionError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise EnvironmentProblem(
            f"{type(model).__name__} cannot read a text by itself ({reason}): give a model that "
            "continues texts also without an image or a sound."
        ) from error
    finally:
        for parameter, wanted in before:
            parameter.requires_grad_(wanted)
    return {id(leaf) for leaf in _leaves(logits.grad_fn)}


def _leaves(node: Any) -> Iterator[Tensor]:
    """The leaves of a graph of autograd; no gradient is computed."""
    seen, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [earlier for earlier, _ in node.next_functions]
