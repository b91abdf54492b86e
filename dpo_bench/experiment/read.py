"""From an experiment file and the command line's overrides to a validated `Experiment`."""

from __future__ import annotations

import importlib.resources
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import Experiment

Tree = dict[str, Any]


def shipped() -> dict[str, Path]:
    """Experiment files that travel with the package, by name."""
    folder = Path(str(importlib.resources.files("dpo_bench.runs")))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find_file(given: str) -> Path:
    """A path to an experiment file, or the name of a shipped one.

    Raises:
        ConfigurationError: neither exists.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return path
    files = shipped()
    if given in files:
        return files[given]
    raise ConfigurationError(
        f"there is no experiment file {given}{nearest(given, files)}. "
        f"Shipped ones: {', '.join(files)}."
    )


def read_file(path: Path) -> Tree:
    """The raw content of an experiment file.

    Raises:
        ConfigurationError: the file is no UTF-8 or no TOML; the message gives the line.
    """
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not a TOML file: {error}.") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}.") from None


def parse_value(text: str) -> Any:
    """A value as TOML would read it; text that is no TOML value is a string.

    >>> parse_value("1e-3"), parse_value("[0, 1]"), parse_value("rmsprop")
    (0.001, [0, 1], 'rmsprop')
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def apply_setting(tree: Tree, assignment: str) -> None:
    """Apply one ``section.key=value`` to a raw tree, in place.

    Raises:
        ConfigurationError: there is no ``=``, or the path runs through a value.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f"--set {assignment}: write it as section.key=value.")
    *sections, last = key.strip().split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise ConfigurationError(f"--set {assignment}: {section} is not a table.")
    tree[last] = parse_value(text.strip())


def validate(tree: Mapping[str, Any], origin: str) -> Experiment:
    """Check a raw tree.

    Args:
        tree: content of a file, overrides applied.
        origin: what the messages call it, usually the file's path.

    Raises:
        ConfigurationError: an unknown key (the nearest name is suggested) or a bad value.
    """
    try:
        return Experiment.model_validate(tree)
    except ValidationError as error:
        # One problem per line, and the first three say enough.
        problems = list(dict.fromkeys(_describe(item) for item in error.errors()))
        more = f"\n... and {len(problems) - 3} more" if len(problems) > 3 else ""
        lines = "\n".join(f"{origin}: {problem}" for problem in problems[:3])
        raise ConfigurationError(lines + more) from None


def _describe(item: Mapping[str, Any]) -> str:
    path = [str(part) for part in item["loc"]]
    where = ".".join(path) or "the file"
    if item["type"] == "extra_forbidden":
        return f"unknown key {where}{_meant(path)}."
    if item["type"] == "missing":
        return f"{where} is missing."
    message = str(item["msg"]).removeprefix("Value error, ")
    value = item.get("input")
    shown = f" = {value!r}" if isinstance(value, str | int | float | bool) else ""
    return f"{where}{shown}: {message}."


ELSEWHERE = {
    "lr": "training.learning_rate",
    "epoch": "training.epochs",
    "num_train_epochs": "training.epochs",
    "max_steps": "training.steps",
    "batch_size": "training.pairs_per_step",
    "train_batch_size": "training.pairs_per_step",
    "per_device_train_batch_size": "training.pairs_per_pass",
    "gradient_accumulation_steps": "training.pairs_per_step",
    "max_grad_norm": "training.max_gradient_norm",
    "optim": "training.optimizer",
    "lr_scheduler_type": "training.schedule",
    "lr_scheduler": "training.schedule",
    "warmup_ratio": "training.warmup_fraction",
    "warmup_steps": "training.warmup_fraction",
    "seed": "training.seeds",
    "bf16": "training.precision",
    "dtype": "training.precision",
    "torch_dtype": "training.precision",
    "sync_ref_model": "training.reference_sync_steps",
    "ref_model_sync_steps": "training.reference_sync_steps",
    "ref_model_mixup_alpha": "training.reference_sync_rate",
    "lora_r": "training.lora.rank",
    "lora_alpha": "training.lora.alpha",
    "r": "training.lora.rank",
    "max_length": "data.max_response_tokens",
    "max_prompt_length": "data.max_prompt_tokens",
    "max_completion_length": "data.max_response_tokens",
    "truncation_mode": "data.over_limit",
    "test_split": "data.heldout",
    "eval_split": "data.heldout",
    "dataset": "preferences",
    "dataset_name": "preferences",
    "model": "policy",
    "model_name_or_path": "policy",
    "ref_model": "reference",
    "temperature": "evaluation.temperature",
    "num_samples": "evaluation.samples_per_prompt",
    "max_tokens": "evaluation.max_new_tokens",
    "judge": "evaluation.reward",
    "loss": "losses",
    "loss_type": "losses",
    "beta": "losses",
}
"""What other programs call a key, and what it is called here."""


def _meant(path: Sequence[str]) -> str:
    """The key that an unknown one stands for, as the end of a message."""
    last = path[-1]
    everywhere = [key for key, _, _ in documented_keys()]
    same = [key for key in everywhere if key.rpartition(".")[2] == last]
    if last in ELSEWHERE:
        same = [ELSEWHERE[last]]
    if same == ["losses"]:
        return " (write it into the loss's own [[losses]] table)"
    if same:
        return f" (did you mean {' or '.join(map(repr, same))}?)"
    return nearest(last, list(_section_at(path[:-1]).model_fields))


def _section_at(path: Sequence[str]) -> type[BaseModel]:
    section: type[BaseModel] = Experiment
    for name in path:
        section = _section_of(section.model_fields[name].annotation) or section
    return section


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also where it may be absent; None for a plain value."""
    optional = get_args(annotation)
    for kind in optional if NoneType in optional else (annotation,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def documented_keys() -> Iterator[tuple[str, str, str]]:
    """Every key as (path, default, meaning), in the order of the classes; for documentation."""
    yield from _keys(Experiment, "")


def _keys(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is None or field.default is None:
            default = "required" if field.is_required() else repr(field.default)
            yield f"{prefix}{name}", default, field.description or ""
        if inner is not None:
            yield from _keys(inner, f"{prefix}{name}.")
