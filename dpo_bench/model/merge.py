"""Adapters as peft saves them, merged once into their base model and kept by content.

What comes of it is a folder like any other, to be trained, measured or taken as the reference.
"""

from __future__ import annotations

import importlib
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpo_bench.cache import kept
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.files import (
    ADAPTER_CONFIGURATION,
    ADAPTER_WEIGHTS,
    remembered_digest,
    tokenizer_files,
)
from dpo_bench.model.lora import require_peft
from dpo_bench.storage import digest

if TYPE_CHECKING:
    from dpo_bench.model.files import ModelFolder

MERGER = 1
"""Raised when the same adapter would be merged to something else."""


def merged_folder(adapter: Path, base: ModelFolder, *, trust_remote_code: bool = False) -> Path:
    """The folder in transformers' format of a base model with an adapter merged into it, in fp32.

    Made when the cache lacks it. The tokenizer is the adapter's own where it has one.

    Args:
        adapter: a folder that peft wrote.
        base: the model that it was trained over.
        trust_remote_code: let the base model bring code of its own.

    Raises:
        EnvironmentProblem: peft is missing, or the adapter does not fit its base.
    """
    own = [adapter / ADAPTER_CONFIGURATION, adapter / ADAPTER_WEIGHTS, *tokenizer_files(adapter)]
    key = digest(
        {
            "base": base.digest,
            "adapter": {file.name: remembered_digest(file) for file in own},
            "merger": MERGER,
        }
    )

    def fill(folder: Path) -> None:
        require_peft()
        _merge(adapter, base.path, folder, trust_remote_code)

    return kept("merged", key, fill).folder


def _merge(adapter: Path, base: Path, folder: Path, trust_remote_code: bool) -> None:
    from dpo_bench.model.load import load_model, load_tokenizer
    from dpo_bench.model.loading import silent_transformers

    peft: Any = importlib.import_module("peft")
    model = load_model(base, trust_remote_code=trust_remote_code)
    try:
        with warnings.catch_warnings():
            # peft asks a model for what transformers now calls by another name.
            warnings.simplefilter("ignore", FutureWarning)
            adapted = peft.PeftModel.from_pretrained(model, adapter, local_files_only=True)
        merged = adapted.merge_and_unload()
    except Exception as error:  # whatever does not fit, peft or torch stumbles over in its own way
        reason = " ".join(str(error).split())[:200]
        raise EnvironmentProblem(
            f"{adapter} cannot be merged into its base model {base}: "
            f"{type(error).__name__}: {reason}"
        ) from error
    with silent_transformers():
        merged.save_pretrained(folder)
    own = tokenizer_files(adapter)
    for file in own:
        shutil.copyfile(file, folder / file.name)
    if not own:
        load_tokenizer(base, trust_remote_code=trust_remote_code).save_pretrained(folder)
