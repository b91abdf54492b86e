"""What every worker needs, imported once by the server from which the workers are forked.

Importing must not ask for a GPU: CUDA does not survive a fork.
"""

import atexit
import gc
import os

import transformers.modeling_utils
import transformers.models.auto.modeling_auto
import transformers.tokenization_utils_tokenizers

import dpo_bench.sweep.context

__all__ = ["dpo_bench", "transformers"]

# Nothing imported is garbage: workers leave these pages shared.
gc.freeze()

SERVER = os.getpid()


def _end() -> None:
    """End the server at once: what it imported is not worth being taken apart."""
    if os.getpid() == SERVER:
        os._exit(0)


atexit.register(_end)
