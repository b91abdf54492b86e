"""What is installed: recorded with every sweep, and the same on all machines of one."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("dpo_bench", "torch", "transformers", "tokenizers", "numpy", "vaderSentiment")


def installed_versions(*further: str) -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, some ``further`` ones too."""
    found = {"python": platform.python_version()}
    for package in (*PACKAGES, *further):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # used from a checkout without being installed
            continue
    return found
