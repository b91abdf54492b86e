"""LoRA (Hu et al. 2021, arXiv:2106.09685): a small adapter over a model that stays as it is.

The adapted model is a second tree of modules over the very same weights: no memory for a second
copy, and nothing to switch off where the model itself is wanted, such as for the reference.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Linear

from dpo_bench.errors import ConfigurationError, EnvironmentProblem
from dpo_bench.model.activation_checkpointing import decoder_layers
from dpo_bench.model.files import ADAPTER_WEIGHTS
from dpo_bench.model.reach import names_within, shortened, unreached_modules
from dpo_bench.model.sharded import copy_into

if TYPE_CHECKING:
    from pathlib import Path

    from dpo_bench.experiment.config import LoRA
    from dpo_bench.model.logprob_backends import LogprobBackend

log = logging.getLogger(__name__)

ALL_LINEAR = "all-linear"
ALL_LAYERS = "all"
ADAPTER = "default"
"""What peft calls the only adapter of a model."""


def require_peft() -> None:
    """See that peft is there, without importing it.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise EnvironmentProblem(
            "LoRA (training.lora, or a folder with an adapter) needs the peft package: "
            "pip install 'dpo_bench[peft]'"
        )


def with_adapter(base: LogprobBackend, settings: LoRA, address: str) -> LogprobBackend:
    """The same path to a model that shares all weights of the base and has an adapter besides.

    Only the adapter can be trained; it adds exactly nothing until it is. The base is frozen, and
    goes on being used by itself. Of a model that also sees or hears, the layers that texts reach
    are adapted.

    Args:
        base: a model with its kernel path.
        settings: size and places of the adapter.
        address: what whoever loads the adapter later is to load its base by; see `ModelFolder`.

    Raises:
        ConfigurationError: the model has no such layers, or an adapter cannot be put there.
        EnvironmentProblem: peft is not installed.
    """
    require_peft()
    others = unreached_modules(base.model)
    odd = list(_not_quite_linear(base.model))
    base.model.requires_grad_(requires_grad=False)
    adapted = copy.copy(base)
    adapted.compiled = adapted.lower = None
    adapted.masters = None  # of its own weights there are none yet
    adapted.model = _second_tree(base.model)
    try:
        with warnings.catch_warnings():
            # Of GPT-2's transposed weights, which it handles, and of embeddings, refused below.
            warnings.simplefilter("ignore")
            peft: Any = importlib.import_module("peft")
            configuration = _configuration(settings, address, base.model, [*others, *odd])
            peft.inject_adapter_in_model(configuration, adapted.model, ADAPTER)
    except ValueError as error:
        raise _misplaced(base.model, settings, " ".join(str(error).split())) from error
    _require_all_in_place(adapted.model, settings)
    layers = {id(layer) for layer in _adapted_layers(adapted.model)}
    names = {
        name.rpartition(".")[2]
        for name, module in adapted.model.named_modules()
        if id(module) in layers
    }
    log.info("the adapter covers %d layers: %s", len(layers), ", ".join(sorted(names)))
    if others:
        log.info("no text reaches %s: there is no adapter there", shortened(others))
    return adapted


def frozen_below(model: Any, wanted: str) -> int:
    """How many decoder layers lie below those that are adapted; 0 where all are.

    Args:
        model: a causal language model.
        wanted: ``all``, ``top:N``, or ``top:SHARE``, which is rounded up to whole layers.

    Raises:
        ConfigurationError: the model has no layers that can be found, or not so many.
    """
    if wanted == ALL_LAYERS:
        return 0
    layers, amount = len(decoder_layers(model)), wanted.partition(":")[2]
    name = type(model).__name__
    if not layers:
        raise ConfigurationError(
            f"training.lora.layers = {wanted}: the decoder layers of {name} cannot be found; set it"
            f" to {ALL_LAYERS}, or choose layers by a regular expression in target_modules."
        )
    adapted = math.ceil(Fraction(amount) * layers) if "." in amount else int(amount)
    if adapted > layers:
        raise ConfigurationError(
            f"training.lora.layers = {wanted}: {name} has {layers} decoder layers; give top:N with "
            f"N up to {layers}."
        )
    return layers - adapted


def reset_adapter(model: Any, seed: int) -> None:
    """Put an adapter back to its start: A uniform in +- 1 / sqrt(inputs), B zero.

    A is drawn on the CPU from a generator of its own: it depends on the seed and the shapes of the
    layers, on no device and on nothing that was trained before.

    Args:
        model: from `with_adapter`.
        seed: the trial's.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in _adapted_layers(model):
            down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            bound = 1 / math.sqrt(down.shape[1])
            drawn = torch.empty(down.shape).uniform_(-bound, bound, generator=generator)
            copy_into(down, drawn)
            up.zero_()


def save_adapter(model: Any, folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write an adapter, and nothing of its base, as peft does: for whoever loads it with peft.

    Args:
        model: from `with_adapter`.
        folder: is made if need be.
        state: the model's, whole.
    """
    configuration = copy.copy(model.peft_config[ADAPTER])
    if not isinstance(configuration.target_modules, str):
        configuration.target_modules = sorted(configuration.target_modules)  # a set has no order
    weights = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": value.contiguous()
        for name, value in state.items()
        if ".lora_" in name
    }
    configuration.save_pretrained(folder)
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def _second_tree(model: Any) -> Any:
    """A copy of a model's modules that holds the model's own parameters and buffers."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _configuration(settings: LoRA, address: str, model: Any, left_out: list[str]) -> Any:
    """For peft; without dropout: in no pass of this program is anything random."""
    peft: Any = importlib.import_module("peft")
    modules, excluded = settings.target_modules, names_within(left_out)
    if settings.layers != ALL_LAYERS:
        # peft's own layers_to_transform counts layers by the first number in a module's path, and
        # is refused beside "all-linear" and patterns. A list of whole names means the same.
        modules = _in_upper_layers(settings, model, excluded)
    elif modules == ALL_LINEAR and excluded:
        # Of "all-linear" peft makes a few ends of names, and of a Sequential in a tower that may be
        # "0", as it is of the text's first layer.
        modules = tuple(_linear_modules(model, excluded))
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=address,
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=settings.rslora,
        target_modules=modules if isinstance(modules, str) else list(modules),
        exclude_modules=excluded,
        lora_dropout=0.0,
        bias="none",
    )


def _linear_modules(model: Any, excluded: str | None) -> Iterator[str]:
    """Names of what "all-linear" means."""
    for name, module in model.named_modules():
        is_linear = isinstance(module, Linear) or type(module).__name__ == "Conv1D"
        is_left_out = excluded is not None and re.fullmatch(excluded, name)
        if is_linear and module is not model.get_output_embeddings() and not is_left_out:
            yield name


def _in_upper_layers(settings: LoRA, model: Any, excluded: str | None) -> tuple[str, ...]:
    """Names of the wanted modules in the uppermost layers.

    Raises:
        ConfigurationError: there are none, or modules are named that are in no decoder layer.
    """
    below, layers = frozen_below(model, settings.layers), decoder_layers(model)
    named, modules = settings.target_modules, dict(model.named_modules())
    found = [name for name in modules if _is_named(name, named)]
    if named == ALL_LINEAR:
        found = list(_linear_modules(model, excluded))
    upper, lower = (
        {id(one) for layer in part for one in layer.modules()}
        for part in (layers[below:], layers[:below])
    )
    outside = [name for name in found if id(modules[name]) not in upper | lower]
    if outside and named != ALL_LINEAR:
        raise _misplaced(
            model,
            settings,
            f"layers = {settings.layers} adapts modules within decoder layers, and "
            f"{shortened(outside)} lie outside.",
        )
    if upper & lower:
        raise _misplaced(model, settings, "its layers share modules: only layers = all fits.")
    adapted = tuple(name for name in found if id(modules[name]) in upper)
    if not adapted:
        raise _misplaced(model, settings, f"nothing of that lies in layers = {settings.layers}.")
    return adapted


def _is_named(name: str, named: str | tuple[str, ...]) -> bool:
    """Whether peft takes a module's name for one of these, or for what a pattern says."""
    if isinstance(named, str):
        return re.fullmatch(named, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in named)


def _not_quite_linear(model: Any) -> Iterator[str]:
    """Names of layers that peft takes for linear and that give something else, such as routers."""
    for name, module in model.named_modules():
        if isinstance(module, Linear) and type(module).forward is not Linear.forward:
            inputs = module.weight.new_ones(2, module.in_features)
            with torch.no_grad():
                expected = Linear.forward(module, inputs)
                try:
                    found = module(inputs)
                except (IndexError, TypeError, ValueError, RuntimeError):
                    found = None
            same = isinstance(found, Tensor) and found.shape == expected.shape
            if not same or not torch.allclose(found, expected, rtol=1e-4, atol=1e-6):
                yield name


def _adapted_layers(model: Any) -> Iterator[Any]:
    """The layers with an adapter, in the order of the model."""
    layer: Any = importlib.import_module("peft.tuners.lora").LoraLayer
    return (module for module in model.modules() if isinstance(module, layer))


def _require_all_in_place(model: Any, settings: LoRA) -> None:
    """Refuse names that meant nothing, and embeddings.

    An output embedding is used by itself, and tied to the input's in many models.
    """
    layers = list(_adapted_layers(model))
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if any(layer is end or not layer.lora_A for layer in layers for end in ends):
        raise _misplaced(
            model, settings, "embeddings are not adapted, only the layers between them"
        )
    if isinstance(settings.target_modules, str):
        return
    paths = [f".{name}" for name, module in model.named_modules() if module in layers]
    for name in settings.target_modules:
        if not any(path.endswith(f".{name}") for path in paths):
            raise _misplaced(model, settings, f"it has no linear layer called {name}")


def _misplaced(model: Any, settings: LoRA, reason: str) -> ConfigurationError:
    names = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if type(module).__name__ in {"Linear", "Conv1D"}
        and module is not model.get_output_embeddings()
    } - {ADAPTER, "base_layer"}
    advice = "some of " if settings.target_modules == ALL_LINEAR else f"{ALL_LINEAR}, or some of "
    return ConfigurationError(
        f"training.lora.target_modules does not fit {type(model).__name__}: "
        f"{textwrap.shorten(reason, 200, placeholder=' ...')} "
        f"Give {advice}{', '.join(sorted(names))}."
    )
