"""The command line's flags, laid over an experiment file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpo_bench.contract import get_loss
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import Experiment
from dpo_bench.experiment.read import (
    Tree,
    apply_setting,
    find_file,
    parse_value,
    read_file,
    validate,
)

QUICKSTART = "quickstart"


@dataclass(frozen=True, slots=True)
class Flags:
    """What was typed; None where nothing was."""

    policy: str | None = None
    reference: str | None = None
    preferences: str | None = None
    reward: str | None = None
    losses: str | None = None
    beta: str | None = None
    seeds: str | None = None
    settings: tuple[str, ...] = ()


def resolve(file: str | None, flags: Flags) -> Experiment:
    """The experiment that a file and flags make together.

    Without a file it is the quickstart; but with a model or data of the user's own, only the
    quickstart's losses are taken from it: its learning rate and reward suit its small world alone.

    Raises:
        ConfigurationError: a wrong file, flag, key or value.
    """
    own = [flags.policy, flags.preferences]
    if file is not None:
        path = find_file(file)
        tree, origin = read_file(path), str(path)
        tree.setdefault("name", path.stem)
    elif any(value and not value.startswith("world:") for value in own):
        tree, origin = _own_base(flags), "the command line"
    else:
        path = find_file(QUICKSTART)
        tree, origin = read_file(path), str(path)
    _apply(tree, flags)
    return validate(tree, origin)


def _own_base(flags: Flags) -> Tree:
    if not flags.policy or not flags.preferences:
        missing = "--preferences" if flags.policy else "--policy"
        raise ConfigurationError(
            f"give {missing} too: a model and its pairs go together without an experiment file."
        )
    stems = [Path(value).stem for value in (flags.policy, flags.preferences)]
    names = [{"name": entry["name"]} for entry in read_file(find_file(QUICKSTART))["losses"]]
    return {"name": slug("-".join(stems)), "losses": names}


def slug(text: str) -> str:
    """Text as the name of a folder.

    >>> slug("microsoft/phi-2 on ../truthy")
    'microsoft-phi-2-on-truthy'
    """
    return re.sub(r"(?:[^\w.]|\.{2,})+", "-", text).strip("-.") or "experiment"


def _apply(tree: Tree, flags: Flags) -> None:
    for key in ("policy", "reference", "preferences"):
        if (value := getattr(flags, key)) is not None:
            tree[key] = value
    if flags.reward is not None:
        tree.setdefault("evaluation", {})["reward"] = flags.reward
    if flags.seeds is not None:
        tree.setdefault("training", {})["seeds"] = _numbers("--seeds", flags.seeds)
    if flags.losses is not None:
        tree["losses"] = _chosen_losses(tree, flags.losses)
    if flags.beta is not None:
        values = _numbers("--beta", flags.beta)
        tree["losses"] = [_with_strength(entry, values) for entry in tree.get("losses", [])]
    for assignment in flags.settings:
        apply_setting(tree, assignment)


def _chosen_losses(tree: Tree, text: str) -> list[Mapping[str, Any]]:
    """The named losses, each with the file's own table where the file has one."""
    tables = {get_loss(entry["name"]).name: entry for entry in tree.get("losses", [])}
    names = [get_loss(name.strip()).name for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigurationError("--losses names no loss.")
    return [tables.get(name, {"name": name}) for name in names]


def _with_strength(entry: Mapping[str, Any], values: list[Any]) -> Mapping[str, Any]:
    strength = get_loss(entry["name"]).strength
    if strength is None:
        raise ConfigurationError(f"--beta: {entry['name']} has no strength to set.")
    return {**entry, strength: values}


def _numbers(flag: str, text: str) -> list[Any]:
    values = [parse_value(_toml_number(part.strip())) for part in text.split(",") if part.strip()]
    wrong = [value for value in values if isinstance(value, bool | str)]
    if wrong or not values:
        raise ConfigurationError(f"{flag} {text}: give numbers, separated by commas.")
    return values


def _toml_number(text: str) -> str:
    """``.5`` and ``5.`` are numbers to people, not to TOML."""
    return re.sub(r"\.(?=$|e)", ".0", re.sub(r"^(-?)\.", r"\g<1>0.", text))
