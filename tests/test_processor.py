from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from dpo_bench.processor import processor


def test_it_names_architecture_and_instructions() -> None:
    text = processor()
    assert text.startswith(f"{platform.machine()} ")
    assert "  " not in text
    assert "\n" not in text


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="torch has other instructions here")
def test_it_says_what_torch_was_told() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from dpo_bench.processor import processor; print(processor())"],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("x86_64 DEFAULT")
