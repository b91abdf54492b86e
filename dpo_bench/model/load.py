"""Loading a model and its tokenizer, in the one state that all measurements share.

fp32 master weights, no dropout, no cache of keys and values, everything from the local folder.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dpo_bench.errors import ConfigurationError, DpoBenchError, EnvironmentProblem
from dpo_bench.model.files import (
    LEGACY_TEMPLATE,
    ModelFolder,
    model_files,
    read_json,
    tensor_count,
)
from dpo_bench.model.loading import forget_how_it_was_loaded, silent_transformers
from dpo_bench.model.reach import freeze_unreached

log = logging.getLogger(__name__)


def device_of(name: str) -> str:
    """The device that a setting means: ``cpu`` or ``cuda``.

    Args:
        name: ``auto``, ``cpu`` or ``cuda``; auto is cuda when there is one.

    Raises:
        EnvironmentProblem: cuda is asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise EnvironmentProblem(
            "training.device is cuda, but torch finds no GPU: use cpu or auto, or install a build "
            "of torch for your GPU's driver."
        )
    return name


def precision_of(name: str, device: str) -> str:
    """The precision that a setting means on a device: ``fp32`` or ``bf16``.

    Args:
        name: ``auto``, ``fp32`` or ``bf16``; auto is bf16 on a GPU that has it, else fp32.
        device: ``cpu`` or ``cuda``.
    """
    if name != "auto":
        return name
    return "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"


def load_model(
    folder: ModelFolder | Path,
    device: str | torch.device = "cpu",
    *,
    trust_remote_code: bool = False,
) -> Any:
    """A causal language model with its weights in fp32, in eval mode, ready for training.

    All dropout probabilities are zero, so that training mode would change nothing either. Attention
    is torch's scaled_dot_product_attention where the architecture has it. Of a model that also sees
    or hears, what no text reaches is frozen (`dpo_bench.model.reach`).

    Args:
        folder: a folder in transformers' format.
        device: where to put the model.
        trust_remote_code: let the model bring code of its own.

    Returns:
        A ``PreTrainedModel`` of transformers.

    Raises:
        ConfigurationError: the model needs code of its own and that is not allowed.
        EnvironmentProblem: the folder does not hold a whole causal language model.
    """
    path = _path(folder)
    files = model_files(path, trust_remote_code=trust_remote_code)
    _require_full_precision(path)
    _require_decoder(path)
    try:
        with silent_transformers():
            model, info = _from_pretrained(path, files.pickled, trust_remote_code)
    except DpoBenchError:
        raise
    except Exception as error:  # whatever a folder's content makes transformers stumble over
        raise _explained(path, error) from error
    _require_complete(path, model, info)
    model.to(device).eval()
    freeze_unreached(model)
    return model


def skeleton(folder: ModelFolder | Path, *, trust_remote_code: bool = False) -> Any:
    """A model without weights: its modules and their shapes, on the meta device.

    Raises:
        ConfigurationError: the model needs code of its own and that is not allowed.
        EnvironmentProblem: the folder does not hold a causal language model.
    """
    path = _path(folder)
    _require_full_precision(path)
    _require_decoder(path)
    try:
        with silent_transformers(), torch.device("meta"):
            config = _configuration(path, trust_remote_code)
            build = model_class(config)
            return build.from_config(config, trust_remote_code=trust_remote_code)
    except DpoBenchError:
        raise
    except Exception as error:
        raise _explained(path, error) from error


def load_tokenizer(folder: ModelFolder | Path, *, trust_remote_code: bool = False) -> Any:
    """A folder's tokenizer, a ``PreTrainedTokenizerBase`` of transformers.

    Raises:
        ConfigurationError: the tokenizer needs code of its own and that is not allowed.
        EnvironmentProblem: the folder holds no tokenizer that can be loaded.
    """
    from transformers import AutoTokenizer

    path = _path(folder)
    try:
        with silent_transformers():
            tokenizer: Any = AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=trust_remote_code
            )
    except Exception as error:
        raise _explained(path, error) from error
    forget_how_it_was_loaded(tokenizer)
    if not tokenizer.chat_template and (path / LEGACY_TEMPLATE).is_file():
        # Models with images kept it in a file of their own, which a tokenizer does not read.
        tokenizer.chat_template = read_json(path / LEGACY_TEMPLATE).get("chat_template")
    return tokenizer


def _path(folder: ModelFolder | Path) -> Path:
    return folder if isinstance(folder, Path) else folder.path


def _from_pretrained(path: Path, pickled: bool, trust_remote_code: bool) -> tuple[Any, Any]:
    config = _configuration(path, trust_remote_code)
    _without_dropout(config)
    set_cache(config, used=False)
    loaded: Any = model_class(config).from_pretrained(
        path,
        config=config,
        dtype=torch.float32,
        attn_implementation=None,  # its best here, whatever its maker trained it with
        use_safetensors=not pickled,
        weights_only=True,
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    model, info = loaded
    return model, info


def model_class(config: Any) -> Any:
    """The class of transformers that a configuration's model is loaded by.

    Of a model with other inputs than text that is the class of its text alone (Llama 4, Qwen3.5)
    where transformers could load what that class saves, and else the one of the whole model.

    Args:
        config: a configuration of transformers, or of code that a model brings.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoModelForCausalLM,
        AutoModelForMultimodalLM,
    )
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING

    mapping: Any = MODEL_FOR_CAUSAL_LM_MAPPING
    kind = type(config)
    if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING and (
        kind not in mapping or mapping[kind].config_class not in mapping
    ):
        return AutoModelForMultimodalLM
    return AutoModelForCausalLM


def _configuration(path: Path, trust_remote_code: bool) -> Any:
    """A folder's configuration, of a model that is no encoder-decoder in any of its parts."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(
        path, local_files_only=True, trust_remote_code=trust_remote_code
    )
    # A configuration's file leaves out what its class says anyway.
    parts = (config, getattr(config, "text_config", None))
    if any(getattr(part, "is_encoder_decoder", False) for part in parts):
        raise _no_decoder(path, "an encoder-decoder", _saved_as(path))
    _require_layers(path, config)
    return config


def _require_layers(path: Path, config: Any) -> None:
    """Refuse more layers than the weights can have, which would be built one by one for hours."""
    layers, tensors = getattr(config.get_text_config(), "num_hidden_layers", 0), tensor_count(path)
    if isinstance(layers, int) and tensors is not None and layers > tensors:
        raise EnvironmentProblem(
            f"{path}: config.json says num_hidden_layers = {layers}, and the weights have {tensors}"
            " tensors in all: they do not belong together."
        )


def set_cache(config: Any, *, used: bool) -> None:
    """Say in a model's configuration whether a forward pass fills a cache of keys and values."""
    config.use_cache = used
    for part in _parts(config):
        if hasattr(part, "use_cache"):
            part.use_cache = used


def _without_dropout(config: Any) -> None:
    """Set every dropout probability of a configuration and its parts to zero."""
    for part in _parts(config):
        for name, value in list(vars(part).items()):
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)


def _parts(config: Any) -> Iterator[Any]:
    """A configuration and the ones inside it, of a text's model, a tower and the like."""
    yield config
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict"):
            yield from _parts(value)


def _require_full_precision(path: Path) -> None:
    quantization = read_json(path / "config.json").get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise EnvironmentProblem(
            f"{path} holds quantized weights ({method or 'unknown method'}), which cannot be "
            "trained: give the model's full-precision weights."
        )


def _require_decoder(path: Path) -> None:
    """Refuse what was saved as another kind of model than one that predicts the next token.

    Of BART and its kind transformers would take the decoder alone, of BERT's kind the masked model.
    """
    name = _saved_as(path)
    kinds = {
        "a masked language model": ("ForMaskedLM", "ForPreTraining"),
        "a classifier": ("ForSequenceClassification", "ForTokenClassification"),
    }
    found = [kind for kind, ends in kinds.items() if name.endswith(ends)]
    if read_json(path / "config.json").get("is_encoder_decoder"):
        found.insert(0, "an encoder-decoder")
    if found:
        raise _no_decoder(path, found[0], name)


def _saved_as(path: Path) -> str:
    """The class that a folder's model was saved from, or its type."""
    config = read_json(path / "config.json")
    saved = config.get("architectures")
    return str(saved[0]) if isinstance(saved, list) and saved else str(config.get("model_type"))


def _no_decoder(path: Path, kind: str, name: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{path} holds {kind} ({name}): give a model that predicts the next token (a decoder, "
        "...ForCausalLM)."
    )


def _require_complete(path: Path, model: Any, info: dict[str, Any]) -> None:
    """A weight that is missing would be random: that is not the user's model."""
    missing = sorted(info["missing_keys"])
    name = type(model).__name__
    if missing:
        raise EnvironmentProblem(
            f"{path} lacks {len(missing)} of the weights of {name}, such as {missing[0]}: it was "
            "saved from another kind of model, or not completely."
        )
    unused = sorted(info["unexpected_keys"])
    if unused:
        log.warning(
            "%s: %d of its weights are not used by %s, such as %s",
            path,
            len(unused),
            name,
            unused[0],
        )


def _explained(path: Path, error: Exception) -> DpoBenchError:
    text = " ".join(str(error).split())
    if "trust_remote_code" in text:
        return ConfigurationError(
            f"{path} brings code of its own: if you trust its maker, allow it with "
            "trust_remote_code = true (--set trust_remote_code=true)."
        )
    if "Unrecognized" in text or "does not recognize this architecture" in text:
        kind = read_json(path / "config.json").get("model_type", "an unknown architecture")
        return EnvironmentProblem(
            f"{path} is no causal language model that this version of transformers knows "
            f"(config.json: model_type {kind})."
        )
    return EnvironmentProblem(f"{path} cannot be loaded: {type(error).__name__}: {text[:300]}")
