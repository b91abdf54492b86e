"""Ten optimizer steps agree with TRL's own trainers: losses, gradient norms, weights; in fp32."""

from __future__ import annotations

import importlib
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_bench import PairLogps, get_loss
from dpo_bench.contract import Objective
from tests.tiny import save_tokenizer

trl = pytest.importorskip("trl")
peers = importlib.import_module("tests.peers.trl_trainers")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),  # theirs
]

SMOOTH = {"label_smoothing": 0.1}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives TRL's trainers their padding; nothing is tokenized with it."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, ["one two three"])
    return AutoTokenizer.from_pretrained(folder)


def assert_agree(ours: Any, theirs: Any) -> None:
    """Losses to 1e-5 and gradient norms to 2e-4, relative; weights to a thousandth of their way.

    A weight whose gradient vanishes is moved by AdamW in the direction of its rounding error.
    """
    assert len(ours.losses) == len(theirs.losses) == peers.STEPS
    torch.testing.assert_close(ours.losses, theirs.losses.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        ours.gradient_norms, theirs.gradient_norms.double(), rtol=2e-4, atol=2e-6
    )
    assert distance(ours.weights, theirs.weights) < 1e-3 * way(theirs)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Euclidean, over all weights."""
    assert one.keys() == other.keys()
    return math.sqrt(
        sum(float((value - other[name]).square().sum()) for name, value in one.items())
    )


def way(run: Any) -> float:
    """How far the weights of a run went."""
    tied = torch.equal(run.weights["lm_head.weight"], run.weights["model.embed_tokens.weight"])
    return distance(run.weights, peers.policy_of(tied=tied).state_dict())


def unshifted(logps: PairLogps, **hyperparameters: float) -> Tensor:
    """bco as TRL has it, without the running mean of the rewards."""
    nothing = torch.zeros_like(logps.policy_chosen)
    return get_loss("bco")(replace(logps, mean_logratio=nothing), **hyperparameters)


DPO_LOSSES: list[tuple[str, dict[str, float], dict[str, Any]]] = [
    ("dpo", {}, {"loss_type": ["sigmoid"]}),
    ("hinge", {}, {"loss_type": ["hinge"]}),
    ("ipo", {}, {"loss_type": ["ipo"]}),
    ("exo", SMOOTH, {"loss_type": ["exo_pair"], **SMOOTH}),
    ("nca", {}, {"loss_type": ["nca_pair"]}),
    ("robust_dpo", SMOOTH, {"loss_type": ["robust"], **SMOOTH}),
    ("sppo", {}, {"loss_type": ["sppo_hard"]}),
    ("aot", SMOOTH, {"loss_type": ["aot"], **SMOOTH}),
    ("aot_unpaired", SMOOTH, {"loss_type": ["aot_unpaired"], **SMOOTH}),
    ("apo_zero", {}, {"loss_type": ["apo_zero"]}),
    ("apo_down", {}, {"loss_type": ["apo_down"]}),
    ("discopop", {}, {"loss_type": ["discopop"]}),
    ("dpo_norm", {}, {"loss_type": ["sigmoid_norm"]}),
    ("ld_dpo", {"alpha": 0.3}, {"loss_type": ["sigmoid"], "ld_alpha": 0.3}),
    ("js(dpo)", {}, {"loss_type": ["sigmoid"], "f_divergence_type": "js_divergence"}),
    ("forward_kl(dpo)", {}, {"loss_type": ["sigmoid"], "f_divergence_type": "forward_kl"}),
    (
        "alpha(dpo)",
        {"divergence_alpha": 0.3},
        {
            "loss_type": ["sigmoid"],
            "f_divergence_type": "alpha_divergence",
            "f_alpha_divergence_coef": 0.7,
        },
    ),
    (
        "0.8*dpo + 0.2*hinge",
        {},
        {"loss_type": ["sigmoid", "hinge"], "loss_weights": [0.8, 0.2]},
    ),
]


class WorkerContext:
    """Runs a loss by both, in a folder of its own."""

    def __init__(self, folder: Path, tokenizer: Any, *, tied: bool) -> None:
        self.folder, self.tokenizer, self.tied = folder, tokenizer, tied

    def ours(self, objective: Objective, pairs: Any, **changes: Any) -> Any:
        return peers.ours(objective, pairs, tied=self.tied, folder=self.folder, **changes)

    def theirs(self, trainer: str, dataset: Any, **options: Any) -> Any:
        """A trainer by name: of TRL itself or of ``trl.experimental``."""
        name = trainer.partition("Trainer")[0]
        home = trl if name in {"DPO", "KTO"} else _experimental(name)
        return peers.theirs(
            getattr(home, trainer),
            getattr(home, f"{name}Config"),
            dataset,
            tied=self.tied,
            folder=self.folder,
            tokenizer=self.tokenizer,
            **options,
        )


def _experimental(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"trl.experimental.{name.lower()}")


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, tokenizer: Any) -> WorkerContext:
    return WorkerContext(tmp_path, tokenizer, tied=request.param)


@pytest.mark.parametrize(("name", "ours", "settings"), DPO_LOSSES, ids=lambda v: str(v)[:20])
def test_dpo_trainer(
    bench: WorkerContext, name: str, ours: dict[str, float], settings: dict[str, Any]
) -> None:
    pairs = peers.random_pairs()
    found = bench.ours(get_loss(name).at({"beta": 0.3, **ours}), pairs)
    wanted = bench.theirs("DPOTrainer", peers.as_token_ids(pairs), beta=0.3, **settings)
    assert_agree(found, wanted)


def test_dpo_trainer_without_a_reward_shift(bench: WorkerContext) -> None:
    pairs = peers.random_pairs()
    found = bench.ours(Objective(lambda logps: unshifted(logps, beta=0.3)), pairs)
    wanted = bench.theirs("DPOTrainer", peers.as_token_ids(pairs), beta=0.3, loss_type=["bco_pair"])
    assert_agree(found, wanted)


def test_imitation_where_batch_and_response_means_agree(bench: WorkerContext) -> None:
    pairs = peers.random_pairs(alike=True)
    found = bench.ours(get_loss("sft").at({}), pairs)
    wanted = bench.theirs("DPOTrainer", peers.as_token_ids(pairs), loss_type=["sft"])
    assert_agree(found, wanted)


@pytest.mark.parametrize("rate", [0.6, 0.05])
def test_reference_that_follows_the_policy(bench: WorkerContext, rate: float) -> None:
    """TR-DPO, synced after steps 2, 4, 6, 8 and 10."""
    pairs = peers.random_pairs()
    found = bench.ours(
        get_loss("dpo").at({"beta": 0.3}),
        pairs,
        reference_sync_steps=2,
        reference_sync_rate=rate,
    )
    wanted = bench.theirs(
        "DPOTrainer",
        peers.as_token_ids(pairs),
        beta=0.3,
        sync_ref_model=True,
        ref_model_sync_steps=2,
        ref_model_mixup_alpha=rate,
    )
    assert_agree(found, wanted)
    still = bench.ours(get_loss("dpo").at({"beta": 0.3}), pairs)
    assert (still.losses - wanted.losses).abs().max() > 1e-3, "the sync must matter"


@pytest.mark.parametrize("settings", [{"weight_decay": 1.0}, {"weight_decay": 0.1}])
def test_weight_decay(bench: WorkerContext, settings: dict[str, float]) -> None:
    """It spares what TRL spares: with a decay of 1 the losses would differ in the second digit."""
    pairs = peers.random_pairs()
    found = bench.ours(get_loss("dpo").at({"beta": 0.3}), pairs, **settings)
    wanted = bench.theirs("DPOTrainer", peers.as_token_ids(pairs), beta=0.3, **settings)
    assert_agree(found, wanted)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"schedule": "constant"}, {"lr_scheduler_type": "constant"}),
        ({"schedule": "cosine"}, {"lr_scheduler_type": "cosine"}),
        ({"pairs_per_pass": 0}, {"per_device_train_batch_size": 4}),
        ({"max_gradient_norm": 0.01}, {"max_grad_norm": 0.01}),
    ],
)
def test_settings(bench: WorkerContext, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    pairs = peers.random_pairs()
    found = bench.ours(get_loss("dpo").at({"beta": 0.3}), pairs, **ours)
    wanted = bench.theirs("DPOTrainer", peers.as_token_ids(pairs), beta=0.3, **theirs)
    assert_agree(found, wanted)


CPO_LOSSES: list[tuple[str, dict[str, float], dict[str, Any]]] = [
    ("cpo", {"beta": 0.3, "alpha": 0.7}, {"loss_type": "sigmoid", "beta": 0.3, "cpo_alpha": 0.7}),
    (
        "simpo",
        {"beta": 2.0, "gamma_beta_ratio": 0.4},
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 0.8, "cpo_alpha": 0.0},
    ),
    (
        "alpha_po",
        {"beta": 2.0, "alpha": 0.2, "gamma_beta_ratio": 0.1},
        {"loss_type": "simpo", "alpha": 0.2, "beta": 2.0, "simpo_gamma": 0.2, "cpo_alpha": 0.0},
    ),
]


@pytest.mark.parametrize(("name", "ours", "settings"), CPO_LOSSES)
def test_cpo_trainer(
    bench: WorkerContext, name: str, ours: dict[str, float], settings: dict[str, Any]
) -> None:
    pairs = peers.random_pairs(alike=True)
    found = bench.ours(get_loss(name).at(ours), pairs)
    wanted = bench.theirs("CPOTrainer", peers.as_labels(pairs), reads_reference=False, **settings)
    assert_agree(found, wanted)


def test_orpo_trainer_where_the_prompt_is_one_token(bench: WorkerContext) -> None:
    """Its imitation is of the prompt too, whose first token nothing predicts."""
    pairs = peers.random_pairs(alike=True)
    found = bench.ours(get_loss("orpo").at({"lam": 0.3}), pairs)
    wanted = bench.theirs("ORPOTrainer", peers.as_labels(pairs), reads_reference=False, beta=0.3)
    assert_agree(found, wanted)


@pytest.mark.parametrize(("name", "loss_type"), [("apo_zero", "apo_zero_unpaired"), ("kto", "kto")])
def test_kto_trainer_on_both_responses_of_each_pair(
    bench: WorkerContext, name: str, loss_type: str
) -> None:
    """Its mean is over responses, ours over pairs; the mismatched responses are ours for both."""
    pairs = peers.random_pairs()
    found = bench.ours(peers.scaled(get_loss(name).at({"beta": 3.0}), 0.5), pairs)
    wanted = bench.theirs(
        "KTOTrainer",
        peers.as_single_responses(pairs),
        beta=3.0,
        loss_type=loss_type,
        per_device_train_batch_size=2 * peers.PAIRS_PER_STEP,
    )
    assert_agree(found, wanted)
    if name == "kto":  # at a reference point of 0 it would be the other loss
        other = bench.ours(peers.scaled(get_loss("apo_zero").at({"beta": 3.0}), 0.5), pairs)
        assert distance(found.weights, other.weights) > 0.02 * way(wanted)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_warm_up_is_one_step_ahead_of_theirs_as_documented(schedule: str) -> None:
    """Theirs is 0 at the first step and at the peak behind the warm-up; after that they agree."""
    from transformers import get_scheduler

    from dpo_bench.experiment.config import Training
    from dpo_bench.training.optimizer import learning_rate

    settings = Training.model_validate(
        {"learning_rate": 1.0, "warmup_fraction": 0.3, "schedule": schedule}
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(schedule, optimizer, num_warmup_steps=3, num_training_steps=10)
    theirs = []
    for _ in range(10):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = [learning_rate(step, 10, settings) for step in range(10)]
    assert theirs[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert ours[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert ours[3:] == pytest.approx(theirs[3:])
