"""The embedded worlds: a reference model and preference data that need no download and no GPU.

``world:reviews`` writes short opinion reviews by a grammar, trains a small Llama on them as the
reference, samples pairs of responses from it and labels them by sentiment. What comes out is a
model folder in transformers' format and two JSON-lines files, so that everything after it treats
them like a real model and real data.

The model of seed 0 and its first 2,048 pairs come with the package, the same bytes everywhere; only
labels are put on them here, in exact arithmetic. Any other part is built once and cached by
content: on another processor it has other last bits, and is another world.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import World
from dpo_bench.progress import Progress, quiet
from dpo_bench.worlds.preferences import preferences_folder
from dpo_bench.worlds.reference_policy import Recipe, reference_folder

__all__ = ["WORLDS", "world_model", "world_preferences"]

WORLDS: Mapping[str, Recipe] = {"reviews": Recipe()}
"""Every known world, by the name that follows ``world:``, with the recipe of its reference."""


def world_model(name: str, options: World, progress: Progress = quiet) -> Path:
    """Find a world's reference model, and build it where it neither ships nor is cached.

    The model depends on ``options.seed`` alone; that of seed 0 ships.

    Args:
        name: What follows ``world:``, for example ``reviews``.
        options: The experiment's ``[world]`` section.
        progress: Called for every training step.

    Returns:
        A folder in transformers' format: configuration, safetensors weights, tokenizer.

    Raises:
        ConfigurationError: There is no world of that name.
        EnvironmentProblem: The cache cannot be written, or a file of the world was damaged.
    """
    return reference_folder(name, _recipe(name), options.seed, progress)


def world_preferences(name: str, options: World, progress: Progress = quiet) -> Path:
    """Label a world's preference data where it is not cached, building what does not ship.

    Options that change labels (``labels``, ``temperature``, ``flip_rate``, ``proxy``) change which
    response of a pair is chosen and nothing else; the pairs of a smaller ``pairs`` are the first of
    a larger one. Held-out pairs are always labeled by the gold reward, without noise, and their
    prompts occur in no training pair.

    Args:
        name: What follows ``world:``, for example ``reviews``.
        options: The experiment's ``[world]`` section.
        progress: Called for every training step of the model and every block of sampled pairs.

    Returns:
        A folder with ``train.jsonl`` and ``heldout.jsonl``, whose lines are
        ``{"prompt": str, "chosen": str, "rejected": str, "margin": float}``. A response begins with
        the space that joins it to its prompt; the margin is the chosen response's gold reward minus
        the rejected one's, negative where a label is wrong.

    Raises:
        ConfigurationError: There is no world of that name.
        EnvironmentProblem: The cache cannot be written, or a file of the world was damaged.
    """
    return preferences_folder(name, _recipe(name), options, progress)


def _recipe(name: str) -> Recipe:
    if name not in WORLDS:
        known = ", ".join(f"world:{world}" for world in sorted(WORLDS))
        raise ConfigurationError(f"there is no world:{name}; known: {known}")
    return WORLDS[name]
