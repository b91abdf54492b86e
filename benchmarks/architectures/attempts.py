"""Which models are tried, and one attempt at one of them."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.architectures.checks import Outcome, check
from benchmarks.architectures.models import LONGEST, VARIANTS, save_model, write_pairs

SECONDS_EACH = 60
"""For one model; some have kernels whose replacement on a CPU takes far longer."""
MATRIX = (
    *("llama", "qwen3", "gemma3_text", "phi3", "mistral", "gpt2", "opt", "gpt_neox", "bloom"),
    *("mamba", "lfm2", "rwkv"),
)
"""Architectures that are tried in every combination."""


def every_kind() -> list[str]:
    """Every ``model_type`` that transformers lets continue texts, and variants.

    Those that see or hear besides are among them.
    """
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    )

    kinds = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES}
    return [*sorted(kinds), *VARIANTS]


class Attempt(NamedTuple):
    """One model to try.

    Attributes:
        label: what to call it.
        kind: a ``model_type`` of transformers, or a variant.
        chat: whether the pairs are chats.
        lora: whether an adapter is trained.
        settings: further ones of the configuration.
    """

    label: str
    kind: str
    chat: bool = False
    lora: bool = False
    settings: tuple[tuple[str, Any], ...] = ()


def zoo(names: Sequence[str]) -> list[Attempt]:
    """Each architecture once, on plain pairs, all weights trained."""
    return [Attempt(name, name) for name in names]


def matrix(names: Sequence[str]) -> list[Attempt]:
    """Some architectures on plain and chat data, tied and untied, whole and by an adapter."""
    return [
        Attempt(
            f"{name}, {'chat' if chat else 'plain'}, {'tied' if tied else 'untied'}, "
            f"{'LoRA' if lora else 'full'}",
            name,
            chat,
            lora,
            (("tie_word_embeddings", tied),),
        )
        for name in names
        for chat in (False, True)
        for tied in (False, True)
        for lora in (False, True)
    ]


def attempt(one: Attempt) -> Outcome:
    """Make one model and check it; what cannot be made tiny, or takes too long, is said."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        signal.alarm(SECONDS_EACH)
        try:
            save_model(work / "model", one.kind, **dict(one.settings))
            write_pairs(work / "pairs.jsonl", chat=one.chat, longest=LONGEST)
            return check(one.label, work / "model", work / "pairs.jsonl", work, lora=one.lora)
        except TooSlowError:
            return Outcome(one.label, refused=f"not made here (over {SECONDS_EACH} s)")
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            return Outcome(one.label, refused=f"not made here ({reason})")
        finally:
            signal.alarm(0)


class TooSlowError(BaseException):
    """An attempt took too long; nothing takes it for a failure of the program."""


def _too_slow(_signal: int, _frame: object) -> None:
    raise TooSlowError


def prepare(cache: str) -> None:
    """What each process of the pool begins with."""
    signal.signal(signal.SIGALRM, _too_slow)
    os.environ["DPO_BENCH_CACHE"] = cache
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
