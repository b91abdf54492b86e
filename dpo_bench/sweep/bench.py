"""What the trials of a sweep share, held in memory by each worker: model, data, reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_bench.contract import get_loss
from dpo_bench.data.chat import ChatTemplate
from dpo_bench.data.ends import Ends
from dpo_bench.data.prepare import prepare_pairs
from dpo_bench.data.tokenised import TokenisedPairs
from dpo_bench.evaluation.policy import Evaluator
from dpo_bench.evaluation.prompts import choose_prompts
from dpo_bench.evaluation.reference import ReferenceEvaluation, evaluate_reference
from dpo_bench.evaluation.rewards import find_reward
from dpo_bench.experiment.plan import COSMETIC, IN_CONTENT, RECIPE
from dpo_bench.model.adapter import reset_adapter, save_adapter, with_adapter
from dpo_bench.model.choose import choose_path
from dpo_bench.model.compatibility import (
    require_embedded,
    require_positions,
    require_same_tokens,
    share_vocabulary,
)
from dpo_bench.model.files import listed_ends
from dpo_bench.model.load import load_model, load_tokenizer
from dpo_bench.model.paths import LogpPath
from dpo_bench.model.reference_cache import reference_logps
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import cache_root, digest, published_folder, write_json
from dpo_bench.training.needs import require_margins
from dpo_bench.training.reference import CachedReference

ONLY_POLICIES = ("every", "kl_reverse", "judge_opponents")
"""Settings of the evaluation that change nothing of the reference's own."""

if TYPE_CHECKING:
    from dpo_bench.experiment import Experiment
    from dpo_bench.model.source import ModelFolder
    from dpo_bench.sweep.sources import Sources


class Bench:
    """Model, data and reference of an experiment, ready for any number of trials.

    The slow parts (the reference's log-probs, its responses and their rewards) are kept by content
    in the cache, so that the first worker computes them and all others read them.

    Raises:
        DpoBenchError: model or data cannot be used.
    """

    def __init__(
        self, experiment: Experiment, sources: Sources, progress: Progress = quiet
    ) -> None:
        self.experiment = experiment
        self.sources = sources
        self._progress = progress
        self.tokenizer = load_tokenizer(
            sources.policy, trust_remote_code=experiment.trust_remote_code
        )
        listed = listed_ends(sources.policy.path)
        template = ChatTemplate(self.tokenizer, experiment.data.chat_template_kwargs)
        self.end_tokens = Ends.of(template, listed).tokens
        self.pairs, heldout, self.counts = self._tokenised_pairs(listed, progress)
        self.prompts = choose_prompts(heldout, experiment.evaluation.prompts)
        self._require_known_tokens()
        self.reference = self.load(sources.reference)
        self.reference.model.requires_grad_(requires_grad=False)
        self.policy, self._restart = self._starting_policy()
        share_vocabulary(self.policy, self.reference)
        for path in (self.policy, self.reference):
            require_embedded(path, self.tokenizer, self._used_tokens)
        # Log-ratios are taken between values that came the same way.
        self.policy.packs = self.reference.packs = self.policy.packs and self.reference.packs
        self.scorer = find_reward(experiment.evaluation, sources.device)
        self.reference_folder = self._evaluate_reference(progress)
        self.evaluator = Evaluator(
            reference=self.reference,
            heldout_reference=reference_logps(
                self.reference,
                self.prompts.pairs,
                sources.reference.digest,
                sources.content.device,
                progress,
            ),
            evaluation=ReferenceEvaluation.load(self.reference_folder),
            tokenizer=self.tokenizer,
            end_tokens=self.end_tokens,
            prompts=self.prompts,
            scorer=self.scorer,
            options=experiment.evaluation,
        )

    @property
    def computing(self) -> dict[str, str]:
        """How log-probs are computed and responses sampled, in the words of `model.paths`."""
        return {
            "architecture": type(self.policy.model).__name__,
            "log_probs": self.policy.name,
            "sampling": self.policy.sampler,
        }

    def reset_policy(self, seed: int) -> None:
        """Put the policy back to where a trial with this seed starts."""
        self._restart(seed)

    def save_policy(self, folder: Path) -> None:
        """Write the policy as it is now, in transformers' format with safetensors.

        Of a LoRA policy only the adapter is written, in peft's format.
        """
        model = self.policy.model
        if self.experiment.training.lora is not None:
            save_adapter(model, folder)
        else:
            # Switched off for training; whoever loads the policy wants to generate with it.
            model.config.use_cache = True
            model.save_pretrained(folder)
            model.config.use_cache = False
        self.tokenizer.save_pretrained(folder)

    def _starting_policy(self) -> tuple[LogpPath, Callable[[int], object]]:
        """The policy, and what puts it back to its starting point for a seed.

        Where it starts at the reference it needs no copy of that: an adapter stands over the
        reference's own weights, and a policy that is trained whole is put back from them.
        """
        sources, lora = self.sources, self.experiment.training.lora
        same = sources.policy.digest == sources.reference.digest
        if lora is not None:
            base = self.reference if same else self.load(sources.policy)
            adapted = with_adapter(base, lora, sources.policy.address)
            return adapted, partial(reset_adapter, adapted.model)
        policy = self.load(sources.policy)
        initial = self.reference.model.state_dict()
        if not same:
            initial = {name: value.clone() for name, value in policy.model.state_dict().items()}
        return policy, lambda _seed: policy.model.load_state_dict(initial)

    @cached_property
    def training_reference(self) -> CachedReference | None:
        """The reference for the training pairs; None when no loss of the experiment reads it."""
        losses = [get_loss(grid.name) for grid in self.experiment.losses]
        for loss in losses:
            if "preference_margin" in loss.needs:
                require_margins(loss.name, self.pairs, self.experiment.data.margin_column)
        if not any(loss.needs_reference for loss in losses):
            return None
        reference = CachedReference(
            self.reference,
            self.pairs,
            self.sources.reference.digest,
            self.sources.content.device,
            self._progress,
        )
        if not self.experiment.training.reference_sync_steps:
            _ = reference.all_sums  # had now, by the first worker, so that the others find them
        return reference

    @cached_property
    def _used_tokens(self) -> frozenset[int]:
        """Ids that occur in the data, and those that end a response."""
        sides = [
            side.flat
            for pairs in (self.pairs, self.prompts.pairs)
            for side in (pairs.prompt, pairs.chosen, pairs.rejected)
        ]
        return frozenset(np.unique(np.concatenate(sides)).tolist()) | self.end_tokens

    def _require_known_tokens(self) -> None:
        """See that the reference means the same by the ids that the policy's tokenizer makes."""
        if self.sources.reference.digest == self.sources.policy.digest:
            return
        theirs = load_tokenizer(
            self.sources.reference, trust_remote_code=self.experiment.trust_remote_code
        )
        require_same_tokens(self.tokenizer, theirs, self._used_tokens)

    def load(self, folder: ModelFolder) -> LogpPath:
        """A model on this experiment's device, with the kernel path that suits it."""
        model = load_model(
            folder, self.sources.device, trust_remote_code=self.experiment.trust_remote_code
        )
        pair = max(self.pairs.longest, self.prompts.pairs.longest)
        prompt = max(map(len, self.prompts.tokens), default=0)
        new_tokens = self.experiment.evaluation.max_new_tokens
        require_positions(model, pair, prompt, new_tokens)
        return choose_path(model, self.sources.precision, max(pair, prompt + new_tokens))

    def _tokenised_pairs(
        self, listed: Sequence[int], progress: Progress
    ) -> tuple[TokenisedPairs, TokenisedPairs, dict[str, Any]]:
        """Training pairs, held-out pairs and what became of the data; kept in the cache."""
        content = self.sources.content
        key = digest({"recipe": RECIPE, "data": content.data, "tokenizer": content.policy})
        folder = cache_root() / "pairs" / key
        if not folder.is_dir():
            training, heldout, counts = prepare_pairs(
                self.sources.preferences,
                self.tokenizer,
                self.experiment.data,
                progress,
                listed_ends=listed,
            )
            with published_folder(folder) as new:
                training.save(new / "training.safetensors")
                heldout.save(new / "heldout.safetensors")
                write_json(new / "counts.json", counts.as_dict())
        return (
            TokenisedPairs.load(folder / "training.safetensors"),
            TokenisedPairs.load(folder / "heldout.safetensors"),
            json.loads((folder / "counts.json").read_text(encoding="utf-8")),
        )

    def _evaluate_reference(self, progress: Progress) -> Path:
        """The folder of the reference's evaluation, made when the cache lacks it."""
        options = self.experiment.evaluation
        key = digest(
            {
                "recipe": RECIPE,
                "reference": self.sources.content.reference,
                "tokenizer": self.sources.content.policy,
                "device": self.sources.content.device,
                "reward": self.sources.content.reward,
                "options": options.model_dump(
                    mode="json",
                    exclude={*COSMETIC["evaluation"], *IN_CONTENT["evaluation"], *ONLY_POLICIES},
                ),
                "prompts": self.prompts.pairs.digest,
                "end_tokens": sorted(self.end_tokens),
            }
        )
        folder = cache_root() / "reference-evaluations" / key
        if not folder.is_dir():
            evaluate_reference(
                folder,
                self.reference,
                tokenizer=self.tokenizer,
                end_tokens=self.end_tokens,
                prompts=self.prompts,
                scorer=self.scorer,
                options=options,
                progress=progress,
            )
        return folder
