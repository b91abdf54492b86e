from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

from dpo_bench.analysis.bootstrap import (
    bootstrap_mean,
    cluster_means,
    resample_weights,
    win_fraction,
)
from dpo_bench.analysis.win_rates import win_rate
from dpo_bench.evaluation.hf_metrics import KLToReference, WinRate

POLICY = np.random.default_rng(0).normal(0.3, 1, (20, 3)).round(1)
OPPONENT = np.random.default_rng(1).normal(0.0, 1, (20, 4)).round(1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache of ``evaluate``, which has to stay empty."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("kind", [WinRate, KLToReference])
def test_is_a_metric_of_evaluate_that_describes_itself(kind: type) -> None:
    metric = kind()
    assert isinstance(metric, evaluate.Metric)
    assert metric.description
    assert metric.citation
    assert "prompt_ids" in metric.inputs_description


def test_instances_have_names_of_their_own() -> None:
    assert WinRate().experiment_id != WinRate().experiment_id


class TestWinRate:
    def test_counts_wins_and_half_the_ties(self) -> None:
        result = WinRate().compute(
            predictions=[1.0, 0.0, 2.0, 2.0], references=[0.0, 0.0, 1.0, 3.0]
        )
        assert result["win_rate"] == 0.625
        assert result["n"] == 4
        assert 0 <= result["win_rate_low"] < 0.625 < result["win_rate_high"] <= 1

    def test_equals_the_evaluators_figures(self) -> None:
        per_prompt = win_fraction(POLICY, OPPONENT).mean(axis=1)
        expected = win_rate(per_prompt, resample_weights(20, 500, seed=3))
        result = WinRate().compute(
            predictions=POLICY.ravel(),
            references=np.repeat(OPPONENT, 3, axis=0),
            prompt_ids=np.repeat(np.arange(20), 3),
            resamples=500,
            seed=3,
        )
        assert result["n"] == 20
        found = [result["win_rate"], result["win_rate_low"], result["win_rate_high"]]
        assert found == pytest.approx([expected.value, expected.low, expected.high], abs=1e-12)

    def test_batches_equal_one_call(self) -> None:
        ids = [f"prompt {index:02}" for index in range(20)]
        metric = WinRate()
        for start in (0, 7, 14):
            rows = slice(start, min(start + 7, 20))
            metric.add_batch(
                predictions=POLICY[rows, 0].tolist(),
                references=OPPONENT[rows, 0].tolist(),
                prompt_ids=ids[rows],
            )
        whole = WinRate().compute(
            predictions=POLICY[:, 0], references=OPPONENT[:, 0], prompt_ids=ids
        )
        assert metric.compute() == whole

    def test_single_rows_can_be_added(self) -> None:
        metric = WinRate()
        metric.add(prediction=1.0, reference=0.0)
        metric.add(prediction=0.0, reference=0.0)
        assert metric.compute()["win_rate"] == 0.75

    def test_rows_of_one_prompt_are_averaged_first(self) -> None:
        result = WinRate().compute(
            predictions=[1.0, 1.0, 1.0, 0.0],
            references=[0.0, 0.0, 0.0, 1.0],
            prompt_ids=[7, 7, 7, 8],
        )
        assert result["win_rate"] == 0.5
        assert result["n"] == 2

    def test_rows_may_have_different_numbers_of_opponents(self) -> None:
        result = WinRate().compute(predictions=[1.0, 1.0], references=[[0.0, 2.0], [0.0]])
        assert result["win_rate"] == 0.75

    def test_single_prompt_has_no_interval(self) -> None:
        result = WinRate().compute(predictions=[1.0], references=[0.0])
        assert result == {"win_rate": 1.0, "win_rate_low": None, "win_rate_high": None, "n": 1}

    def test_two_at_once_keep_their_rows_apart(self) -> None:
        one, other = WinRate(), WinRate()
        one.add_batch(predictions=[1.0], references=[0.0])
        other.add_batch(predictions=[0.0], references=[1.0])
        one.add_batch(predictions=[1.0], references=[0.0])
        assert one.compute()["win_rate"] == 1.0
        assert other.compute()["win_rate"] == 0.0

    def test_same_rows_give_the_same_figures_whatever_the_global_seed(self) -> None:
        results = []
        for seed in (0, 1):
            np.random.seed(seed)
            results.append(WinRate().compute(predictions=POLICY[:, 0], references=OPPONENT[:, 0]))
        assert results[0] == results[1]

    def test_can_be_combined(self) -> None:
        both = evaluate.combine({"one": WinRate(), "two": WinRate()}, force_prefix=True)
        result = both.compute(predictions=[1.0, 0.0], references=[0.0, 0.0])
        assert result["one_win_rate"] == result["two_win_rate"] == 0.75

    def test_can_be_pickled(self) -> None:
        metric = pickle.loads(pickle.dumps(WinRate()))
        assert metric.compute(predictions=[1.0], references=[0.0])["win_rate"] == 1.0

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ({}, "at least one row"),
            ({"predictions": [], "references": []}, "at least one row"),
            ({"predictions": [1.0]}, "also needs references"),
            ({"predictions": [1.0], "references": [1.0, 2.0]}, "Mismatch"),
            ({"predictions": [1.0, float("nan")], "references": [0.0, 0.0]}, "the first in row 2"),
            ({"predictions": [1.0, 1.0], "references": [[0.0], []]}, "references: 1 values"),
            (
                {"predictions": [1.0, 1.0], "references": [0.0, 0.0], "prompt_ids": [1, None]},
                "1 of 2 rows have no prompt id",
            ),
        ],
    )
    def test_bad_rows_are_refused_and_the_metric_stays_usable(
        self, rows: dict[str, list[float]], message: str
    ) -> None:
        metric = WinRate()
        with pytest.raises(ValueError, match=message):
            metric.compute(**rows)
        assert metric.compute(predictions=[1.0], references=[0.0])["win_rate"] == 1.0

    def test_unknown_option_is_refused(self) -> None:
        with pytest.raises(TypeError, match="resample"):
            WinRate().compute(predictions=[1.0], references=[0.0], resample=5)


class TestKLToReference:
    def test_gives_both_estimates(self) -> None:
        result = KLToReference().compute(
            sequence_kls=[1.0, 3.0], policy_logps=[-1.0, -2.0], reference_logps=[-3.0, -2.5]
        )
        assert result["kl"] == 2.0
        assert result["kl_monte_carlo"] == 1.25
        assert result["n"] == 2
        assert result["kl_low"] < 2.0 < result["kl_high"]

    def test_equals_the_evaluators_figures(self) -> None:
        kls = np.random.default_rng(0).gamma(2, 1, 60)
        ids = np.repeat(np.arange(20), 3)
        expected = bootstrap_mean(cluster_means(kls, ids), resample_weights(20, 2000, seed=0))
        result = KLToReference().compute(sequence_kls=kls, prompt_ids=ids)
        found = [result["kl"], result["kl_low"], result["kl_high"]]
        assert found == pytest.approx([expected.value, expected.low, expected.high], abs=1e-12)

    def test_estimate_without_its_columns_is_missing_not_zero(self) -> None:
        result = KLToReference().compute(policy_logps=[-1.0, -2.0], reference_logps=[-3.0, -2.5])
        assert result["kl"] is None
        assert result["kl_monte_carlo"] == 1.25
        only = KLToReference().compute(sequence_kls=[1.0, 3.0])
        assert only["kl_monte_carlo"] is None
        assert only["kl_monte_carlo_low"] is None

    def test_batches_equal_one_call(self) -> None:
        metric = KLToReference()
        metric.add_batch(sequence_kls=[1.0, 3.0], prompt_ids=["a", "b"])
        metric.add_batch(sequence_kls=[5.0], prompt_ids=["a"])
        whole = KLToReference().compute(sequence_kls=[1.0, 3.0, 5.0], prompt_ids=["a", "b", "a"])
        assert metric.compute() == whole
        assert whole["n"] == 2

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ({"policy_logps": [1.0]}, "policy_logps with reference_logps"),
            ({"prompt_ids": [1]}, "give sequence_kls"),
            (
                {"sequence_kls": [1.0, None]},
                "sequence_kls: 1 values are missing, the first in row 2",
            ),
        ],
    )
    def test_bad_rows_are_refused(self, rows: dict[str, list[float]], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            KLToReference().compute(**rows)


def test_nothing_is_left_in_the_users_cache(cache: Path) -> None:
    metric = WinRate()
    metric.add_batch(predictions=[1.0, 0.0], references=[0.0, 0.0])
    metric.compute()
    KLToReference().compute(sequence_kls=[1.0])
    assert not cache.exists()


def test_statistics_do_not_import_evaluate() -> None:
    code = (
        "import sys, dpo_bench.analysis.frontier, dpo_bench.analysis.compare;"
        "print(sorted({'evaluate', 'datasets', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
