"""A registered loss: a pure function together with what a sweep and a reader need to know of it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_type_hints

from dpo_bench.contract.record import PairLogps
from dpo_bench.contract.requirements import with_defaults
from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

LossFunction = Callable[..., "Tensor"]
Normalization = Literal["sum", "mean"]


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a hyperparameter may take; used as ``Annotated[float, Range(0, 0.5)]``.

    Attributes:
        low: infimum.
        high: supremum.
        closed_low: whether ``low`` itself is allowed.
        closed_high: whether ``high`` itself is allowed.
    """

    low: float = -math.inf
    high: float = math.inf
    closed_low: bool = True
    closed_high: bool = True

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if self.closed_low else value > self.low
        below = value <= self.high if self.closed_high else value < self.high
        return above and below and math.isfinite(value)

    def __and__(self, other: Range) -> Range:
        """The values that are in both."""
        low, open_low = max((self.low, not self.closed_low), (other.low, not other.closed_low))
        high, closed_high = min((self.high, self.closed_high), (other.high, other.closed_high))
        return Range(low, high, not open_low, closed_high)

    def __str__(self) -> str:
        left, right = "(["[self.closed_low], ")]"[self.closed_high]
        if math.isinf(self.low):
            left = "("
        if math.isinf(self.high):
            right = ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


POSITIVE = Range(low=0, closed_low=False)
Positive = Annotated[float, POSITIVE]
ANY_FINITE = Range()


@dataclass(frozen=True, slots=True)
class Loss:
    """A preference loss and its card.

    Call it with a `PairLogps` and hyperparameters by name; it returns the loss of each pair, a
    tensor of shape [pair]. Hyperparameters left out take their defaults.

    Attributes:
        name: its name in the registry, in files and on the command line.
        function: the pure function, ``f(logps, beta=..., ...) -> Tensor [pair]``.
        family: heading under which lists show it.
        paper: where it comes from, with the equation that is implemented.
        normalization: ``sum`` when it works on log-probs summed over the response, ``mean`` when
            it divides them by the response's tokens.
        grid: values of its strength that a sweep tries when none are given.
        aliases: further names.
        needs_reference: False when its value does not depend on the reference.
        hyperparameters: names and defaults, the strength first.
        ranges: the values that each hyperparameter may take.
        needs: names of what it reads beyond sums and counts; see `NEEDS`.
        batch_coupled: whether a pair's loss depends on the batch's other pairs; it is then taken
            on the whole batch of an optimizer step, in however many passes that is computed.
        parts: the losses that it was composed of; none for a loss of the registry.
        modifiers: names of the modifiers that were laid over it.
        continued: where something else stands in for the formula, which would overflow there:
            ``f(logps, beta=..., ...) -> Tensor [pair]`` of truth values; None: nowhere.
        reads_log_probs: whether it reads log-probs besides their ratios to the reference's.
        departs_from: names of checks of `dpo_bench.testing` that it fails on purpose.
        kl_by: hyperparameters that move the trained policy's KL to the reference, in the order in
            which a search tries them; empty: its strength alone.
    """

    name: str
    function: LossFunction
    family: str
    paper: str
    normalization: Normalization
    grid: tuple[float, ...]
    aliases: tuple[str, ...]
    needs_reference: bool
    hyperparameters: Mapping[str, float]
    ranges: Mapping[str, Range]
    needs: tuple[str, ...] = ()
    batch_coupled: bool = False
    parts: tuple[Loss, ...] = ()
    modifiers: tuple[str, ...] = ()
    continued: LossFunction | None = None
    reads_log_probs: bool = False
    departs_from: tuple[str, ...] = ()
    kl_by: tuple[str, ...] = ()

    def __call__(self, logps: PairLogps, **hyperparameters: float) -> Tensor:
        """Loss of each pair, shape [pair].

        Raises:
            ConfigurationError: an unknown or out-of-range hyperparameter, or a record without
                something that the loss needs.
        """
        known = with_defaults(self.name, self.needs, logps)
        return self.function(known, **self.resolve(hyperparameters))

    def _repr_html_(self) -> str:
        """Its card, for notebooks."""
        values = ", ".join(f"{name} = {value:g}" for name, value in self.hyperparameters.items())
        grid = ", ".join(f"{value:g}" for value in self.grid)
        rows = (
            ("family", self.family),
            ("paper", self.paper),
            ("log-probs", "summed" if self.normalization == "sum" else "mean over tokens"),
            ("reference", "needed" if self.needs_reference else "not needed"),
            ("defaults", values or "no hyperparameters"),
            ("grid", grid or "none"),
        )
        cells = "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in rows)
        title = f"<strong>{escape(self.name)}</strong>: {escape(self.summary)}"
        return f"<p>{title}</p><table>{cells}</table>"

    def at(self, hyperparameters: Mapping[str, float]) -> Objective:
        """The loss at these hyperparameters, ready to be minimized.

        Raises:
            ConfigurationError: an unknown or out-of-range hyperparameter.
        """
        values = self.resolve(hyperparameters)
        zone = self.continued
        return Objective(
            lambda logps: self(logps, **values),
            continued=zone and (lambda logps: zone(logps, **values)),
            name=self.name,
            needs=self.needs,
            batch_coupled=self.batch_coupled,
            needs_reference=self.needs_reference,
        )

    @property
    def is_of_log_ratios(self) -> bool:
        """Whether it is a function of a pair's own log-ratios (and margin) of whole responses.

        A weighted sum is where all of its parts are.
        """
        if self.parts and not self.modifiers:
            return all(part.is_of_log_ratios for part in self.parts)
        own = self.needs_reference and self.normalization == "sum" and not self.reads_log_probs
        return own and not self.batch_coupled and set(self.needs) <= {"preference_margin"}

    @property
    def strength(self) -> str | None:
        """Name of the hyperparameter that the grid varies: the function's first, usually beta."""
        return next(iter(self.hyperparameters), None)

    @property
    def axes(self) -> tuple[str, ...]:
        """The hyperparameters that move its KL, in the order in which a search tries them."""
        return self.kl_by or ((self.strength,) if self.strength else ())

    @property
    def summary(self) -> str:
        """First line of its docstring."""
        return inspect.getdoc(self.function).splitlines()[0]  # type: ignore[union-attr]  # register refuses functions without one

    @property
    def source_file(self) -> Path:
        """The file that defines it; of a composed loss, its first part's."""
        if self.parts:
            return self.parts[0].source_file
        return Path(inspect.getsourcefile(self.function) or "").resolve()

    @property
    def location(self) -> str:
        """``file:line`` of its definition, for messages; of a composed loss, its first part's."""
        if self.parts:
            return self.parts[0].location
        code = getattr(inspect.unwrap(self.function), "__code__", None)
        return f"{self.source_file}:{code.co_firstlineno if code else '?'}"

    def resolve(self, given: Mapping[str, float]) -> dict[str, float]:
        """All hyperparameters, the given ones over the defaults, checked.

        Raises:
            ConfigurationError: an unknown or out-of-range hyperparameter.
        """
        for name, value in given.items():
            if name not in self.hyperparameters:
                known = ", ".join(self.hyperparameters) or "none"
                raise ConfigurationError(
                    f"{self.name} has no hyperparameter {name!r}"
                    f"{nearest(name, self.hyperparameters)}. It has: {known}."
                )
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigurationError(f"{self.name}: {name} = {value!r} is not a number.")
            if float(value) not in self.ranges[name]:
                raise ConfigurationError(
                    f"{self.name}: {name} = {value:g} is outside {self.ranges[name]}."
                )
        return {
            name: float(given.get(name, default)) for name, default in self.hyperparameters.items()
        }


@dataclass(frozen=True, slots=True)
class Objective:
    """What a trainer minimizes: the mean of a function of each pair, and what that needs.

    Attributes:
        function: the loss of each pair, its hyperparameters bound.
        name: for messages.
        needs: see `Loss`.
        batch_coupled: see `Loss`.
        needs_reference: see `Loss`.
        continued: see `Loss`.
    """

    function: Callable[[PairLogps], Tensor]
    name: str = "the loss"
    needs: tuple[str, ...] = ()
    batch_coupled: bool = False
    needs_reference: bool = True
    continued: Callable[[PairLogps], Tensor] | None = None

    def __call__(self, logps: PairLogps) -> Tensor:
        """Loss of each pair, shape [pair]."""
        return self.function(logps)


def read_hyperparameters(
    function: LossFunction, inputs: int = 1
) -> tuple[Mapping[str, float], Mapping[str, Range]]:
    """Defaults and ranges of a loss function's hyperparameters, from its signature.

    `beta` is positive in every loss; any other hyperparameter is a finite number unless its
    annotation carries a `Range`. The first ``inputs`` parameters are none.

    Raises:
        ConfigurationError: no ``logps`` first parameter, a parameter without numeric default, or
            an annotation that cannot be read.
    """
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) < inputs:
        raise ConfigurationError(f"{function.__name__}: its first parameter must be the PairLogps.")
    hints = _hints(function)
    defaults: dict[str, float] = {}
    ranges: dict[str, Range] = {}
    for parameter in parameters[inputs:]:
        if isinstance(parameter.default, bool) or not isinstance(parameter.default, int | float):
            raise ConfigurationError(
                f"{function.__name__}: give {parameter.name} a number as its default."
            )
        marks = get_args(hints.get(parameter.name))[1:]
        fallback = POSITIVE if parameter.name == "beta" else ANY_FINITE
        defaults[parameter.name] = float(parameter.default)
        ranges[parameter.name] = next((m for m in marks if isinstance(m, Range)), fallback)
    return MappingProxyType(defaults), MappingProxyType(ranges)


def _hints(function: LossFunction) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:  # imported under TYPE_CHECKING only
        raise ConfigurationError(
            f"{function.__name__}: cannot read its annotations ({error}); import the name."
        ) from error
