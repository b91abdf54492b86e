"""What the trials of a sweep share, held in memory by each worker: model, data, reference."""

from __future__ import annotations

import logging
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_bench.cache import kept
from dpo_bench.contract import get_loss
from dpo_bench.data.resample import bootstrap_pairs
from dpo_bench.evaluation.policy import Evaluator
from dpo_bench.evaluation.reference_evaluation import ReferenceEvaluation, evaluate_reference
from dpo_bench.evaluation.reference_precision import opponents_needed
from dpo_bench.experiment.fields import DIGESTED, NO_EFFECT, POLICY_ONLY, without
from dpo_bench.experiment.identity import RECIPE
from dpo_bench.model.activation_checkpointing import checkpoint_layers
from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.choose_lower_layers import share_lower_layers
from dpo_bench.model.compatibility import (
    require_ids,
    require_positions,
    share_vocabulary,
)
from dpo_bench.model.compile_layers import compile_alike
from dpo_bench.model.files import PROCESSOR
from dpo_bench.model.load import load_model, set_cache, skeleton
from dpo_bench.model.logprob_backends import LogprobBackend
from dpo_bench.model.lora import frozen_below, reset_adapter, save_adapter, with_adapter
from dpo_bench.model.mapped_weights import map_weights, worth_mapping
from dpo_bench.model.narrow_weights import narrow_weights
from dpo_bench.model.ranks import Ranks
from dpo_bench.model.reference_cache import reference_logps
from dpo_bench.model.sharded import gathered, share_backend
from dpo_bench.progress import Progress, quiet
from dpo_bench.rewards.find import find_reward
from dpo_bench.storage import digest
from dpo_bench.sweep.inputs import describe, prepare_inputs
from dpo_bench.sweep.memory import describe_plan, memory_plan, require_fitting
from dpo_bench.training.input_builders import require_margins
from dpo_bench.training.probe import confirmed_tokens
from dpo_bench.training.reference_model import CachedReference, ResampledReference
from dpo_bench.training.weights import trained_weights

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from torch import Tensor

    from dpo_bench.data.tokenized import TokenizedPairs
    from dpo_bench.experiment import Experiment
    from dpo_bench.model.files import ModelFolder
    from dpo_bench.sweep.sources import Sources
    from dpo_bench.training.memory import MemoryPlan


class WorkerContext:
    """Model, data and reference of an experiment, ready for any number of trials.

    The slow parts (the reference's log-probs, its responses and their rewards) are kept by content
    in the cache, so that the first worker computes them and all others read them.

    Args:
        experiment: the resolved configuration.
        sources: where model and data are.
        progress: told of what is prepared.
        ranks: the processes among which the models are divided, of which this one leads; this one
            alone where none are given.

    Raises:
        DpoBenchError: model or data cannot be used.
    """

    def __init__(
        self,
        experiment: Experiment,
        sources: Sources,
        progress: Progress = quiet,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.experiment = experiment
        self.sources = sources
        self._progress = progress
        self.inputs = prepare_inputs(experiment, sources, progress)
        self._resampled: tuple[int, TokenizedPairs, CachedReference | None] | None = None
        for line in describe(self.inputs, experiment):
            log.info("%s", line)
        self.plan = self._plan()
        self.reference = self._frozen(sources.reference)
        self._narrow(self.reference)
        self.policy = self._starting_policy()
        share_vocabulary(self.policy, self.reference)
        for path in (self.policy, self.reference):
            require_ids(path.model, path.vocabulary, self.inputs.tokenizer, self.inputs.used_tokens)
        # Log-ratios are taken between values that came the same way.
        self.policy.packs = self.reference.packs = self.policy.packs and self.reference.packs
        if sources.precision == "bf16":  # so that reference and policy have passes of one size
            self.policy.budget = self.reference.budget = experiment.training.tokens_per_pass
        self._architecture = type(self.policy.model).__name__
        if not self.ranks.alone:
            self._divide()
        self._follow_plan()
        compiles = {"auto": sources.device == "cuda", "none": False, "layers": True}
        if self.ranks.alone and compiles[experiment.training.compile]:
            compile_alike([self.policy, self.reference])
        self._share_lower_layers()
        self.scorer = find_reward(experiment.evaluation, sources.device)
        self.reference_folder = self._evaluate_reference(progress)
        self.evaluator = Evaluator(
            reference=self.reference,
            heldout_reference=reference_logps(
                self.reference,
                self.inputs.prompts.pairs,
                sources.reference.digest,
                sources.content.device,
                progress,
            ),
            evaluation=ReferenceEvaluation.load(self.reference_folder),
            tokenizer=self.inputs.tokenizer,
            end_tokens=self.inputs.end_tokens,
            prompts=self.inputs.prompts,
            scorer=self.scorer,
            options=experiment.evaluation,
        )

    @property
    def computing(self) -> dict[str, str]:
        """How log-probs are computed and responses sampled, in words."""
        sampler = self.experiment.evaluation.sampler
        return {
            "architecture": self._architecture,
            "log_probs": self.policy.name,
            "sampling": self.policy.sampler if sampler == "builtin" else sampler,
        }

    def reset_policy(self, seed: int) -> None:
        """Put the policy back to where a trial with this seed starts."""
        if self.plan is not None and self.plan.is_on_host and self.reference.host is None:
            _ = self.training_reference
            self.reference.leave()
        same = self.sources.policy.digest == self.sources.reference.digest
        start = self.reference if same else None
        adapted = self.experiment.training.lora is not None
        self.ranks.call(_reset, self.ranks, self.policy, start, seed if adapted else None)

    def save_policy(self, folder: Path) -> None:
        """Write the policy as it is now, in transformers' format with safetensors.

        Of a LoRA policy only the adapter is written, in peft's format.
        """
        with self.policy.full_precision():
            if self.experiment.training.lora is not None:
                weights = self.ranks.call(_gathered, self.policy, True)
                save_adapter(self.policy.model, folder, weights)
            else:
                self._save_whole(folder)
        self.inputs.tokenizer.save_pretrained(folder)

    def _save_whole(self, folder: Path) -> None:
        model = self.policy.model
        if not self.ranks.alone:  # its class is one of FSDP2's
            trust = self.experiment.trust_remote_code
            model = skeleton(self.sources.policy, trust_remote_code=trust)
            weights = self.ranks.call(_gathered, self.policy, False)
            model.load_state_dict(weights, assign=True)
        # Switched off for training; whoever loads the policy wants to generate with it.
        set_cache(model.config, used=True)
        model.save_pretrained(folder)
        set_cache(model.config, used=False)
        for pattern in PROCESSOR:
            for file in self.sources.policy.path.glob(pattern):
                shutil.copyfile(file, folder / file.name)

    def _starting_policy(self) -> LogprobBackend:
        """The policy, which needs no copy of what it shares with the reference.

        An adapter stands over the reference's own weights where the policy starts there.
        """
        sources, lora = self.sources, self.experiment.training.lora
        if lora is None:
            policy = self.load(sources.policy)
        else:
            same = sources.policy.digest == sources.reference.digest
            base = self.reference if same else self._frozen(sources.policy)
            policy = with_adapter(base, lora, sources.policy.address)
        self._narrow(policy)
        return policy

    def _share_lower_layers(self) -> None:
        """Compute layers that no trial changes once for all of them, where that can be."""
        training, below = self.experiment.training, 0
        if training.lora is not None:
            below = frozen_below(self.policy.model, training.lora.layers)
        if below:
            same = self.sources.policy.digest == self.sources.reference.digest
            backends = [self.policy, self.reference] if same else [self.policy]
            room = training.lower_layers_bytes
            share_lower_layers(backends, below, room, self.inputs.pairs)

    def _frozen(self, folder: ModelFolder) -> LogprobBackend:
        """A model that no trial changes; workers of one machine share its weights on a CPU."""
        backend = self.load(folder)
        backend.model.requires_grad_(requires_grad=False)
        if self.ranks.alone and worth_mapping(backend.model, self.sources.precision):
            map_weights(backend.model, folder.digest)
        return backend

    def _narrow(self, backend: LogprobBackend) -> None:
        """Put weights into bf16 where that is the precision; FSDP2 does so with divided ones."""
        if self.ranks.alone:
            narrow_weights(backend)

    def _plan(self) -> MemoryPlan | None:
        """The plan of a GPU's memory; None on a CPU, whose passes are small anyway.

        Raises:
            EnvironmentProblem: no trial fits.
        """
        if self.sources.device == "cpu":
            return None
        plan = memory_plan(self.experiment, self.sources, self.inputs)
        require_fitting(plan, self.experiment.training)
        for line in describe_plan(plan):
            log.info("%s", line)
        return plan

    def _follow_plan(self) -> None:
        """Checkpoint the policy's layers, and take as many tokens as fit."""
        plan, wanted = self.plan, self.experiment.training.checkpointing == "full"
        if wanted if plan is None else plan.checkpointing:
            layers = self.ranks.call(_checkpoint_layers, self.policy)
            if not layers:
                log.info(
                    "no layers were found in %s: all of its activations are kept",
                    self._architecture,
                )
        if plan is None:
            return
        tokens = plan.tokens
        if self.ranks.alone:
            tokens = confirmed_tokens(plan, self.policy, self.inputs.pairs)
        self.ranks.call(_limit, self.policy, tokens)
        self.ranks.call(_limit, self.reference, tokens)

    def _divide(self) -> None:
        """Divide policy and reference among the ranks; all know the pairs, too."""
        device = self.sources.device
        self.policy = share_backend(self.ranks, "policy", self.policy, device)
        self.reference = share_backend(self.ranks, "reference", self.reference, device)
        self.ranks.share("pairs", self.inputs.pairs)

    @cached_property
    def training_reference(self) -> CachedReference | None:
        """The reference for the training pairs; None when no loss of the experiment reads it."""
        losses = [get_loss(grid.name) for grid in self.experiment.losses]
        for loss in losses:
            if "preference_margin" in loss.needs:
                require_margins(loss.name, self.inputs.pairs, self.experiment.data.margin_column)
        if not any(loss.needs_reference for loss in losses):
            return None
        reference = CachedReference(
            self.reference,
            self.inputs.pairs,
            self.sources.reference.digest,
            self.sources.content.device,
            self._progress,
        )
        if not self.experiment.training.reference_sync_steps:
            _ = reference.all_sums  # had now, by the first worker, so that the others find them
        return reference

    def training_set(self, seed: int) -> tuple[TokenizedPairs, CachedReference | None]:
        """The pairs that a seed trains on, and the reference for them; the loss has no say in it.

        Those of the latest seed are kept: the trials of a seed follow each other, or take little.
        """
        if self.experiment.training.resample == "none":
            return self.inputs.pairs, self.training_reference
        if self._resampled is None or self._resampled[0] != seed:
            drawn = bootstrap_pairs(len(self.inputs.pairs), seed)
            pairs, whole = self.inputs.pairs.take(drawn.tolist()), self.training_reference
            reference = None if whole is None else ResampledReference(whole, pairs, drawn)
            self._resampled = seed, pairs, reference
        return self._resampled[1:]

    def load(self, folder: ModelFolder) -> LogprobBackend:
        """A model on this experiment's device, with the kernel path that suits it."""
        # What is to be divided is whole in the memory of the CPU alone.
        device = self.sources.device if self.ranks.alone else "cpu"
        model = load_model(folder, device, trust_remote_code=self.experiment.trust_remote_code)
        inputs = self.inputs
        require_positions(model, inputs.longest_pair, inputs.longest_prompt, inputs.new_tokens)
        return choose_backend(model, self.sources.precision, inputs.longest)

    def _evaluate_reference(self, progress: Progress) -> Path:
        """The folder of the reference's evaluation, made when the cache lacks it."""
        options = self.experiment.evaluation
        asked = {}
        if options.reference_precision is not None:
            asked = {"opponents": opponents_needed(options, self.scorer)}
        key = digest(
            {
                **asked,
                "recipe": RECIPE,
                "reference": self.sources.content.reference,
                "tokenizer": self.sources.content.policy,
                "device": self.sources.content.device,
                "reward": self.sources.content.reward,
                "options": without(
                    type(options),
                    options.model_dump(mode="json"),
                    *(NO_EFFECT, DIGESTED, POLICY_ONLY),
                ),
                "prompts": self.inputs.prompts.pairs.digest,
                "end_tokens": sorted(self.inputs.end_tokens),
            }
        )

        def fill(folder: Path) -> None:
            evaluate_reference(
                folder,
                self.reference,
                tokenizer=self.inputs.tokenizer,
                end_tokens=self.inputs.end_tokens,
                prompts=self.inputs.prompts,
                scorer=self.scorer,
                options=options,
                progress=progress,
            )

        return kept("reference-evaluations", key, fill).folder


def _checkpoint_layers(policy: LogprobBackend) -> int:
    return checkpoint_layers(policy.model)


def _limit(backend: LogprobBackend, tokens: int) -> None:
    backend.most_tokens = tokens


def _reset(
    ranks: Ranks, policy: LogprobBackend, start: LogprobBackend | None, seed: int | None
) -> None:
    """Put a policy back to where it starts; on every rank, within a call.

    Args:
        ranks: those that hold it.
        policy: is changed.
        start: has the weights at which it starts; None: those that it has at the first such call.
        seed: of an adapter; None where all weights are trained.
    """
    if start is not None and policy.masters is not None and not policy.masters.exact:
        start = None  # its weights in bf16 are not those that it was loaded from
    with policy.full_precision():
        if seed is not None:
            reset_adapter(policy.model, seed)
            return
        if start is not None:
            policy.model.load_state_dict(start.model.state_dict())
            return
        if "start" not in ranks.shared:  # nothing has been trained yet; an evaluation needs no copy
            state = policy.model.state_dict()
            ranks.shared["start"] = {
                name: value.to("cpu", copy=True) for name, value in state.items()
            }
        policy.model.load_state_dict(ranks.shared["start"])


def _gathered(policy: LogprobBackend, adapter: bool) -> dict[str, Tensor]:
    """A policy's weights, or those of its adapter alone, whole; on every rank, within a call."""
    state = trained_weights(policy.model) if adapter else policy.model.state_dict()
    return {name: gathered(one) for name, one in state.items()}
