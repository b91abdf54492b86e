"""Which files make a model, and what identifies their content."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_bench.errors import DamagedError, EnvironmentProblem, StorageError
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import cache_root, digest, file_digest, read_record, write_record

CONFIGURATION = ("config.json", "generation_config.json")
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece*.model",
    "*.tiktoken",
)
LEGACY_TEMPLATE = "chat_template.json"
TOKENIZER = (
    *VOCABULARIES,
    "tokenizer_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    LEGACY_TEMPLATE,
)
PROCESSOR = ("*processor_config.json",)
"""How images and sounds become inputs; says nothing about texts."""
SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
CODE = ("*.py",)
ADAPTER_CONFIGURATION, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What peft saves an adapter as."""

WORTH_REMEMBERING = 8 << 20
"""Bytes from which a file's digest is kept: smaller files are hashed faster than looked up."""
SETTLED_SECONDS = 2.0
"""A file changed more recently may change again without its time stamp showing it."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model on this machine.

    Attributes:
        path: a folder in transformers' format: configuration, weights and tokenizer.
        digest: SHA-256 (hex) of the content of these files; no paths, no times.
        label: what to call it in a report.
        address: what the user can load it by again: as given, a path made absolute; never a folder
            of the cache.
    """

    path: Path
    digest: str
    label: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a folder that a model is loaded from.

    Attributes:
        folder: the folder.
        weights: the weight files, with the index when they are several.
        pickled: whether the weights are pickles: there are no safetensors.
        others: configuration and tokenizer, and the model's own code where that is allowed.
    """

    folder: Path
    weights: tuple[Path, ...]
    pickled: bool
    others: tuple[Path, ...]

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that influences what the model computes."""
        return (*self.others, *self.weights)


def model_files(folder: Path, *, trust_remote_code: bool = False) -> ModelFiles:
    """The files of a model's folder.

    Raises:
        EnvironmentProblem: configuration, weights or tokenizer are missing.
    """
    if not (folder / "config.json").is_file():
        raise EnvironmentProblem(
            f"{folder} has no config.json: give a folder that transformers' save_pretrained wrote."
        )
    weights, pickled = _weights(folder)
    if not tokenizer_files(folder) and not trust_remote_code:
        raise EnvironmentProblem(
            f"{folder} has no tokenizer (such as tokenizer.json): save it beside the model with "
            "tokenizer.save_pretrained."
        )
    patterns = (*CONFIGURATION, *TOKENIZER, *(CODE if trust_remote_code else ()))
    return ModelFiles(folder, weights, pickled, _matching(folder, patterns))


def weight_count(files: ModelFiles) -> int:
    """Number of weights in a model's files, tied ones counted once; loads no weights."""
    if files.pickled:
        bytes_each = 4  # an estimate: pickles tell their sizes only when they are loaded
        return sum(file.stat().st_size for file in files.weights) // bytes_each
    return sum(map(math.prod, _shapes(files.weights)))


def tensor_count(folder: Path) -> int | None:
    """Number of tensors in a folder's weights; None where they are pickles."""
    weights, pickled = _weights(folder)
    return None if pickled else sum(1 for _ in _shapes(weights))


def _shapes(weights: Iterable[Path]) -> Iterator[Sequence[int]]:
    """Shape of every tensor in these files, by their headers alone."""
    from safetensors import safe_open

    for file in weights:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    yield tensors.get_slice(name).get_shape()


def listed_ends(folder: Path) -> tuple[int, ...]:
    """Ids that a model's maker lists as ends of what it writes, as transformers' ``generate`` does.

    They stand in generation_config.json, and where there is none in config.json.
    """
    generation = folder / "generation_config.json"
    content = read_json(generation if generation.is_file() else folder / "config.json")
    found = content.get("eos_token_id")
    if found is None and isinstance(content.get("text_config"), dict):
        found = content["text_config"].get("eos_token_id")
    ids = found if isinstance(found, list) else [found]
    return tuple(id_ for id_ in ids if isinstance(id_, int))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, as peft saves it, and no model."""
    return (folder / ADAPTER_CONFIGURATION).is_file() and not (folder / "config.json").is_file()


def base_of_adapter(folder: Path) -> str:
    """What an adapter's folder calls its base model: an id on the hub, or a folder.

    Raises:
        EnvironmentProblem: it names none, or has no safetensors.
    """
    name = read_json(folder / ADAPTER_CONFIGURATION).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise EnvironmentProblem(
            f"{folder / ADAPTER_CONFIGURATION} does not name the adapter's base model: write its "
            "folder or its id on the hub there, as base_model_name_or_path."
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise EnvironmentProblem(f"{folder} has no {ADAPTER_WEIGHTS}: save the adapter with peft.")
    return name


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The files of a folder's tokenizer; none where there is no vocabulary."""
    return _matching(folder, TOKENIZER) if _matching(folder, VOCABULARIES) else ()


def _matching(folder: Path, patterns: Iterable[str]) -> tuple[Path, ...]:
    found = {file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}
    return tuple(sorted(found))


def _weights(folder: Path) -> tuple[tuple[Path, ...], bool]:
    """The files that transformers would load, and whether they are pickles."""
    for names, pickled in ((SAFETENSORS, False), (PICKLED, True)):
        whole, index = (folder / name for name in names)
        if whole.is_file():
            return (whole,), pickled
        if index.is_file():
            return (index, *_shards(index)), pickled
    raise EnvironmentProblem(
        f"{folder} has no weights: expected model.safetensors, or its parts with "
        "model.safetensors.index.json."
    )


def _shards(index: Path) -> tuple[Path, ...]:
    content = read_json(index)
    names = content.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise EnvironmentProblem(f"{index}: no weight_map that names the files of the weights.")
    files = []
    for name in sorted(set(names.values())):
        file = index.parent / name
        if Path(name).name != name or not file.is_file():
            raise EnvironmentProblem(
                f"{index.parent} lacks {name}, a part of the weights that {index.name} names: "
                "copy or download it again."
            )
        files.append(file)
    return tuple(files)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        EnvironmentProblem: the file holds no JSON object.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise EnvironmentProblem(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise EnvironmentProblem(f"{file} holds no JSON object.")
    return content


def files_digest(files: Iterable[Path], progress: Progress = quiet) -> str:
    """SHA-256 (hex) of the files' names and bytes; no paths, no times.

    Args:
        files: of one folder.
        progress: told the bytes read after each file.
    """
    named: Mapping[str, Path] = {file.name: file for file in files}
    sizes = {name: file.stat().st_size for name, file in named.items()}
    digests, done = {}, 0
    for name in sorted(named):
        digests[name] = remembered_digest(named[name])
        done += sizes[name]
        progress("reading the model's files", done, sum(sizes.values()))
    return digest(digests)


def remembered_digest(file: Path) -> str:
    """SHA-256 (hex) of a file's bytes; of a large file that did not change, the one seen before.

    A file counts as unchanged when its resolved path, size and both of its times are the same.
    """
    if file.stat().st_size < WORTH_REMEMBERING:
        return file_digest(file)
    identity = _identity(file)
    note = cache_root() / "digests" / f"{digest(identity)}.json"
    known = _read_note(note)
    if known is not None:
        return known
    value = file_digest(file)
    settled = time.time() - SETTLED_SECONDS > max(identity["changed"], identity["moved"]) / 1e9
    if settled and _identity(file) == identity:
        # A cache that cannot be written costs time at the next start, no more.
        with contextlib.suppress(StorageError):
            write_record(note, {"sha256": value})
    return value


def _identity(file: Path) -> dict[str, Any]:
    state = file.stat()
    return {
        "path": str(file.resolve()),
        "size": state.st_size,
        "changed": state.st_mtime_ns,
        "moved": state.st_ctime_ns,
    }


def _read_note(note: Path) -> str | None:
    try:
        return str(read_record(note)["sha256"])
    except (FileNotFoundError, DamagedError, StorageError, KeyError):
        return None
