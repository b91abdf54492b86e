"""Models on the Hugging Face hub."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dpo_bench.errors import DpoBenchError, EnvironmentProblem
from dpo_bench.model.files import (
    ADAPTER_CONFIGURATION,
    ADAPTER_WEIGHTS,
    CODE,
    CONFIGURATION,
    PROCESSOR,
    TOKENIZER,
)
from dpo_bench.progress import Progress, quiet

SAFETENSORS = (
    *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    ADAPTER_WEIGHTS,
)
PICKLED = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")


def download(
    identifier: str, *, trust_remote_code: bool = False, progress: Progress = quiet
) -> Path:
    """The local copy of a hub model: its configurations, tokenizer and weights, nothing else.

    Pickled weights are fetched only when the model has no safetensors. What is in the local copy
    already is not fetched again; without a network the local copy is used as it is.

    Args:
        identifier: ``owner/name``.
        trust_remote_code: also fetch the model's own code.
        progress: told the bytes that came.

    Raises:
        EnvironmentProblem: the hub has no such model, or cannot be reached.
    """
    phase = f"downloading {identifier}"
    bar = _bar_class(phase, progress)
    progress(phase, 0, 1)
    configuration = (*CONFIGURATION, ADAPTER_CONFIGURATION)
    patterns = (*configuration, *TOKENIZER, *PROCESSOR, *(CODE if trust_remote_code else ()))
    folder = _fetch(identifier, (*patterns, *SAFETENSORS), bar)
    if not any(list(folder.glob(pattern)) for pattern in SAFETENSORS):
        folder = _fetch(identifier, (*patterns, *PICKLED), bar)
    progress(phase, 1, 1)
    return folder


def _bar_class(phase: str, progress: Progress) -> type:
    """A bar for the hub's client that tells its bytes to ``progress`` and draws nothing."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    done = total = 0

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "file": io.StringIO()})

        def display(self, *_arguments: Any, **_options: Any) -> None:
            nonlocal done, total
            # Several bars count the same bytes, and the files: the one ahead speaks.
            if self.unit == "B" and self.total and self.n > done:
                done, total = int(self.n), max(total, int(self.total))
                progress(phase, done, total)

    return Bar


def _fetch(identifier: str, patterns: Iterable[str], bar: type) -> Path:
    import huggingface_hub

    try:
        # A pattern's * also matches a slash: keep to the top, where the model itself is.
        folder = huggingface_hub.snapshot_download(
            identifier,
            allow_patterns=list(patterns),
            ignore_patterns=["*/*"],
            tqdm_class=bar,
        )
        return Path(folder)
    except Exception as error:  # the client, its network library and the disk each have their own
        raise _explained(identifier, error) from error


def _explained(identifier: str, error: Exception) -> DpoBenchError:
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    local = "To use a copy of your own, give the path of its folder."
    if isinstance(error, GatedRepoError):
        return EnvironmentProblem(
            f"{identifier} is gated: accept its terms on its page on the hub, then log in with "
            f"`hf auth login`. {local}"
        )
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return EnvironmentProblem(
            f"{identifier} is no folder here and no model on the hub that you may read (private "
            f"ones need `hf auth login`). {local}"
        )
    if isinstance(error, PermissionError) or getattr(error, "errno", None) is not None:
        return EnvironmentProblem(f"{identifier} cannot be downloaded: {_first_line(error)}")
    return EnvironmentProblem(
        f"{identifier} is no folder here, and the hub cannot be reached ({_first_line(error)}). "
        f"{local}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
