"""What a key of an experiment file means for the program, said on the key itself.

A key without a mark changes results and is part of every trial's identity: whoever adds one and
forgets to mark it computes too much anew, and never takes a wrong result for a right one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


@dataclass(frozen=True, slots=True)
class Mark:
    """A property of a key; see the constants below.

    Attributes:
        about: what it says.
    """

    about: str


NO_EFFECT = Mark("cannot change a result")
DIGESTED = Mark(
    "stands in the digest of what it comes to: a model by its weights, data by its rows"
)
OMITTED = Mark("is no part of an identity where it is not set: results of before it still count")
VARIED = Mark("is what a sweep varies, no fixed condition")
POLICY_ONLY = Mark("changes nothing of the reference's own evaluation")
SOURCE = Mark("without the same value a sweep is another experiment")
OWN = Mark("a trial may have a value of its own, which belongs to what it is, as a loss does")


Kind = Literal["judge", "classifier", "world"]
"""What an experiment may have; see `Experiment.has`."""


@dataclass(frozen=True, slots=True)
class Only:
    """The key matters only with something else.

    Attributes:
        kind: what it matters with.
    """

    kind: Kind


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What other programs call the key.

    Attributes:
        names: their spellings.
    """

    names: tuple[str, ...]


def elsewhere(*names: str) -> Elsewhere:
    """What other programs call a key."""
    return Elsewhere(names)


@dataclass(frozen=True, slots=True)
class Key:
    """A key with its place and its marks.

    Attributes:
        path: sections and name, such as ``training.lora.rank``.
        field: pydantic's description.
        marks: its own marks and those of the sections that it stands in.
        section: the section that it holds; None for a plain value.
    """

    path: str
    field: FieldInfo
    marks: tuple[Any, ...]
    section: type[BaseModel] | None

    def has(self, mark: Mark) -> bool:
        """Whether it is marked."""
        return mark in self.marks

    @property
    def needed_for(self) -> Kind | None:
        """What it matters with alone; None: it always matters."""
        return next((mark.kind for mark in self.marks if isinstance(mark, Only)), None)

    @property
    def names_elsewhere(self) -> tuple[str, ...]:
        """What other programs call it."""
        return next((one.names for one in self.field.metadata if isinstance(one, Elsewhere)), ())


def walk(
    model: type[BaseModel], prefix: str = "", inherited: tuple[Any, ...] = ()
) -> Iterator[Key]:
    """Every key of a model, sections before what they hold, in the order of the classes."""
    for name, field in model.model_fields.items():
        own = tuple(one for one in field.metadata if isinstance(one, Mark | Only))
        inner = section_of(field.annotation)
        yield Key(f"{prefix}{name}", field, own + inherited, inner)
        if inner is not None:
            yield from walk(inner, f"{prefix}{name}.", own + inherited)


def values(settings: BaseModel) -> Iterator[tuple[Key, Any]]:
    """Every key that holds a value, with it; of a section that is absent, the section with None."""
    found: dict[str, Any] = {"": settings}
    for key in walk(type(settings)):
        above, _, name = key.path.rpartition(".")
        if found[above] is None:
            found[key.path] = None
            continue
        value = found[key.path] = getattr(found[above], name)
        if key.section is None or value is None:
            yield key, value


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also where it may be absent; None for a plain value."""
    optional = get_args(annotation)
    for kind in optional if NoneType in optional else (annotation,):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def without(model: type[BaseModel], settings: Mapping[str, Any], *left_out: Mark) -> dict[str, Any]:
    """Plain values of a model without the keys that have one of these marks, sections alike.

    A key that is `OMITTED` goes where it is not set, which its default says.
    """
    kept = {}
    for name, field in model.model_fields.items():
        value, inner = settings[name], section_of(field.annotation)
        if any(mark in field.metadata for mark in left_out):
            continue
        if OMITTED in field.metadata and value == field.default:
            continue
        if inner is not None and value is not None:
            value = without(inner, value, *left_out)
        kept[name] = value
    return kept
