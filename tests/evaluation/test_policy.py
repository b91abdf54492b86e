"""A policy's figures, on real tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dpo_bench.analysis.metrics import BY_NAME
from dpo_bench.experiment import Experiment
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.sources import find_sources


@pytest.fixture(scope="module", params=[1.0, 0.7])
def bench(request: pytest.FixtureRequest, llama_folder: Path, pairs_file: Path) -> WorkerContext:
    experiment = Experiment.model_validate(
        {
            "name": "figures",
            "policy": str(llama_folder),
            "preferences": str(pairs_file),
            "evaluation": {
                "reward": "vader",
                "kl_reverse": True,
                "temperature": request.param,
                "prompts": 4,
                "max_new_tokens": 6,
                "reference_samples": 4,
                "resamples": 100,
            },
            "losses": [{"name": "dpo", "beta": 0.1}],
        }
    )
    return WorkerContext(experiment, find_sources(experiment))


def test_the_reference_itself_has_diverged_from_nothing(bench: WorkerContext) -> None:
    found = bench.evaluator.evaluate(bench.reference, scale=0.1)
    value = {name: estimate.value for name, estimate in found.metrics.items()}
    for name in ("kl", "kl_monte_carlo", "kl_per_token", "kl_reverse", "length_drift"):
        assert value[name] == 0, name
    assert (value["displaced"], value["misordered"], value["degenerate"]) == (0, 0, 0)
    assert (value["preference_accuracy"], value["brier"]) == (0.5, 0.25)
    assert value["calibration_error"] == 0
    assert found.notes["degenerate"] == []
    assert value["token_entropy"] > 1


def test_divergences_are_those_of_the_full_distributions(bench: WorkerContext) -> None:
    bench.reset_policy(0)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for weight in bench.policy.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    found = bench.evaluator.evaluate(bench.policy)
    responses = bench.evaluator._reference_responses
    total = []
    for response in responses:
        prompt = bench.inputs.prompts.tokens[response.prompt_id]
        ids = torch.tensor([[*prompt, *response.tokens]])
        with torch.inference_mode():
            ours, theirs = (
                model(input_ids=ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
                for model in (bench.policy.model, bench.reference.model)
            )
        total.append(float((theirs.exp() * (theirs - ours)).sum()))
    np.testing.assert_allclose(found.samples["kl_reverse"], total, rtol=1e-3)
    assert found.metrics["kl_reverse"].value == pytest.approx(np.mean(total), rel=1e-3)
    samples = found.samples
    ratio = samples["kl"].sum() / samples["kl_tokens"].sum()
    assert found.metrics["kl_per_token"].value == pytest.approx(ratio)
    assert found.metrics["kl_per_token"].value > 0
    assert set(found.metrics) <= set(BY_NAME)
    assert ("frontier_gap" in found.metrics) <= (bench.experiment.evaluation.temperature == 1)
    assert "brier" not in found.metrics
