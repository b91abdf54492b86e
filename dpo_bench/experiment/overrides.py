"""The command line's flags, laid over an experiment file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dpo_bench.contract import get_loss
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import SAID_TWICE, WORLD, Experiment
from dpo_bench.experiment.read import (
    Tree,
    apply_setting,
    canonical_name,
    find_file,
    loss_tables,
    parse_value,
    read_file,
    validate,
)

QUICKSTART = "quickstart"


@dataclass(frozen=True, slots=True)
class Overrides:
    """What was typed, or given from Python; None or empty where nothing was.

    A flag that is repeated collects. From Python a loss may be a table with its values, and whole
    sections may be given.
    """

    policy: str | None = None
    reference: str | None = None
    preferences: str | None = None
    reward: str | None = None
    losses: tuple[str | Mapping[str, Any], ...] = ()
    beta: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    no_search: bool = False


def resolve(file: str | None, flags: Overrides) -> Experiment:
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
    elif any(value and not value.startswith(WORLD) for value in own):
        tree, origin = _own_base(flags), "the command line"
    else:
        path = find_file(QUICKSTART)
        tree, origin = read_file(path), str(path)
    _apply(tree, flags)
    return validate(tree, origin)


def resolve_evaluation(file: str | None, policy: str, flags: Overrides) -> Experiment:
    """The experiment whose conditions an existing policy is measured under.

    Without a file and with a reference or data of the user's own, these two are all it needs.

    Raises:
        ConfigurationError: as for `resolve`; or only one of the two is given.
    """
    own = {"reference": flags.reference, "preferences": flags.preferences}
    if file is None and any(value and not value.startswith(WORLD) for value in own.values()):
        for name, value in own.items():
            if not value:
                what = {"reference": "what the policy is compared with", "preferences": "pairs"}
                raise ConfigurationError(f"give --{name} too ({what[name]}), or --file.")
        flags = replace(flags, policy=policy)
    return resolve(file, flags)


def _own_base(flags: Overrides) -> Tree:
    if not flags.policy or not flags.preferences:
        missing = "--preferences" if flags.policy else "--policy"
        raise ConfigurationError(
            f"give {missing} too: a model and its pairs go together without an experiment file."
        )
    stems = [Path(value).stem for value in (flags.policy, flags.preferences)]
    names = [{"name": entry["name"]} for entry in loss_tables(read_file(find_file(QUICKSTART)))]
    return {"name": slug("-".join(stems)), "losses": names}


def slug(text: str) -> str:
    """Text as the name of a folder.

    >>> slug("microsoft/phi-2 on ../truthy")
    'microsoft-phi-2-on-truthy'
    """
    return re.sub(r"(?:[^\w.]|\.{2,})+", "-", text).strip("-.") or "experiment"


def folder_of(name: str) -> str:
    """The folder's name of an experiment's: the same, unless it would lead elsewhere.

    >>> folder_of("my sweep"), folder_of("../../x"), folder_of("/etc"), folder_of("..")
    ('my sweep', 'x', 'etc', 'experiment')
    """
    is_plain = Path(name).name == name and name.isprintable() and not name.startswith(".")
    return name if is_plain and "\\" not in name else slug(name)


def _apply(tree: Tree, flags: Overrides) -> None:
    given = {key: getattr(flags, key) for key in ("policy", "reference", "preferences")}
    tree.update({key: value for key, value in given.items() if value is not None})
    if flags.reward is not None:
        _table(tree, "evaluation")["reward"] = flags.reward
    if flags.seeds:
        _table(tree, "training")["seeds"] = _numbers("--seeds", flags.seeds)
    if flags.losses:
        tree["losses"] = _chosen_losses(tree, flags.losses)
        _forget_baseline(tree)
    if flags.beta or flags.no_search:
        tree.pop("search", None)  # strengths that are given are not searched for
    if flags.beta:
        values = _numbers("--beta", flags.beta)
        tree["losses"] = [_with_strength(entry, values) for entry in loss_tables(tree)]
    for name, keys in flags.sections.items():
        _table(tree, name).update(keys)
    for assignment in flags.settings:
        apply_setting(tree, assignment)
        _say_once(tree, assignment)


def _forget_baseline(tree: Tree) -> None:
    """Leave out the file's baseline where the losses that were chosen do not have it."""
    names = {get_loss(entry["name"]).name for entry in loss_tables(tree)}
    for section in ("search", "comparison"):
        table = tree.get(section)
        if not isinstance(table, dict) or not isinstance(table.get("baseline"), str):
            continue
        stated = table["baseline"].split(" (")[0]
        if stated and canonical_name(stated) not in names:
            del table["baseline"]


def _say_once(tree: Tree, assignment: str) -> None:
    """What ``[search]`` and ``[comparison]`` both may say, the later word counts in."""
    section, _, key = assignment.partition("=")[0].strip().partition(".")
    other = {"search": "comparison", "comparison": "search"}.get(section)
    if other and key in SAID_TWICE and isinstance(tree.get(other), dict):
        tree[other].pop(key, None)


def _table(tree: Tree, name: str) -> Tree:
    """A section of a raw tree, made if need be."""
    section = tree.setdefault(name, {})
    if not isinstance(section, dict):
        raise ConfigurationError(f"{name} must be a table: [{name}] with keys below it.")
    return section


def _chosen_losses(tree: Tree, given: Sequence[str | Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The named losses, each with the file's own table where the file has one."""
    tables = {get_loss(entry["name"]).name: entry for entry in loss_tables(tree)}
    found: list[Mapping[str, Any]] = []
    for one in given:
        if isinstance(one, str):
            found += [tables.get(name, {"name": name}) for name in map(_loss, _parts([one]))]
        else:
            found.append(one)
    if not found:
        raise ConfigurationError("--losses names no loss.")
    return found


def _loss(text: str) -> str:
    """The canonical name of a loss; blanks are not what separates several."""
    try:
        return get_loss(text).name
    except ConfigurationError:
        words = text.split()
        if len(words) > 1 and all(_is_loss(word) for word in words):
            raise ConfigurationError(
                f"--losses {text!r}: separate losses by commas: {','.join(words)}."
            ) from None
        raise


def _is_loss(text: str) -> bool:
    try:
        get_loss(text)
    except ConfigurationError:
        return False
    return True


def _with_strength(entry: Mapping[str, Any], values: list[Any]) -> Mapping[str, Any]:
    strength = get_loss(entry["name"]).strength
    if strength is None:
        raise ConfigurationError(f"--beta: {entry['name']} has no strength to set.")
    return {**entry, strength: values}


def _numbers(flag: str, texts: Sequence[str]) -> list[Any]:
    values = [parse_value(_toml_number(part)) for part in _parts(texts)]
    wrong = [
        value for value in values if isinstance(value, bool) or not isinstance(value, int | float)
    ]
    if wrong or not values:
        raise ConfigurationError(f"{flag} {','.join(texts)}: give numbers, separated by commas.")
    return values


def _parts(texts: Sequence[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _toml_number(text: str) -> str:
    """``.5`` and ``5.`` are numbers to people, not to TOML."""
    return re.sub(r"\.(?=$|e)", ".0", re.sub(r"^(-?)\.", r"\g<1>0.", text))
