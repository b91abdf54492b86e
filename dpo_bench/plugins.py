"""Folders that import as packages although they lie elsewhere.

The repository keeps ``losses/`` beside ``dpo_bench/`` and a user keeps loss files anywhere; both
import as packages through `import_folder_as_package`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def import_folder_as_package(name: str, folder: Path) -> ModuleType:
    """Make a folder importable as the package ``name``; a second call returns the same package."""
    if name in sys.modules:
        return sys.modules[name]
    init = folder / "__init__.py"
    if init.is_file():
        spec = importlib.util.spec_from_file_location(
            name, init, submodule_search_locations=[str(folder)]
        )
    else:
        spec = importlib.util.spec_from_loader(name, loader=None, is_package=True)
        if spec is not None:
            spec.submodule_search_locations = [str(folder)]
    if spec is None:
        raise ImportError(f"cannot mount {folder} as {name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if spec.loader is not None:
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def import_neighbor(package: str, folder: str) -> None:
    """In a checkout, mount ``<root>/<folder>`` as ``<package>.<folder>``; installed, do nothing."""
    home = Path(__file__).resolve().parent
    if not (home / folder).is_dir() and (home.parent / folder / "__init__.py").is_file():
        module = import_folder_as_package(f"{package}.{folder}", home.parent / folder)
        setattr(sys.modules[package], folder, module)
