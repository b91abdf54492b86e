"""GGUF files, converted once to safetensors and kept by content.

transformers reads GGUF, slowly, and cannot save what it read; after the conversion such a model is
a folder like any other.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dpo_bench.cache import kept
from dpo_bench.disk import disk_problem
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.files import remembered_digest
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import cache_root, digest

CONVERTER = 1
"""Raised when the same file would be converted to something else."""
MAGIC = b"GGUF"
NEEDED = ("gguf", "accelerate")
PHASE = "converting the model"
STEPS = 100

DIGIT_BY_DIGIT = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)
"""Values of ``tokenizer.ggml.pre`` whose text is cut at every digit before the usual byte-level
splitting (llama.cpp, src/llama-vocab.cpp). transformers 5.23 leaves that out, and then tokenizes
the blanks before a number otherwise than the model was trained."""


def converted_folder(file: Path, progress: Progress = quiet) -> Path:
    """The folder in transformers' format that a GGUF file converts to.

    Made when the cache lacks it. Quantized weights become fp32 numbers of the same value.

    Args:
        file: a GGUF file of an architecture that transformers reads.
        progress: told how far the conversion is.

    Raises:
        EnvironmentProblem: a package is missing, or the file cannot be read.
    """
    with file.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            raise EnvironmentProblem(f"{file} is no GGUF file: it does not begin with GGUF.")
    key = digest({"gguf": remembered_digest(file), "converter": CONVERTER})

    def fill(folder: Path) -> None:
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise EnvironmentProblem(
                f"{file.name} needs {' and '.join(missing)} to be converted: "
                "pip install 'dpo_bench[smollm2]'"
            )
        try:
            _convert(file.resolve(), folder, progress)
        except Exception as error:  # a damaged or unsupported file fails in any part of the reader
            if problem := disk_problem(folder, error, cache_root()):
                raise problem from error
            reason = (str(error).strip().splitlines() or [""])[0]
            raise EnvironmentProblem(
                f"{file} cannot be converted: {type(error).__name__}: {reason}"
            ) from error

    return kept("converted", key, fill).folder


def _convert(file: Path, folder: Path, progress: Progress) -> None:
    import torch
    import transformers

    from dpo_bench.model.loading import silent_transformers

    factory: Any = transformers.AutoModelForCausalLM
    progress(PHASE, 0, STEPS)
    with silent_transformers(), _progress_of_reader(progress):
        tokenizer = _tokenizer(file)
        progress(PHASE, STEPS // 4, STEPS)
        read = factory.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
        )
        # What was read cannot save itself: it believes that it is still quantized.
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with torch.device("meta"):  # no memory and no random numbers for weights to be replaced
            model = factory.from_config(config, dtype=torch.float32)
        model.load_state_dict(read.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = read.generation_config
        del read
        progress(PHASE, STEPS - 5, STEPS)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    progress(PHASE, STEPS, STEPS)


def _tokenizer(file: Path) -> Any:
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    from dpo_bench.model.loading import forget_how_it_was_loaded

    tokenizer: Any = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )
    forget_how_it_was_loaded(tokenizer)
    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in DIGIT_BY_DIGIT:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    return tokenizer


@contextlib.contextmanager
def _progress_of_reader(progress: Progress) -> Iterator[None]:
    """Take the place of the bar that transformers' reader draws over ours."""
    reader: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")

    def counted(items: Iterable[Any], **_options: Any) -> Iterator[Any]:
        listed = list(items)
        for index, item in enumerate(listed):
            progress(PHASE, STEPS // 2 + (STEPS // 2 - 10) * index // len(listed), STEPS)
            yield item

    bar = getattr(reader, "tqdm", None)
    reader.tqdm = counted
    try:
        yield
    finally:
        reader.tqdm = bar
