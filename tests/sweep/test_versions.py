"""What is installed, as a sweep records it."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch

from dpo_bench.sweep.versions import installed_versions


def test_packages_that_are_not_installed_are_left_out_and_the_rest_is_there() -> None:
    found = installed_versions("no-such-package-anywhere", "pytest")
    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["numpy"] == np.__version__
    assert found["pytest"] == pytest.__version__
    assert "no-such-package-anywhere" not in found
    assert "pytest" not in installed_versions()
