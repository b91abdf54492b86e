"""Pairs of responses that a world's reference gives to the grammar's prompts, not yet labeled.

Sampling is the costly part, so its results are kept: in blocks of prompts, each drawn from a
random stream of its own. The first ``n`` pairs are therefore the same however many are asked for,
and whatever labels them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_bench.progress import Progress
from dpo_bench.threads import one_thread
from dpo_bench.vader import gold_scores
from dpo_bench.worlds.cache import content_digest, kept_folder, stream_seed
from dpo_bench.worlds.grammar import RESPONSE_TOKENS, polarities, write_prompt
from dpo_bench.worlds.reference_policy import load_reference, private_randomness
from dpo_bench.worlds.tokenizer import BOS, EOS, PAD, UNKNOWN, token_list

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

HELDOUT_PAIRS = 512
"""Number of held-out prompts, each with a pair."""

_FILE = "pairs.jsonl"
_PROMPTS_PER_BLOCK = 256
_MAX_NEW_TOKENS = RESPONSE_TOKENS.stop + 16  # longer ones are taken for unfinished


@dataclass(frozen=True, slots=True)
class ResponsePair:
    """A prompt with two responses to it, in the order in which they were sampled."""

    prompt: str
    first: str
    second: str


class PairSampler:
    """Samples pairs of responses from one reference model and keeps them.

    Every pair has two finished, different, non-empty responses with different gold rewards; a
    prompt whose two samples are not of that kind is passed over.
    """

    def __init__(self, name: str, reference: Path, seed: int, progress: Progress) -> None:
        self._name = name
        self._reference = reference
        self._seed = seed
        self._progress = progress

    def heldout(self) -> Path:
        """Folder of `HELDOUT_PAIRS` pairs with prompts that all differ; its facts describe them."""
        phase = "world: sampling held-out pairs"

        def fill(folder: Path) -> dict[str, Any]:
            pairs: list[ResponsePair] = []
            drawn: set[str] = set()
            part = 0
            while len(pairs) < HELDOUT_PAIRS:
                prompts = self._prompts("heldout", part, drawn, distinct=True)
                drawn.update(prompts)
                pairs += self._sample(prompts, "heldout", part)
                part += 1
                self._progress(phase, min(len(pairs), HELDOUT_PAIRS), HELDOUT_PAIRS)
            return _write(folder, pairs[:HELDOUT_PAIRS]) | response_facts(pairs[:HELDOUT_PAIRS])

        return self._kept("heldout", fill)

    def training(self, count: int, heldout: Sequence[ResponsePair]) -> list[ResponsePair]:
        """The first ``count`` training pairs, none with a held-out prompt."""
        phase = "world: sampling pairs"
        excluded = frozenset(pair.prompt for pair in heldout)
        pairs: list[ResponsePair] = []
        block = 0
        while len(pairs) < count:
            self._progress(phase, len(pairs), count)
            pairs += read_pairs(self._block(block, excluded))
            block += 1
        self._progress(phase, count, count)
        return pairs[:count]

    def _block(self, block: int, excluded: Collection[str]) -> Path:
        def fill(folder: Path) -> dict[str, Any]:
            prompts = self._prompts("training", block, excluded, distinct=False)
            return _write(folder, self._sample(prompts, "training", block))

        return self._kept(f"pairs-{block:04d}", fill)

    def _kept(self, part: str, fill: Callable[[Path], Mapping[str, Any]]) -> Path:
        settings = {
            "world": self._name,
            "seed": self._seed,
            "reference": content_digest(self._reference),
            "part": part,
        }
        return kept_folder(f"{self._name}-{part}", settings, fill)

    def _prompts(
        self, use: str, part: int, excluded: Collection[str], *, distinct: bool
    ) -> list[str]:
        generator = np.random.default_rng(stream_seed("prompts", self._seed, use, part))
        prompts: list[str] = []
        while len(prompts) < _PROMPTS_PER_BLOCK:
            prompt = write_prompt(generator)
            if prompt not in excluded and not (distinct and prompt in prompts):
                prompts.append(prompt)
        return prompts

    def _sample(self, prompts: Sequence[str], use: str, part: int) -> Iterator[ResponsePair]:
        responses = self._responses(prompts, stream_seed("responses", self._seed, use, part))
        gold = gold_scores([response or "" for response in responses])
        found = False
        for index, prompt in enumerate(prompts):
            first, second = responses[2 * index : 2 * index + 2]
            if first and second and gold[2 * index] != gold[2 * index + 1]:
                found = True
                yield ResponsePair(prompt, first, second)
        if not found:
            raise RuntimeError(f"{self._reference}: the reference gives no two finished responses")

    def _responses(self, prompts: Sequence[str], seed: int) -> list[str | None]:
        """Two responses to each prompt, None for one that cannot be used."""
        model, tokenizer = self._loaded
        inputs = tokenizer(list(prompts), padding=True, return_tensors="pt")
        with one_thread(), private_randomness(seed):
            ids = model.generate(
                **inputs,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=2,
                max_new_tokens=_MAX_NEW_TOKENS,
            )
        rows = ids[:, inputs["input_ids"].shape[1] :].tolist()
        return [_spelled(row, tokenizer) for row in rows]

    @functools.cached_property
    def _loaded(self) -> tuple[Any, PreTrainedTokenizerFast]:
        return load_reference(self._reference)


def _spelled(row: list[int], tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Text of a sampled response that has an end and whose text gives the same tokens."""
    eos, *others = map(token_list().index, (EOS, PAD, BOS, UNKNOWN))
    if eos not in row:
        return None
    ids = row[: row.index(eos)]
    text = str(tokenizer.decode(ids))
    return text if not set(others) & set(ids) and tokenizer.encode(text) == ids else None


def _write(folder: Path, pairs: Iterable[ResponsePair]) -> dict[str, Any]:
    lines = [json.dumps(asdict(pair)) + "\n" for pair in pairs]
    (folder / _FILE).write_text("".join(lines), "utf-8")
    return {"pairs": len(lines)}


def read_pairs(folder: Path) -> list[ResponsePair]:
    """Pairs of a folder that a `PairSampler` made."""
    lines = (folder / _FILE).read_text("utf-8").splitlines()
    return [ResponsePair(**json.loads(line)) for line in lines]


def response_facts(pairs: Sequence[ResponsePair]) -> dict[str, Any]:
    """What the responses are like: gold reward, length in words and well-formedness."""
    prompts = [pair.prompt for pair in pairs for _ in range(2)]
    responses = [text for pair in pairs for text in (pair.first, pair.second)]
    gold = np.array(gold_scores(responses))
    words = [len(response.split()) for response in responses]
    accepted = [polarities(*texts) for texts in zip(prompts, responses, strict=True)]
    return {
        "gold_mean": round(float(gold.mean()), 4),
        "gold_sd": round(float(gold.std(ddof=1)), 4),
        "gold_beyond_0.9": round(float(np.mean(np.abs(gold) > 0.9)), 4),
        "words_mean": round(float(np.mean(words)), 2),
        "words_range": [min(words), max(words)],
        "well_formed": round(float(np.mean([bool(signs) for signs in accepted])), 4),
        "one_polarity": round(float(np.mean([bool(signs & {"+", "-"}) for signs in accepted])), 4),
    }
