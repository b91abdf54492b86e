"""Preference data of a world: labeled pairs to train on, and held-out ones with clean labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpo_bench.experiment.config import World
from dpo_bench.progress import Progress
from dpo_bench.vader import gold_scores
from dpo_bench.worlds.cache import content_digest, kept_folder, read_facts
from dpo_bench.worlds.labels import SCORES, first_wins
from dpo_bench.worlds.reference_policy import Recipe, reference_folder
from dpo_bench.worlds.responses import PairSampler, ResponsePair, read_pairs

TRAINING_FILE = "train.jsonl"
HELDOUT_FILE = "heldout.jsonl"


def preferences_folder(name: str, recipe: Recipe, options: World, progress: Progress) -> Path:
    """Folder with `TRAINING_FILE` and `HELDOUT_FILE`, made where it is missing."""
    reference = reference_folder(name, recipe, options.seed, progress)
    labeling = options.model_dump(mode="json")
    if options.labels == "deterministic":
        del labeling["temperature"]

    def fill(folder: Path) -> dict[str, Any]:
        sampler = PairSampler(name, reference, options.seed, progress)
        described = sampler.heldout()
        heldout = read_pairs(described)
        training = sampler.training(options.pairs, heldout)
        progress("world: labeling pairs", 0, 1)
        facts = _write_labeled(folder, training, heldout, options)
        progress("world: labeling pairs", 1, 1)
        return facts | {"reference": read_facts(described)}

    settings = {"world": name, "reference": content_digest(reference), "options": labeling}
    return kept_folder(f"{name}-preferences", settings, fill)


def _write_labeled(
    folder: Path, training: Sequence[ResponsePair], heldout: Sequence[ResponsePair], options: World
) -> dict[str, Any]:
    yardstick = [text for pair in heldout for text in (pair.first, pair.second)]
    clean = World(pairs=options.pairs, seed=options.seed)
    wins = _label(training, options, yardstick)
    _write(folder / TRAINING_FILE, training, wins)
    _write(folder / HELDOUT_FILE, heldout, _label(heldout, clean, yardstick))
    gold_wins = _label(training, clean, yardstick)
    return {
        "training_pairs": len(training),
        "heldout_pairs": len(heldout),
        "labels_as_gold": round(float(np.mean(wins == gold_wins)), 4),
        "proxies": {proxy: _agreement(proxy, training) for proxy in SCORES if proxy != "gold"},
    }


def _label(
    pairs: Sequence[ResponsePair], options: World, yardstick: Sequence[str]
) -> NDArray[np.bool_]:
    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    return first_wins(first, second, options, yardstick)


def _write(path: Path, pairs: Sequence[ResponsePair], first_is_chosen: NDArray[np.bool_]) -> None:
    lines = []
    gold = [
        gold_scores([pair.first for pair in pairs]),
        gold_scores([pair.second for pair in pairs]),
    ]
    for pair, first, (one, two) in zip(
        pairs, first_is_chosen, zip(*gold, strict=True), strict=True
    ):
        chosen, rejected = (pair.first, pair.second) if first else (pair.second, pair.first)
        margin = round(one - two if first else two - one, 4)  # VADER gives four digits
        row = {"prompt": pair.prompt, "chosen": chosen, "rejected": rejected, "margin": margin}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), "utf-8")


def _agreement(proxy: str, pairs: Sequence[ResponsePair]) -> dict[str, float]:
    """How often a proxy prefers the response that the gold reward prefers."""
    first, second = [pair.first for pair in pairs], [pair.second for pair in pairs]
    gold = np.sign(np.subtract(gold_scores(first), gold_scores(second)))
    other = np.sign(np.subtract(SCORES[proxy](first), SCORES[proxy](second)))
    tied = other == 0
    return {
        "agrees_with_gold": round(float(np.mean(np.where(tied, 0.5, other == gold))), 4),
        "ties": round(float(np.mean(tied)), 4),
    }
