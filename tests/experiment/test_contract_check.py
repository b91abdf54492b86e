"""Plug-in losses are checked when trials are planned; shipped ones and unused ones are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dpo_bench import load_plugins
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment import plan_trials
from dpo_bench.experiment.config import Experiment
from dpo_bench.testing import check as testing
from tests.registry import restored_registry

HEADER = """
from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench import PairLogps, register


@register("mine", paper="none", normalization="sum", grid=(0.1, 1){more})
def mine(logps: PairLogps, beta: float = 0.1) -> Tensor:
    \"\"\"A loss.\"\"\"
    return {body}
"""
SOUND = "-logsigmoid(beta * logps.margin)"
MEAN = f"({SOUND}).mean()"


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with restored_registry():
        yield


def plugin(folder: Path, body: str, more: str = "") -> None:
    (folder / "mine.py").write_text(HEADER.format(body=body, more=more), encoding="utf-8")
    load_plugins(folder)


def planned(*names: str) -> int:
    losses: list[dict[str, Any]] = [{"name": name} for name in names]
    return len(plan_trials(Experiment.model_validate({"name": "x", **WORLD, "losses": losses})))


WORLD = {"policy": "world:reviews", "preferences": "world:reviews"}


@pytest.mark.parametrize(
    ("body", "finding"),
    [
        (MEAN, r"- shape: returned shape \[\] for 7 pairs, not \[7\]"),
        (f"({SOUND})[:, None]", r"- shape: returned shape \[7, 1\] for 7 pairs, not \[7\]"),
        (f"({SOUND}).half()", "- dtype: log-probs in torch.float32 .* in torch.float16"),
        (f"({SOUND}).detach()", "- flow: the loss is cut off from the policy"),
        ("-(beta * logps.margin).sigmoid().log()", "- finite: value is inf"),
        (f"({SOUND}) * logps.preference_margin", "- (needs|shape): "),
    ],
)
@pytest.mark.parametrize("name", ["mine", "wpo(mine)", "0.5*dpo + 0.5*nll(mine)"])
def test_a_loss_that_breaks_the_contract_is_not_planned(
    tmp_path: Path, body: str, finding: str, name: str
) -> None:
    plugin(tmp_path, body)
    with pytest.raises(ConfigurationError, match=finding) as caught:
        planned("dpo", name)
    message = str(caught.value)
    assert message.startswith(f"mine ({tmp_path / 'mine.py'}:8) breaks the contract:\n- ")
    assert message.endswith("departs from on purpose.")
    assert "Traceback" not in message


@pytest.mark.parametrize("name", ["mine", "js(mine)"])
def test_a_loss_that_fails_says_why_also_where_it_is_modified(tmp_path: Path, name: str) -> None:
    plugin(tmp_path, "logps.nowhere")
    with pytest.raises(ConfigurationError, match=r"- shape: raised AttributeError: .*nowhere"):
        planned(name)


def test_a_sound_one_is_planned(tmp_path: Path) -> None:
    plugin(tmp_path, SOUND)
    assert planned("mine", "js(mine)") == 4


def test_one_that_is_not_used_does_not_matter(tmp_path: Path) -> None:
    plugin(tmp_path, MEAN)
    assert planned("dpo") == 5


@pytest.mark.parametrize("declared", [False, True])
def test_one_that_departs_on_purpose_is_planned(tmp_path: Path, declared: bool) -> None:
    """Imitation of the chosen response: no constant where policy and reference agree."""
    more = ", reads_log_probs=True"
    more += ", departs_from=('constant_start',)" if declared else ""
    plugin(tmp_path, f"{SOUND} - logps.policy_chosen / logps.chosen_tokens", more)
    if declared:
        assert planned("mine") == 2
    else:
        with pytest.raises(ConfigurationError, match="- constant_start: "):
            planned("mine")


def test_shipped_losses_cost_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "check_loss", lambda _loss: pytest.fail("a shipped loss"))
    assert planned("dpo", "js(ipo_sum)", "0.8*dpo + 0.2*bco + 1.0*sft") == 15


def test_a_loss_that_never_returns_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dpo_bench.experiment.contract_check.SECONDS_TO_CHECK", 0.5)
    plugin(tmp_path, "__import__('time').sleep(1000)")
    with pytest.raises(ConfigurationError, match=r"mine \(.*mine.py:8\): its check is not done"):
        planned("mine")
