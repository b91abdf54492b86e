"""The published contract of a loss: `check_loss` tells the author of one whether it will do.

>>> from dpo_bench import list_losses
>>> for name in list_losses():
...     check_loss(name)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from dpo_bench.contract import Loss, get_loss
from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import ConfigurationError
from dpo_bench.testing.checks import CHECKS, Check, Subject


class ContractError(AssertionError):
    """A loss breaks the contract.

    Attributes:
        failures: name of each check that failed -> what it found.
    """

    def __init__(self, loss: Loss, failures: Mapping[str, str]) -> None:
        self.failures = dict(failures)
        lines = [f"- {name}: {finding}" for name, finding in failures.items()]
        super().__init__("\n".join([f"{loss.name} ({loss.location}) breaks the contract:", *lines]))


def check_loss(
    loss: Loss | str,
    *,
    expected: float | None = None,
    hyperparameters: Mapping[str, float] | None = None,
    batch_coupled: bool | None = None,
    skip: Collection[str] = (),
) -> None:
    """Check that a loss keeps the contract; each check is described in `CHECKS`.

    Without ``hyperparameters`` the loss is checked at its defaults and at both ends of its grid.

    Args:
        loss: a registered loss or its name.
        expected: its value where the policy equals the reference, at ``hyperparameters``, or at
            the defaults.
        hyperparameters: check at these values only.
        batch_coupled: whether the loss of a pair may depend on the other pairs of the batch; None:
            as the loss declares.
        skip: names of checks to leave out, besides those that the loss itself departs from on
            purpose (a detached term, say, has no gradient that finite differences could find).

    Raises:
        ContractError: at least one check failed; the message lists all, in plain words.
        ConfigurationError: no such loss, hyperparameters that it cannot take, or it departs from a
            check that does not exist.
        ValueError: ``skip`` names a check that does not exist.
    """
    if unknown := set(skip) - set(CHECKS):
        raise ValueError(f"no such check: {sorted(unknown)}; there are {list(CHECKS)}.")
    loss = get_loss(loss) if isinstance(loss, str) else loss
    _require_known(loss)
    skip = {*skip, *loss.departs_from}
    coupled = loss.batch_coupled if batch_coupled is None else batch_coupled
    failures: dict[str, str] = {}
    for number, setting in enumerate(_settings(loss, hyperparameters)):
        subject = Subject(loss, setting, None if number else expected, coupled)
        for name, check in CHECKS.items():
            if name not in skip and name not in failures and (finding := _first(check, subject)):
                failures[name] = f"{finding} ({_spell(setting)})"
            if failures.keys() & {
                "needs",
                "shape",
            }:  # the other checks would only repeat it in other words
                raise ContractError(loss, failures)
    if failures:
        raise ContractError(loss, failures)


def _require_known(loss: Loss) -> None:
    """Refuse a loss that departs on purpose from a check that does not exist."""
    for name in loss.departs_from:
        if name not in CHECKS:
            raise ConfigurationError(
                f"{loss.name} departs from an unknown check {name!r}{nearest(name, CHECKS)}; "
                f"there are: {', '.join(CHECKS)}."
            )


def _settings(loss: Loss, given: Mapping[str, float] | None) -> list[dict[str, float]]:
    """The hyperparameters to check at, the ones that ``expected`` belongs to first."""
    settings = [loss.resolve(given or {})]
    if given is None and loss.strength:
        ends = (min(loss.grid), max(loss.grid)) if loss.grid else ()
        settings += [loss.resolve({loss.strength: value}) for value in ends]
    return settings


def _first(check: Check, subject: Subject) -> str | None:
    try:
        return next(check(subject), None)
    except Exception as error:  # whatever a loss raises is a finding
        return f"raised {type(error).__name__}: {error}"


def _spell(hyperparameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in hyperparameters.items()) or "no knobs"
