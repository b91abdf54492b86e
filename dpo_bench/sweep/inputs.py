"""What every trial of a sweep is given: tokenized pairs, evaluation prompts, ends of responses.

It needs the policy's tokenizer but no model, so that a plan can show it before anything is loaded.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_bench.cache import kept
from dpo_bench.data.chat import ChatTemplate
from dpo_bench.data.ends import Ends
from dpo_bench.data.prepare import prepare_pairs
from dpo_bench.data.tokenized import TokenizedPairs
from dpo_bench.evaluation.prompts import EvaluationPrompts, choose_prompts
from dpo_bench.experiment.identity import RECIPE
from dpo_bench.model.compatibility import require_same_tokens
from dpo_bench.model.files import listed_ends
from dpo_bench.model.load import load_tokenizer
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import digest, write_json

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from dpo_bench.experiment import Experiment
    from dpo_bench.sweep.sources import Sources


@dataclass(frozen=True)
class Inputs:
    """Data as the trials see it.

    Attributes:
        tokenizer: the policy's, from transformers.
        end_tokens: ids that end a response.
        pairs: to train on.
        prompts: to evaluate on, with their held-out pairs.
        counts: what became of the data; see `Counts`.
        new_tokens: limit of a sampled response, tokens.
        reading: how the data was read, in plain words.
    """

    tokenizer: Any
    end_tokens: frozenset[int]
    pairs: TokenizedPairs
    prompts: EvaluationPrompts
    counts: dict[str, Any]
    new_tokens: int
    reading: str

    @property
    def longest_pair(self) -> int:
        """Tokens of the longest prompt with one of its responses, of all pairs."""
        return max(self.pairs.longest, self.prompts.pairs.longest)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest evaluation prompt."""
        return max(map(len, self.prompts.tokens), default=0)

    @property
    def longest(self) -> int:
        """Tokens of the longest text that a model may be given."""
        return max(self.longest_pair, self.longest_prompt + self.new_tokens)

    @cached_property
    def used_tokens(self) -> frozenset[int]:
        """Ids that occur in the data, and those that end a response."""
        sides = [
            side.flat
            for pairs in (self.pairs, self.prompts.pairs)
            for side in (pairs.prompt, pairs.chosen, pairs.rejected)
        ]
        return frozenset(np.unique(np.concatenate(sides)).tolist()) | self.end_tokens


def prepare_inputs(experiment: Experiment, sources: Sources, progress: Progress = quiet) -> Inputs:
    """Tokenize the data, or take it from the cache.

    Raises:
        DataError: pairs that cannot be used.
        ConfigurationError: options or a tokenizer that cannot be meant; a reference whose
            tokenizer means something else by the same ids.
        EnvironmentProblem: a tokenizer that cannot be loaded.
    """
    trust = experiment.trust_remote_code
    tokenizer = load_tokenizer(sources.policy, trust_remote_code=trust)
    listed = listed_ends(sources.policy.path)
    template = ChatTemplate(tokenizer, experiment.data.chat_template_kwargs)
    ends = Ends.of(template, listed).tokens
    content = sources.content
    key = digest({"recipe": RECIPE, "data": content.data, "tokenizer": content.policy})

    def fill(folder: Path) -> None:
        training, heldout, counts = prepare_pairs(
            sources.preferences, tokenizer, experiment.data, progress, listed_ends=listed
        )
        training.save(folder / "training.safetensors")
        heldout.save(folder / "heldout.safetensors")
        write_json(folder / "counts.json", counts.as_dict())

    found = kept("pairs", key, fill)
    heldout = TokenizedPairs.load(found.folder / "heldout.safetensors")
    inputs = Inputs(
        tokenizer=tokenizer,
        end_tokens=ends,
        pairs=TokenizedPairs.load(found.folder / "training.safetensors"),
        prompts=choose_prompts(heldout, experiment.evaluation.prompts),
        counts=found.read_json("counts.json"),
        new_tokens=experiment.evaluation.max_new_tokens,
        reading=sources.reading,
    )
    count = inputs.counts["unwrapped"]
    if count and experiment.data.chat == "auto":
        log.warning(
            "%d pairs are plain text, and the policy's tokenizer has a chat template, which is not "
            'applied to them: data.chat = "wrap" writes them as messages, "off" says that plain '
            "text is meant",
            count,
        )
    if sources.reference.digest != sources.policy.digest:
        # The reference is given the ids that the policy's tokenizer makes.
        theirs = load_tokenizer(sources.reference, trust_remote_code=trust)
        require_same_tokens(tokenizer, theirs, inputs.used_tokens)
    return inputs


def describe(inputs: Inputs, experiment: Experiment) -> list[str]:
    """What the trainer and the evaluator will see, a line each."""
    pairs, counts = inputs.pairs, inputs.counts
    sides = {"prompt": pairs.prompt, "chosen": pairs.chosen, "rejected": pairs.rejected}
    lengths = ", ".join(
        f"{name} {side.lengths.mean():.0f} (at most {side.lengths.max()})"
        for name, side in sides.items()
    )
    longer = float((pairs.chosen_lengths > pairs.rejected_lengths).mean())
    size = f"Training pairs: {len(pairs)}. Mean tokens: {lengths}."
    lines = [f"Data: {inputs.reading}."] if inputs.reading else []
    lines.append(f"{size} The chosen response is the longer one in {longer:.0%}.")
    if repeated := len(pairs) - len(
        {tuple(map(bytes, pairs.pair(at))) for at in range(len(pairs))}
    ):
        lines.append(f"Repeated training pairs: {repeated} occur earlier, word for word.")
    if experiment.training.resample == "bootstrap":
        lines.append(
            f"Each seed trains every loss on the same {len(pairs)} draws from them, with"
            " replacement (training.resample = bootstrap): about 63% of them, some several times."
        )
    left_out = ", ".join(f"{reason} {count}" for reason, count in counts["dropped"].items())
    cut = counts["truncated_prompts"], counts["truncated_responses"]
    if left_out:
        lines.append(f"Rows left out: {left_out}.")
    if any(cut):
        lines.append(f"Cut at the limits: {cut[0]} prompts, {cut[1]} responses.")
    asked, there = experiment.evaluation.prompts, len(inputs.prompts)
    few = f" of the {asked} that were asked for" if there < asked else ""
    lines.append(
        f"Evaluation: {there} held-out prompts{few}, {len(inputs.prompts.pairs)} held-out pairs; "
        f"the longest prompt has {inputs.longest_prompt} tokens, a response at most "
        f"{inputs.new_tokens}."
    )
    if counts["shared_prompts"]:
        lines.append(f"Held-out prompts that are also trained on: {counts['shared_prompts']}.")
    names = inputs.tokenizer.convert_ids_to_tokens(sorted(inputs.end_tokens))
    lines.append(f"A response ends with {' or '.join(map(repr, names))}.")
    return lines
