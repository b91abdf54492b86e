"""Losses made of losses, by name: modifiers, ``js(dpo)``, and mixtures, ``0.8*dpo + 1.0*sft``."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dpo_bench.contract.loss import Loss, LossFunction, Range, read_hyperparameters
from dpo_bench.contract.requirements import require_known
from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from dpo_bench.contract.record import PairLogps

FAMILY = "composed"
Refusal = Callable[[Loss], str | None]
Term = tuple[float, Loss]


def _takes_all(_loss: Loss) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Modifier:
    """Something that is done to a loss.

    Attributes:
        name: how it is written: ``name(loss)``.
        function: ``f(base, logps, ...) -> Tensor [pair]``, where ``base`` gives the loss of a
            record and the rest are its own hyperparameters.
        paper: where it comes from.
        hyperparameters: its own, names and defaults.
        ranges: the values that each may take.
        needs: what it reads beyond sums and counts.
        refuses: why it cannot modify a loss, or None.
        continued: where its formula is continued by something else; see `Loss`.
        reads_log_probs: whether it reads log-probs besides log-ratios; see `Loss`.
    """

    name: str
    function: LossFunction
    paper: str
    hyperparameters: Mapping[str, float]
    ranges: Mapping[str, Range]
    needs: tuple[str, ...]
    refuses: Refusal
    continued: LossFunction | None
    reads_log_probs: bool

    @property
    def summary(self) -> str:
        """First line of its docstring."""
        return self.documentation.splitlines()[0]

    @property
    def documentation(self) -> str:
        """Its docstring."""
        return inspect.getdoc(self.function) or ""


_modifiers: dict[str, Modifier] = {}


def register_modifier(
    name: str,
    *,
    paper: str,
    needs: Sequence[str] = (),
    refuses: Refusal = _takes_all,
    continued: LossFunction | None = None,
    reads_log_probs: bool = False,
) -> Callable[[LossFunction], LossFunction]:
    """Decorator that makes ``name(loss)`` a loss; see `Modifier` for the fields.

    Raises:
        ConfigurationError: a name or need that cannot be, a missing docstring, or a name that
            another function has taken.
    """
    require_known(name, needs)

    def enter(function: LossFunction) -> LossFunction:
        if not name.isidentifier() or not inspect.getdoc(function):
            raise ConfigurationError(f"{name!r}: a modifier has an identifier and a docstring.")
        defaults, ranges = read_hyperparameters(function, inputs=2)
        holder = _modifiers.get(name)
        if holder and _place(holder.function) != _place(function):
            raise ConfigurationError(
                f"two modifiers claim the name {name!r}: {_place(holder.function)} and "
                f"{_place(function)}."
            )
        _modifiers[name] = Modifier(
            name,
            function,
            paper,
            defaults,
            ranges,
            tuple(needs),
            refuses,
            continued,
            reads_log_probs,
        )
        return function

    return enter


def _place(function: LossFunction) -> str:
    return f"{inspect.getsourcefile(function)}:{function.__code__.co_firstlineno}"


def list_modifiers() -> list[Modifier]:
    """All modifiers by name."""
    return [_modifiers[name] for name in sorted(_modifiers)]


def compose(text: str, find: Callable[[str], Loss]) -> Loss:
    """The loss that an expression of names spells.

    Args:
        text: names of losses, ``modifier(...)``, positive numbers, ``*`` and ``+``.
        find: the registered loss of a name.

    Raises:
        ConfigurationError: it is no such expression, a name is unknown, or a modifier or mixture
            cannot take what it is given.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise _misspelled(text) from None
    return _mixture(_terms(tree, text, find))


def _misspelled(text: str) -> ConfigurationError:
    return ConfigurationError(
        f"{text!r} spells no loss: write a name, modifier(name), or a sum like 0.8*dpo + 1.0*sft."
    )


def _terms(node: ast.expr, text: str, find: Callable[[str], Loss]) -> list[Term]:
    """An expression as weighted losses."""
    match node:
        case ast.Name(id=name):
            return [(1.0, find(name))]
        case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]):
            return [(1.0, _modified(name, _mixture(_terms(inner, text, find))))]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _terms(left, text, find) + _terms(right, text, find)
        case ast.BinOp(left=ast.Constant(value=value), op=ast.Mult(), right=term):
            return _scaled(value, _terms(term, text, find), text)
        case ast.BinOp(left=term, op=ast.Mult(), right=ast.Constant(value=value)):
            return _scaled(value, _terms(term, text, find), text)
    raise _misspelled(text)


def _scaled(value: object, terms: list[Term], text: str) -> list[Term]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _misspelled(text)
    if not (value > 0 and math.isfinite(value)):
        raise ConfigurationError(f"{text!r}: a weight is a positive number, not {value:g}.")
    return [(value * weight, loss) for weight, loss in terms]


def _modified(name: str, base: Loss) -> Loss:
    """A loss under a modifier."""
    modifier = _modifiers.get(name)
    if modifier is None:
        raise ConfigurationError(
            f"unknown modifier {name!r}{nearest(name, _modifiers)}; "
            f"there are: {', '.join(sorted(_modifiers))}."
        )
    try:
        reason = modifier.refuses(base)
    except Exception as error:  # whatever the loss raises while it is tried
        reason = f"computing it raised {type(error).__name__}: {error}"
    if shared := sorted(set(modifier.hyperparameters) & set(base.hyperparameters)):
        reason = f"both have a hyperparameter {shared[0]!r}"
    if reason:
        raise ConfigurationError(f"{name} cannot modify {base.name}: {reason}.")

    def function(logps: PairLogps, **values: float) -> Tensor:
        own = {key: values.pop(key) for key in modifier.hyperparameters}
        return modifier.function(lambda record: base(record, **values), logps, **own)

    function.__doc__ = (
        f"{modifier.summary} Over {base.name}: {base.summary}\n\n"
        f"{_rest(modifier.documentation)}\n\n{base.name}: {inspect.getdoc(base.function)}"
    )
    return Loss(
        name=f"{name}({base.name})",
        function=function,
        family=FAMILY,
        paper=f"{modifier.paper}; {base.paper}",
        normalization=base.normalization,
        grid=base.grid,
        aliases=(),
        needs_reference=base.needs_reference,
        hyperparameters=MappingProxyType({**base.hyperparameters, **modifier.hyperparameters}),
        ranges=MappingProxyType({**base.ranges, **modifier.ranges}),
        needs=_union([base.needs, modifier.needs]),
        batch_coupled=base.batch_coupled,
        parts=(base,),
        modifiers=(*base.modifiers, name),
        continued=_modified_zone(modifier, base),
        kl_by=base.kl_by,
        reads_log_probs=base.reads_log_probs or modifier.reads_log_probs,
    )


def _modified_zone(modifier: Modifier, base: Loss) -> LossFunction | None:
    """Where a modifier's formula is continued, or the loss's on the record that it is handed."""
    own_zone, base_zone = modifier.continued, base.continued
    if own_zone is None and base_zone is None:
        return None

    def continued(logps: PairLogps, **values: float) -> Tensor:
        own = {key: values.pop(key) for key in modifier.hyperparameters}
        zones = [own_zone(logps, **own)] if own_zone else []

        def noted(record: PairLogps) -> Tensor:
            if base_zone:
                zones.append(base_zone(record, **values))
            return base(record, **values)

        modifier.function(noted, logps, **own)
        return reduce(or_, zones)

    return continued


def _mixed_zone(parts: Sequence[Loss]) -> LossFunction | None:
    """Where the formula of any part is continued."""
    known = [(loss.continued, tuple(loss.hyperparameters)) for loss in parts if loss.continued]
    if not known:
        return None

    def continued(logps: PairLogps, **values: float) -> Tensor:
        zones = [zone(logps, **{name: values[name] for name in names}) for zone, names in known]
        return reduce(or_, zones)

    return continued


def _rest(documentation: str) -> str:
    return documentation.partition("\n")[2].strip()


def _mixture(terms: Sequence[Term]) -> Loss:
    """A weighted sum of losses; one of weight 1 is itself."""
    weights: dict[str, float] = {}
    losses: dict[str, Loss] = {}
    for weight, loss in terms:
        weights[loss.name] = weights.get(loss.name, 0.0) + weight
        losses[loss.name] = loss
    parts = tuple(losses.values())
    if len(parts) == 1 and weights[parts[0].name] == 1:
        return parts[0]
    ranges = _common_ranges(parts)
    defaults: dict[str, float] = {}
    for loss in parts:
        defaults = {**loss.hyperparameters, **defaults}
    # The strength of the first that has one comes first; a sweep varies it.
    first = next((loss for loss in parts if loss.strength), parts[0])
    defaults = {name: defaults[name] for name in {**first.hyperparameters, **defaults}}

    def function(logps: PairLogps, **values: float) -> Tensor:
        total: Any = 0.0
        for loss in parts:
            own = {name: values[name] for name in loss.hyperparameters}
            total = total + weights[loss.name] * loss(logps, **own)
        return total  # type: ignore[no-any-return]

    name = " + ".join(
        loss.name if weights[loss.name] == 1 else f"{weights[loss.name]!r}*{loss.name}"
        for loss in parts
    )
    lines = [f"- {weights[loss.name]:g} of {loss.name}: {loss.summary}" for loss in parts]
    function.__doc__ = "\n".join(
        ["Weighted sum of losses.", "", *lines, "", "A hyperparameter of several has one value."]
    )
    return Loss(
        name=name,
        function=function,
        family=FAMILY,
        paper="Wang et al. 2024 (MPO), arXiv:2411.10442, mixed losses; "
        + "; ".join(loss.paper for loss in parts),
        normalization="sum" if any(loss.normalization == "sum" for loss in parts) else "mean",
        grid=tuple(value for value in first.grid if value in ranges[first.strength or ""])
        if first.strength
        else (),
        aliases=(),
        needs_reference=any(loss.needs_reference for loss in parts),
        hyperparameters=MappingProxyType(defaults),
        ranges=MappingProxyType(ranges),
        needs=_union([loss.needs for loss in parts]),
        batch_coupled=any(loss.batch_coupled for loss in parts),
        parts=parts,
        modifiers=_union([loss.modifiers for loss in parts]),
        continued=_mixed_zone(parts),
    )


def _common_ranges(parts: Sequence[Loss]) -> dict[str, Range]:
    """The values that every loss with a hyperparameter of that name can take."""
    ranges: dict[str, Range] = {}
    defaults: dict[str, tuple[float, str]] = {}
    for loss in parts:
        for name, own in loss.ranges.items():
            value, holder = defaults.setdefault(name, (loss.hyperparameters[name], loss.name))
            ranges[name] = ranges[name] & own if name in ranges else own
            if value not in ranges[name]:
                raise ConfigurationError(
                    f"{holder} and {loss.name} cannot share {name}: {value:g} is outside {own}."
                )
    return ranges


def _union(groups: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item for group in groups for item in group))
