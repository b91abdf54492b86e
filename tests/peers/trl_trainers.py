"""Ten steps of TRL's own trainers and of this project's, on the same pairs in the same order.

TRL is spared its tokenizing and its shuffling, and nothing else.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import SequentialSampler

from dpo_bench.contract import Objective
from dpo_bench.data.batches import step_order
from dpo_bench.data.mismatches import Mismatches
from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.experiment.config import Training
from dpo_bench.model.logprobs import choose_backend
from dpo_bench.training.reference_model import CachedReference
from dpo_bench.training.trainer import Trainer
from tests.model.architectures import VOCABULARY, tiny_model

STEPS, PAIRS_PER_STEP = 10, 4
SETTINGS = Training(
    learning_rate=2e-3,
    warmup_fraction=0.0,
    steps=STEPS,
    pairs_per_step=PAIRS_PER_STEP,
    pairs_per_pass=2,
    max_gradient_norm=1.0,
    checkpoint_seconds=1e9,
)


@dataclass(frozen=True)
class Run:
    """What a trainer did: losses and gradient norms of each step, final weights by name."""

    losses: Tensor
    gradient_norms: Tensor
    weights: dict[str, Tensor]


def random_pairs(*, alike: bool = False) -> TokenizedPairs:
    """Forty pairs of random tokens.

    Args:
        alike: prompts of one token and chosen responses of six, so that a mean over the tokens of
            a batch is the mean over its responses.
    """
    generator = np.random.default_rng(4)

    def side(low: int, high: int) -> Ragged:
        lengths = generator.integers(low, high + 1, STEPS * PAIRS_PER_STEP)
        return Ragged.of([generator.integers(3, VOCABULARY, n).astype(np.int32) for n in lengths])

    if alike:
        return TokenizedPairs(side(1, 1), side(6, 6), side(1, 9))
    return TokenizedPairs(side(1, 7), side(1, 9), side(1, 9))


def reference_of(*, tied: bool) -> Any:
    """A tiny Llama in fp32, always the same."""
    return tiny_model("llama", torch.float32, tie_word_embeddings=tied, initializer_range=0.1)


def policy_of(*, tied: bool) -> Any:
    """Where the policy starts: some way off the reference, so that no log-ratio is 0."""
    model, generator = reference_of(tied=tied), torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return model


def ours(
    objective: Objective, pairs: TokenizedPairs, *, tied: bool, folder: Path, **changes: Any
) -> Run:
    """This project's trainer, from pairs in passes of two."""
    settings = SETTINGS.model_copy(update=changes)
    backend = choose_backend(policy_of(tied=tied), "fp32")
    assert backend.packs, "the path that is usual"
    frozen = choose_backend(reference_of(tied=tied), "fp32")
    reference = CachedReference(frozen, pairs, f"{tied}-{pairs.digest}", "cpu/fp32")
    trainer = Trainer(
        backend,
        objective,
        pairs=pairs,
        reference=reference,
        settings=settings,
        seed=0,
        checkpoint=folder / "checkpoint.pt",
    )
    metrics = trainer.run().metrics
    return Run(
        torch.tensor(metrics["loss"].to_numpy()),
        torch.tensor(metrics["gradient_norm"].to_numpy()),
        dict(backend.model.state_dict()),
    )


def theirs(
    kind: type[Any],
    configuration: type[Any],
    dataset: Dataset,
    *,
    tied: bool,
    folder: Path,
    tokenizer: Any,
    reads_reference: bool = True,
    **options: Any,
) -> Run:
    """A trainer of TRL, with its text path and its shuffling taken out."""
    seen: list[float] = []

    class Spared(kind):  # type: ignore[misc]  # TRL's, whose types are not known
        def _prepare_dataset(self, given: Any, *_: Any, **__: Any) -> Any:
            return given

        def tokenize_row(self, row: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
            return {name: value for name, value in row.items() if name.endswith(INPUTS)}

        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(cast("Any", self.train_dataset))

        def compute_loss(self, *arguments: Any, **keywords: Any) -> Any:
            loss = super().compute_loss(*arguments, **keywords)
            seen.append(float(loss))
            return loss

    model = policy_of(tied=tied).train()
    arguments = {**COMMON, "output_dir": str(folder / "trl"), **options}
    reference = {"ref_model": reference_of(tied=tied)} if reads_reference else {}
    trainer = Spared(
        model,
        args=configuration(**arguments),
        train_dataset=dataset,
        processing_class=tokenizer,
        **reference,
    )
    trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return Run(torch.tensor(seen), torch.tensor(norms), dict(trainer.model.state_dict()))


INPUTS = ("_input_ids", "_attention_mask", "_labels")
COMMON: dict[str, Any] = {
    "learning_rate": SETTINGS.learning_rate,
    "lr_scheduler_type": "linear",
    "max_grad_norm": SETTINGS.max_gradient_norm,
    "per_device_train_batch_size": PAIRS_PER_STEP,
    "max_steps": STEPS,
    "logging_steps": 1,
    "max_length": 512,
    "bf16": False,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "dataloader_pin_memory": False,
    "remove_unused_columns": False,
}


def in_order(pairs: TokenizedPairs) -> TokenizedPairs:
    """The pairs in the order in which this project's trainer takes them."""
    order = step_order(len(pairs), PAIRS_PER_STEP, STEPS, seed=0)
    return pairs.take([*itertools.chain(*order)])


def ids(side: Ragged) -> list[list[int]]:
    """Token ids of each row."""
    return [np.asarray(side[index]).tolist() for index in range(len(side))]


def as_token_ids(pairs: TokenizedPairs) -> Dataset:
    """For `DPOTrainer`: what its own tokenizing leaves."""
    known = in_order(pairs)
    return Dataset.from_dict(
        {
            "prompt_ids": ids(known.prompt),
            "chosen_ids": ids(known.chosen),
            "rejected_ids": ids(known.rejected),
        }
    )


def as_labels(pairs: TokenizedPairs) -> Dataset:
    """For `CPOTrainer` and `ORPOTrainer`: whole texts, the prompt's labels left out."""
    known = in_order(pairs)
    columns: dict[str, list[Any]] = {"prompt": [], "chosen": [], "rejected": []}
    for prompt, *sides in zip(
        ids(known.prompt), ids(known.chosen), ids(known.rejected), strict=True
    ):
        columns["prompt"].append("")
        for side, response in zip(("chosen", "rejected"), sides, strict=True):
            text = [*prompt, *response]
            columns[side].append("")
            columns.setdefault(f"{side}_input_ids", []).append(text)
            columns.setdefault(f"{side}_attention_mask", []).append([1] * len(text))
            columns.setdefault(f"{side}_labels", []).append([-100] * len(prompt) + response)
    return Dataset.from_dict(columns)


def as_single_responses(pairs: TokenizedPairs) -> Dataset:
    """For `KTOTrainer`: chosen and rejected of a pair one after the other.

    Both bring the pair's mismatched response, of which the reference point is made.
    """
    order = [*itertools.chain(*step_order(len(pairs), PAIRS_PER_STEP, STEPS, seed=0))]
    _, others = Mismatches(pairs).texts(order)
    known, rows = pairs.take(order), list[dict[str, Any]]()
    sides = zip(ids(known.prompt), ids(known.chosen), ids(known.rejected), others, strict=True)
    for prompt, chosen, rejected, other in sides:
        for response, label in ((chosen, True), (rejected, False)):
            rows.append(
                {
                    "prompt_ids": prompt,
                    "completion_ids": response,
                    "KL_completion_ids": np.asarray(other).tolist(),
                    "label": label,
                }
            )
    return Dataset.from_list(rows)


def scaled(objective: Objective, factor: float) -> Objective:
    """The objective times a number."""
    return replace(objective, function=lambda record: factor * objective(record))
