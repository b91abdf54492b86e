"""The allocator's option is said before a GPU is touched, and never over the user's."""

from __future__ import annotations

import pytest

from dpo_bench.model.allocator import NEW, OLD, OPTION, use_expandable_segments


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (OLD, NEW):
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)


def test_it_is_set_under_the_name_that_torch_reads() -> None:
    import os

    use_expandable_segments()
    assert [os.environ.get(name) for name in (OLD, NEW)] == [None, OPTION]


@pytest.mark.parametrize("name", [OLD, NEW])
def test_the_users_own_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import os

    monkeypatch.setenv(name, "max_split_size_mb:128")
    use_expandable_segments()
    assert os.environ[name] == "max_split_size_mb:128"
    assert (OLD in os.environ) != (NEW in os.environ)
