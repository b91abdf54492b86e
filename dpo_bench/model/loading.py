"""What every way of loading from transformers does: silence, and no trace of how it was loaded."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def silent_transformers() -> Iterator[None]:
    """No bars and no advice from transformers: what matters is checked and raised."""
    voice: Any = importlib.import_module("transformers.utils.logging")
    verbosity, bars = voice.get_verbosity(), voice.is_progress_bar_enabled()
    voice.set_verbosity_error()
    voice.disable_progress_bar()
    try:
        yield
    finally:
        voice.set_verbosity(verbosity)
        if bars:
            voice.enable_progress_bar()


def forget_how_it_was_loaded(tokenizer: Any) -> None:
    """Keep an option of loading out of what saving the tokenizer writes."""
    tokenizer.init_kwargs.pop("local_files_only", None)
