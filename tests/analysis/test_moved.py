"""Whether training changed a policy at all, in words."""

from __future__ import annotations

import pytest

from dpo_bench.analysis.moved import unmoved_in_words


@pytest.mark.parametrize("kls", [[], [0.5, 2.0], [1e-3]])
def test_policies_that_moved_need_no_word(kls: list[float]) -> None:
    assert unmoved_in_words(kls, 1e-6) == ""


def test_some_that_stayed_are_counted() -> None:
    assert unmoved_in_words([9e-4, 2.0, 0.0], 1e-6).startswith(
        "2 of 3 policies did not leave the reference (KL below 0.001 nats)"
    )


def test_where_all_stayed_the_largest_kl_and_the_rate_are_said() -> None:
    text = unmoved_in_words([2e-5, 7e-5], 1e-6)
    assert text.startswith("No policy left the reference: the largest KL is 7e-05 nats")
    assert "(now 1e-06)" in text
