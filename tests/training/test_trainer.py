"""The one trainer, on a real tiny model."""

from __future__ import annotations

import gc
import math
import re
import shutil
import time
import weakref
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from dpo_bench import PairLogps, get_loss, list_losses
from dpo_bench.contract import NEEDS, Objective
from dpo_bench.data.resample import bootstrap_pairs
from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.errors import ConfigurationError, DataError, DivergedError
from dpo_bench.experiment.config import Training
from dpo_bench.model.load import load_model
from dpo_bench.model.logprob_backends import FullLogitsBackend, HiddenStateBackend
from dpo_bench.model.logprobs import LogprobBackend, choose_backend
from dpo_bench.progress import Control
from dpo_bench.training.checkpoint import Checkpoint
from dpo_bench.training.input_builders import PROVIDERS
from dpo_bench.training.inputs import non_null_fields
from dpo_bench.training.reference_model import CachedReference, ResampledReference
from dpo_bench.training.trainer import FEWEST_STEPS, StoppedError, Trainer, TrainingResult
from tests.conftest import tiny_folder

SETTINGS = Training(learning_rate=1e-3, steps=6, pairs_per_step=8, checkpoint_seconds=1e9)


def random_pairs(count: int = 24) -> TokenizedPairs:
    generator = np.random.default_rng(0)

    def side(low: int, high: int) -> Ragged:
        lengths = generator.integers(low, high, count)
        return Ragged.of([generator.integers(3, 300, n).astype(np.int32) for n in lengths])

    return TokenizedPairs(
        side(2, 9), side(1, 12), side(1, 12), margins=generator.normal(0.4, 0.5, count)
    )


PAIRS = random_pairs()
SIX = {field.name for field in fields(PairLogps)[:6]}


class Setup:
    """A policy at its starting point, and the reference's log-probs."""

    def __init__(self, folder: Path) -> None:
        self.backend: LogprobBackend = choose_backend(load_model(folder, "cpu"), "fp32")
        self.initial = {name: value.clone() for name, value in self.weights().items()}
        frozen = choose_backend(load_model(folder, "cpu"), "fp32")
        frozen.model.requires_grad_(requires_grad=False)
        self.reference = CachedReference(frozen, PAIRS, str(folder), "cpu/fp32")

    def weights(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.backend.model.state_dict()
        return state

    def snapshot(self) -> Tensor:
        return torch.cat([value.flatten() for value in self.weights().values()]).clone()

    def trainer(self, tmp_path: Path, loss: Any = None, **options: Any) -> Trainer:
        """A trainer that starts from the initial weights."""
        self.backend.model.load_state_dict(self.initial)
        settings = SETTINGS.model_copy(update=options.pop("settings", {}))
        return Trainer(
            self.backend,
            loss or get_loss("dpo"),
            pairs=options.pop("pairs", PAIRS),
            reference=options.pop("reference", self.reference),
            settings=settings,
            seed=options.pop("seed", 0),
            checkpoint=tmp_path / "checkpoint.pt",
            **options,
        )

    def run(self, tmp_path: Path, loss: Any = None, **options: Any) -> TrainingResult:
        return self.trainer(tmp_path, loss, **options).run()


@pytest.fixture(scope="module")
def setup(llama_folder: Path) -> Setup:
    return Setup(llama_folder)


@pytest.fixture(scope="module", params=["untied", "tied", "gpt2", "bloom"])
def any_setup(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """Models of several ties: wherever weights are compared, kept or changed one by one."""
    kind, options = request.param, {}
    if kind in {"untied", "tied"}:
        kind, options = "llama", {"tie_word_embeddings": kind == "tied"}
    setup = Setup(tiny_folder(tmp_path_factory, kind, **options))
    model = setup.backend.model
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (request.param != "untied")
    return setup


@pytest.mark.parametrize("name", list_losses())
def test_the_first_loss_is_its_value_at_the_reference(
    setup: Setup, tmp_path: Path, name: str
) -> None:
    result = setup.run(tmp_path, get_loss(name), settings={"steps": 1})
    assert result.initial_loss_expected is not None
    scale = max(1.0, abs(result.initial_loss_expected))
    assert abs(result.initial_loss - result.initial_loss_expected) < 1e-5 * scale


def test_dpo_starts_at_ln_2_and_descends(setup: Setup, tmp_path: Path) -> None:
    result = setup.run(tmp_path, settings={"steps": 30})
    assert result.initial_loss == pytest.approx(math.log(2), abs=1e-6)
    assert result.metrics["loss"].iloc[-1] < 0.6
    assert result.metrics["accuracy"].iloc[-1] > 0.9


@pytest.mark.parametrize(
    "path",
    [
        FullLogitsBackend,
        HiddenStateBackend,
        partial(HiddenStateBackend, masks_padding=True),
        partial(HiddenStateBackend, packs=True),
        partial(FullLogitsBackend, packs=True),
    ],
)
def test_every_path_starts_at_ln_2_and_learns_alike(
    setup: Setup, tmp_path: Path, path: Callable[[Any], LogprobBackend]
) -> None:
    expected = setup.run(tmp_path).metrics
    usual, usual_reference = setup.backend, setup.reference
    try:
        setup.backend = path(usual.model)
        usual.model.load_state_dict(setup.initial)
        setup.reference = CachedReference(setup.backend, PAIRS, f"tiny, {path!r}", "cpu/fp32")
        result = setup.run(tmp_path)
    finally:
        setup.backend, setup.reference = usual, usual_reference
    assert result.initial_loss == pytest.approx(math.log(2), abs=1e-6)
    pd.testing.assert_frame_equal(result.metrics, expected, rtol=1e-3, atol=1e-4)


def test_every_step_is_logged_before_its_update(setup: Setup, tmp_path: Path) -> None:
    metrics = setup.run(tmp_path).metrics
    assert list(metrics.columns) == [
        "step",
        "loss",
        "margin",
        "chosen_logratio",
        "rejected_logratio",
        "accuracy",
        "gradient_norm",
        "learning_rate",
    ]
    assert metrics["step"].tolist() == [0, 1, 2, 3, 4, 5]
    first = metrics.iloc[0]
    assert first["margin"] == pytest.approx(0, abs=1e-4)
    difference = metrics["chosen_logratio"] - metrics["rejected_logratio"]
    assert np.allclose(metrics["margin"], difference, atol=1e-4)


def test_nothing_of_a_run_outlives_it(setup: Setup, tmp_path: Path) -> None:
    """Moments that wait for the garbage collector lie beside those of the next run."""
    trainer = setup.trainer(tmp_path, settings={"steps": 2})
    trainer.run()
    left = weakref.ref(trainer.update.optimizer)
    gc.disable()
    try:
        del trainer
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "limit",
    [{"pairs_per_pass": 1}, {"pairs_per_pass": 3}, {"tokens_per_pass": 1}, {"tokens_per_pass": 60}],
)
def test_accumulation_changes_nothing(setup: Setup, tmp_path: Path, limit: dict[str, int]) -> None:
    """Eight passes of one pair give the step of one pass of eight: the mean is over pairs."""
    whole = setup.run(tmp_path)
    weights = setup.snapshot()
    split = setup.run(tmp_path, settings=limit)
    assert torch.allclose(setup.snapshot(), weights, atol=1e-5)
    pd.testing.assert_frame_equal(split.metrics, whole.metrics, rtol=1e-3, atol=1e-4)


NEEDY = ["odpo", "ld_dpo", "wpo(dpo)", "tdpo1", "tdpo2", "kto", "bco", "aot", "0.5*kto + 0.5*bco"]
"""At least one loss per need, and every way to couple a batch."""


@pytest.mark.parametrize("name", NEEDY)
def test_accumulation_changes_nothing_whatever_a_loss_needs(
    setup: Setup, tmp_path: Path, name: str
) -> None:
    whole = setup.run(tmp_path, get_loss(name))
    weights = setup.snapshot()
    split = setup.run(tmp_path, get_loss(name), settings={"pairs_per_pass": 1})
    assert torch.allclose(setup.snapshot(), weights, atol=1e-5)
    pd.testing.assert_frame_equal(split.metrics, whole.metrics, rtol=1e-3, atol=1e-4)


def other_than_per_pair(logps: PairLogps) -> dict[str, Any]:
    """What losses of eight pairs, or of one, have been seen to return."""
    sound = -logps.margin
    return {
        "mean": sound.mean(),
        "column": sound[:, None],
        "outer": sound[:, None] - sound[None],
        "fewer": sound[1:],
        "half": sound.half(),
        "double": sound.double(),
        "bfloat16": sound.bfloat16(),
        "list": list(sound),
        "number": 0.5,
        "elsewhere": sound.to("meta"),
    }


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("pairs_per_pass", [0, 1, 3])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("mean", r"shape \[\] in torch.float32 on cpu, not shape \[{n}\] in"),
        ("column", r"shape \[{n}, 1\] in torch.float32 on cpu, not shape \[{n}\] in"),
        ("outer", r"shape \[{n}, {n}\] in"),
        ("fewer", r"shape \[{less}\] in"),
        ("half", r"shape \[{n}\] in torch.float16 on cpu, not shape \[{n}\] in torch.float32"),
        ("double", "in torch.float64 on cpu, not"),
        ("bfloat16", "in torch.bfloat16 on cpu, not"),
        ("list", r"a list, not a tensor of shape \[{n}\]: a loss gives each pair its own value"),
        ("number", "a float, not a tensor of shape"),
        ("elsewhere", "in torch.float32 on meta, not"),
    ],
)
def test_loss_that_is_no_value_per_pair_is_refused(
    setup: Setup, tmp_path: Path, kind: str, said: str, pairs_per_pass: int, coupled: bool
) -> None:
    seen = 8 if coupled else pairs_per_pass or 8
    objective = Objective(
        lambda logps: other_than_per_pair(logps)[kind], name="mine", batch_coupled=coupled
    )
    trainer = setup.trainer(tmp_path, objective, settings={"pairs_per_pass": pairs_per_pass})
    before = setup.snapshot()
    message = said.replace("{n}", str(seen)).replace("{less}", str(seen - 1))
    with pytest.raises(ConfigurationError, match=f"mine returned .*{message}"):
        trainer.run()
    assert torch.equal(setup.snapshot(), before)


def test_share_of_pairs_where_a_formula_is_continued_is_logged(
    setup: Setup, tmp_path: Path
) -> None:
    """However the step is split, and none of it where the loss does not say."""

    def long_ones(logps: PairLogps) -> Tensor:
        return logps.chosen_tokens > 6

    lengths = np.asarray(PAIRS.chosen_lengths)
    for coupled in (False, True):
        objective = Objective(get_loss("dpo"), continued=long_ones, batch_coupled=coupled)
        for pairs_per_pass in (0, 3):
            settings = {"pairs_per_pass": pairs_per_pass}
            trainer = setup.trainer(tmp_path, objective, settings=settings)
            found = trainer.run().metrics["continued"]
            expected = [(lengths[list(indices)] > 6).mean() for indices in trainer.update.order]
            assert found.tolist() == pytest.approx(expected)
            assert 0 < found.mean() < 1
    assert "continued" not in setup.run(tmp_path, get_loss("dpo")).metrics
    assert setup.run(tmp_path, get_loss("gpo_exp")).metrics["continued"].tolist() == [0.0] * 6


def test_coupled_loss_sees_the_whole_step_and_hands_back_exact_slopes(
    setup: Setup, tmp_path: Path
) -> None:
    """A loss whose gradient is far from the mean of the passes' own."""
    seen = []

    def spread(logps: PairLogps) -> Tensor:
        seen.append(len(logps.policy_chosen))
        likely = (logps.policy_chosen - logps.policy_chosen.mean()).sigmoid()
        return -logps.margin * likely - 10 * likely

    def slopes(pairs_per_pass: int) -> Tensor:
        objective = Objective(spread, batch_coupled=True)
        trainer = setup.trainer(tmp_path, objective, settings={"pairs_per_pass": pairs_per_pass})
        setup.backend.model.zero_grad()  # of the runs before
        trainer.update.gradient(trainer.update.order[0])
        found = [parameter.grad.flatten() for parameter in setup.backend.model.parameters()]
        return torch.cat(found).clone()

    whole = slopes(0)
    assert whole.norm() > 1
    for pairs_per_pass in (1, 3):
        assert (slopes(pairs_per_pass) - whole).norm() < 1e-5 * whole.norm()
    assert set(seen) == {8}


def test_running_mean_is_that_of_all_pairs_seen(setup: Setup, tmp_path: Path) -> None:
    seen: list[PairLogps] = []

    def spy(logps: PairLogps) -> Tensor:
        if logps.policy_chosen.requires_grad:
            seen.append(logps)
        return get_loss("bco")(logps)

    needs = ("mean_logratio",)
    setup.run(tmp_path, Objective(spy, needs=needs, batch_coupled=True))
    ratios: list[float] = []
    for record in seen:
        ratios += [*record.chosen_logratio.tolist(), *record.rejected_logratio.tolist()]
        assert record.mean_logratio is not None
        assert record.mean_logratio[0].item() == pytest.approx(np.mean(ratios), abs=1e-6)
    assert len(ratios) == 6 * 16


def test_loss_is_supplied_what_it_needs_and_nothing_else(setup: Setup, tmp_path: Path) -> None:
    seen: list[PairLogps] = []

    def spy(logps: PairLogps) -> Tensor:
        seen.append(logps)
        return logps.margin

    for need in NEEDS:
        seen.clear()
        objective = Objective(spy, needs=(need,), batch_coupled=NEEDS[need].of_batch)
        setup.run(tmp_path, objective, settings={"steps": 1})
        given = set(non_null_fields(seen[0]))
        assert given == SIX | set(NEEDS[need].fields)


def test_each_need_has_its_provider() -> None:
    assert set(PROVIDERS) == set(NEEDS)


def test_margins_must_be_there(setup: Setup, tmp_path: Path) -> None:
    without = replace(PAIRS, margins=None)
    with pytest.raises(DataError, match=r"odpo needs a margin for each pair, and 24 of 24"):
        Trainer(
            setup.backend,
            get_loss("odpo"),
            pairs=without,
            reference=setup.reference,
            settings=SETTINGS,
            seed=0,
            checkpoint=tmp_path / "c.pt",
        )


def test_reference_free_loss_trains_the_same_without_a_reference(
    setup: Setup, tmp_path: Path
) -> None:
    with_one = setup.run(tmp_path, get_loss("simpo"))
    weights = setup.snapshot()
    without = setup.run(tmp_path, get_loss("simpo"), reference=None)
    assert torch.equal(setup.snapshot(), weights)
    assert without.initial_loss_expected is None
    kept = ["step", "loss", "gradient_norm", "learning_rate"]
    assert list(without.metrics.columns) == kept
    pd.testing.assert_frame_equal(without.metrics, with_one.metrics[kept], check_exact=True)


def test_loss_that_reads_the_reference_must_have_one(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dpo reads the reference"):
        setup.trainer(tmp_path, get_loss("dpo"), reference=None)


DRAWN = bootstrap_pairs(len(PAIRS), 5)


@pytest.mark.parametrize("name", ["dpo", "kto", "ld_dpo", "simpo", "odpo"])
def test_drawn_pairs_train_as_a_data_set_made_of_them_does(
    setup: Setup, tmp_path: Path, name: str
) -> None:
    """The log-probs that are taken from all pairs' are those of the drawn ones, in their places."""
    pairs = PAIRS.take(DRAWN.tolist())
    loss, frozen = get_loss(name), setup.reference
    expected = setup.run(
        tmp_path / "given",
        loss,
        pairs=pairs,
        reference=CachedReference(frozen.backend, pairs, *frozen.key),
    )
    weights = setup.snapshot()
    found = setup.run(
        tmp_path / "drawn", loss, pairs=pairs, reference=ResampledReference(frozen, pairs, DRAWN)
    )
    pd.testing.assert_frame_equal(found.metrics, expected.metrics, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(setup.snapshot(), weights, rtol=1e-4, atol=1e-5)


def test_a_pair_counts_as_often_as_it_was_drawn(setup: Setup, tmp_path: Path) -> None:
    """The gradient of all draws in one step is that of the pairs, weighted by their counts."""
    pairs = PAIRS.take(DRAWN.tolist())
    reference = ResampledReference(setup.reference, pairs, DRAWN)
    trainer = setup.trainer(tmp_path, pairs=pairs, reference=reference)
    trainer.update.optimizer.zero_grad()
    trainer.update.gradient(range(len(pairs)))
    parameters = list(setup.backend.model.parameters())
    drawn = torch.cat([one.grad.flatten() for one in parameters if one.grad is not None])
    counts = torch.from_numpy(np.bincount(DRAWN, minlength=len(PAIRS)))

    def weighted(logps: PairLogps) -> Tensor:
        return get_loss("dpo").at({})(logps) * counts

    trainer = setup.trainer(tmp_path, weighted)
    trainer.update.optimizer.zero_grad()
    trainer.update.gradient(range(len(PAIRS)))
    own = torch.cat([one.grad.flatten() for one in parameters if one.grad is not None])
    torch.testing.assert_close(drawn, own, rtol=1e-4, atol=1e-6)


def test_synced_reference_of_drawn_pairs_is_theirs(setup: Setup, tmp_path: Path) -> None:
    pairs = PAIRS.take(DRAWN.tolist())
    settings = {"reference_sync_steps": 2}
    frozen = setup.reference
    given = CachedReference(frozen.backend, pairs, *frozen.key)
    drawn = ResampledReference(frozen, pairs, DRAWN)
    own, taken = (
        setup.run(
            tmp_path / name, get_loss("kto"), pairs=pairs, reference=one, settings=settings
        ).metrics
        for name, one in (("given", given), ("drawn", drawn))
    )
    pd.testing.assert_frame_equal(taken, own, rtol=1e-4, atol=1e-5)


def test_synced_reference_takes_over_the_policy(any_setup: Setup, tmp_path: Path) -> None:
    """At rate 1 after every step, each step begins with log-ratios of zero."""
    frozen = any_setup.reference.backend.model.state_dict()
    before = {name: value.clone() for name, value in frozen.items()}
    settings = {"reference_sync_steps": 1, "reference_sync_rate": 1.0}
    metrics = any_setup.run(tmp_path, settings=settings).metrics
    assert metrics["margin"].abs().max() < 1e-4
    assert metrics["loss"].to_numpy() == pytest.approx(math.log(2), abs=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in frozen.items())


def test_synced_reference_follows_every_so_many_steps(setup: Setup, tmp_path: Path) -> None:
    """Every third step, at rate 1: steps 0, 3 and 6 begin at the reference, the others do not."""
    settings = {"reference_sync_steps": 3, "reference_sync_rate": 1.0, "steps": 8}
    ratios = setup.run(tmp_path, settings=settings).metrics["chosen_logratio"].abs()
    assert (ratios < 1e-4).tolist() == [step % 3 == 0 for step in range(8)]


@pytest.mark.parametrize("rate", [0.6, 0.05])
def test_synced_reference_is_the_weighted_mean(
    any_setup: Setup, tmp_path: Path, rate: float
) -> None:
    """Twice in the run: after steps 2 and 4 of 4."""
    policies: list[dict[str, Tensor]] = []

    def keep(done: int, _total: int) -> None:
        if done % 2 == 0:
            policies.append({name: value.clone() for name, value in any_setup.weights().items()})

    settings = {"reference_sync_steps": 2, "reference_sync_rate": rate, "steps": 4}
    trainer = any_setup.trainer(tmp_path, settings=settings, after_step=keep)
    trainer.run()
    assert trainer.update.reference is not None
    after = trainer.update.reference.backend.model.state_dict()
    first, second = policies
    for name, start in any_setup.initial.items():
        between = rate * first[name].double() + (1 - rate) * start.double()
        expected = rate * second[name].double() + (1 - rate) * between
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-5, atol=1e-7)
        moved = (second[name].double() - start.double()).abs().max()
        assert moved > 1e-4, "a policy that stands still would not tell one share from another"


def test_synced_reference_must_have_the_policys_weights(
    any_setup: Setup, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {"reference_sync_steps": 2}
    other = load_model(tiny_folder(tmp_path_factory, "llama", hidden_size=16), "cpu")
    reference = CachedReference(choose_backend(other, "fp32"), PAIRS, "other", "cpu/fp32")
    with pytest.raises(ConfigurationError, match=r"reference_sync_steps mixes .* differs: give"):
        any_setup.trainer(tmp_path, settings=settings, reference=reference)


def stop_after(steps: int) -> Control:
    asked = iter(range(1, 1000))
    return Control(should_stop=lambda: next(asked) >= steps)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(
    any_setup: Setup, tmp_path: Path, optimizer: str
) -> None:
    settings = {"optimizer": optimizer}
    whole = any_setup.run(tmp_path / "whole", settings=settings)
    weights = any_setup.snapshot()
    with pytest.raises(StoppedError):
        any_setup.run(tmp_path / "parts", settings=settings, control=stop_after(4))
    resumed = any_setup.trainer(tmp_path / "parts", settings=settings)
    assert resumed.first_step == 4
    result = resumed.run()
    assert torch.equal(any_setup.snapshot(), weights)
    pd.testing.assert_frame_equal(result.metrics, whole.metrics, check_exact=True)
    assert result.initial_loss == whole.initial_loss


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("0.3*odpo + 0.3*ld_dpo", {}),
        ("wpo(tdpo2)", {}),
        ("bco", {"pairs_per_pass": 3}),
        ("kto", {}),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one_whatever_a_loss_needs(
    setup: Setup, tmp_path: Path, name: str, settings: dict[str, Any]
) -> None:
    loss = get_loss(name)
    whole = setup.run(tmp_path / "whole", loss, settings=settings)
    weights = setup.snapshot()
    with pytest.raises(StoppedError):
        setup.run(tmp_path / "parts", loss, settings=settings, control=stop_after(4))
    result = setup.run(tmp_path / "parts", loss, settings=settings)
    assert torch.equal(setup.snapshot(), weights)
    pd.testing.assert_frame_equal(result.metrics, whole.metrics, check_exact=True)
    assert result.initial_loss_expected == whole.initial_loss_expected


def test_resumed_run_equals_an_uninterrupted_one_whose_reference_follows(
    any_setup: Setup, tmp_path: Path
) -> None:
    settings = {"reference_sync_steps": 2}
    whole = any_setup.run(tmp_path / "whole", settings=settings)
    weights = any_setup.snapshot()
    with pytest.raises(StoppedError):
        any_setup.run(tmp_path / "parts", settings=settings, control=stop_after(3))
    result = any_setup.run(tmp_path / "parts", settings=settings)
    assert torch.equal(any_setup.snapshot(), weights)
    pd.testing.assert_frame_equal(result.metrics, whole.metrics, check_exact=True)


def test_checkpoints_come_as_often_as_asked(setup: Setup, tmp_path: Path) -> None:
    setup.run(tmp_path / "never")
    assert not (tmp_path / "never" / "checkpoint.pt").exists()
    setup.run(tmp_path / "always", settings={"checkpoint_seconds": 0})
    assert setup.trainer(tmp_path / "always").first_step == 6


def test_how_often_metrics_are_read_changes_nothing(setup: Setup, tmp_path: Path) -> None:
    rare = setup.run(tmp_path, settings={"log_every": 100})
    often = setup.run(tmp_path, settings={"log_every": 1})
    pd.testing.assert_frame_equal(rare.metrics, often.metrics, check_exact=True)


def test_time_before_an_interruption_counts(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        setup.run(tmp_path, control=stop_after(2))
    file = tmp_path / "checkpoint.pt"
    saved = Checkpoint.load(file)
    assert saved is not None
    assert 0 < saved.seconds < 100
    state = saved.state
    assert state is not None
    replace(saved, seconds=1000.0).save(file, lambda new: shutil.copytree(state, new))
    assert 1000 < setup.run(tmp_path).seconds < 1100


def test_steps_are_told_as_they_are_made(setup: Setup, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    setup.run(tmp_path, control=Control(progress=lambda *word: told.append(word)))
    assert told == [("training", done, 6) for done in range(1, 7)]


def test_metrics_are_looked_at_every_so_many_steps(setup: Setup, tmp_path: Path) -> None:
    """A loss that is nowhere finite is seen when they are read for the first time."""
    for log_every, steps in ((1, 1), (2, 2), (4, 4), (100, 6)):
        told: list[int] = []

        def tell(_phase: str, done: int, _total: int, told: list[int] = told) -> None:
            told.append(done)

        with pytest.raises(DivergedError, match="at step 0"):
            setup.run(
                tmp_path / str(log_every),
                lambda logps: logps.margin * math.nan,
                settings={"log_every": log_every},
                control=Control(progress=tell),
            )
        assert told == list(range(1, steps + 1))


def test_each_step_is_made_at_the_rate_of_its_schedule(setup: Setup, tmp_path: Path) -> None:
    settings = {"steps": 4, "warmup_fraction": 0.5, "schedule": "linear"}
    used: list[float] = []

    def after_step(_done: int, _total: int) -> None:
        used.append(trainer.update.optimizer.param_groups[0]["lr"])

    trainer = setup.trainer(tmp_path, settings=settings, after_step=after_step)
    metrics = trainer.run().metrics
    assert used == pytest.approx([5e-4, 1e-3, 1e-3, 5e-4])
    assert metrics["learning_rate"].tolist() == used


def test_gradient_is_clipped_after_its_norm_is_taken(setup: Setup, tmp_path: Path) -> None:
    """Adam's steps do not depend on the gradient's length until it is below its epsilon, 1e-8."""
    free = setup.run(tmp_path, settings={"steps": 1})
    moved = (setup.snapshot() - torch.cat([v.flatten() for v in setup.initial.values()])).abs()
    clipped = setup.run(tmp_path, settings={"steps": 1, "max_gradient_norm": 1e-13})
    hardly = (setup.snapshot() - torch.cat([v.flatten() for v in setup.initial.values()])).abs()
    assert moved.max() > 1e-4
    assert hardly.max() < 1e-6
    assert clipped.metrics["gradient_norm"][0] == free.metrics["gradient_norm"][0] > 1e-3


def seen_pairs(setup: Setup, tmp_path: Path, loss: Callable[..., Tensor], seed: int) -> list[Any]:
    """Lengths of the responses that a loss is shown, which tell the pairs apart."""
    seen = []

    def spy(logps: PairLogps) -> Tensor:
        if logps.policy_chosen.requires_grad:
            seen.append(
                list(zip(logps.chosen_tokens.tolist(), logps.rejected_tokens.tolist(), strict=True))
            )
        return loss(logps)

    setup.run(tmp_path, spy, seed=seed)
    return seen


def test_the_order_depends_on_the_seed_and_never_on_the_loss(setup: Setup, tmp_path: Path) -> None:
    dpo, hinge = get_loss("dpo"), get_loss("hinge")
    first = seen_pairs(setup, tmp_path, dpo, seed=0)
    assert seen_pairs(setup, tmp_path, hinge, seed=0) == first
    assert seen_pairs(setup, tmp_path, dpo, seed=1) != first


def test_a_loss_that_is_not_finite_stops_the_trial(setup: Setup, tmp_path: Path) -> None:
    def broken_from_step_3(logps: PairLogps) -> Tensor:
        calls.append(1)
        return logps.margin * (math.nan if len(calls) > 4 else 1.0)  # one call is for L0

    calls: list[int] = []
    before = setup.run(tmp_path, lambda logps: logps.margin).metrics["loss"][2]
    said = rf"loss stopped being finite at step 3 .*nan, {re.escape(f'{before:.4g}')} one step earl"
    with pytest.raises(DivergedError, match=said):
        setup.run(tmp_path, broken_from_step_3)


def test_a_gradient_that_is_not_finite_stops_the_trial(setup: Setup, tmp_path: Path) -> None:
    def infinite_slope(logps: PairLogps) -> Tensor:
        return (logps.margin - logps.margin.detach()).abs().sqrt()

    with pytest.raises(DivergedError, match="gradient_norm stopped being finite at step 0"):
        setup.run(tmp_path, infinite_slope)


def test_a_diverged_run_is_never_saved(setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        setup.run(
            tmp_path, lambda logps: logps.margin * math.nan, settings={"checkpoint_seconds": 0}
        )
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 3), (2.0, 6), (0.1, 1), (None, FEWEST_STEPS)])
def test_epochs_become_steps(
    setup: Setup, tmp_path: Path, epochs: float | None, steps: int
) -> None:
    trainer = setup.trainer(tmp_path, settings={"steps": None, "epochs": epochs})
    assert trainer.steps == steps


def test_what_is_called_after_each_step_costs_no_training_time(
    setup: Setup, tmp_path: Path
) -> None:
    plain = setup.run(tmp_path / "plain")
    weights = setup.snapshot()
    calls: list[tuple[int, int]] = []

    def after_step(done: int, total: int) -> None:
        calls.append((done, total))
        time.sleep(0.3)

    result = setup.run(tmp_path / "called", after_step=after_step)
    assert calls == [(done, 6) for done in range(1, 7)]
    assert torch.equal(setup.snapshot(), weights)
    pd.testing.assert_frame_equal(result.metrics, plain.metrics, check_exact=True)
    assert 0 < result.seconds < 6 * 0.3
