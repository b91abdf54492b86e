"""The registry: every loss by name, found in ``losses/`` and in the user's plug-in folders."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from dpo_bench.contract.composition import compose, list_modifiers
from dpo_bench.contract.loss import Loss, LossFunction, Normalization, read_hyperparameters
from dpo_bench.contract.requirements import NEEDS, require_known
from dpo_bench.contract.suggestions import nearest
from dpo_bench.errors import ConfigurationError
from dpo_bench.plugins import import_folder_as_package

_losses: dict[str, Loss] = {}
_aliases: dict[str, str] = {}

SCRIPT = "__main__"
ENTRY_POINTS = "dpo_bench.losses"


class UnknownLossError(ConfigurationError, LookupError):
    """No loss has this name."""


def register(
    name: str,
    *,
    paper: str,
    normalization: Normalization,
    grid: Sequence[float],
    aliases: Sequence[str] = (),
    family: str = "other",
    needs_reference: bool = True,
    needs: Sequence[str] = (),
    batch_coupled: bool = False,
    continued: LossFunction | None = None,
    reads_log_probs: bool = False,
    departs_from: Sequence[str] = (),
    kl_by: Sequence[str] = (),
) -> Callable[[LossFunction], LossFunction]:
    """Decorator that puts a loss function into the registry; see `Loss` for the fields.

    The function takes a `PairLogps` and its hyperparameters, each with a default, the strength
    first; it returns a tensor of shape [pair]. Its docstring is its documentation.

    Raises:
        ConfigurationError: a name is taken by another function or is no identifier, a default or
            the grid is out of range, the function has no docstring, a need does not exist,
            or a need that only the whole batch determines is declared without ``batch_coupled``.
    """

    def enter(function: LossFunction) -> LossFunction:
        for spelling in (name, *aliases):
            if not spelling.isidentifier():
                raise ConfigurationError(
                    f"{spelling!r} cannot name a loss: use letters, digits and underscores."
                )
        if not inspect.isfunction(function):
            raise ConfigurationError(f"{name}: register decorates a function, not {function!r}.")
        if not inspect.getdoc(function):
            raise ConfigurationError(f"{name}: give the loss function a docstring.")
        defaults, ranges = read_hyperparameters(function)
        loss = Loss(
            name=name,
            function=function,
            family=family,
            paper=paper,
            normalization=normalization,
            grid=tuple(float(value) for value in grid),
            aliases=tuple(aliases),
            needs_reference=needs_reference,
            hyperparameters=defaults,
            ranges=ranges,
            needs=tuple(needs),
            batch_coupled=batch_coupled,
            continued=continued,
            reads_log_probs=reads_log_probs,
            departs_from=tuple(departs_from),
            kl_by=tuple(kl_by),
        )
        _require_consistent(loss)
        _claim(loss)
        return function

    return enter


def _require_consistent(loss: Loss) -> None:
    require_known(loss.name, loss.needs)
    if not loss.batch_coupled and any(NEEDS[need].of_batch for need in loss.needs):
        raise ConfigurationError(
            f"{loss.name} needs what only the whole batch tells: say batch_coupled=True."
        )
    if loss.grid and not loss.strength:
        raise ConfigurationError(f"{loss.name} has a grid but no hyperparameter for it to vary.")
    loss.resolve(loss.hyperparameters)
    for value in loss.grid:
        loss.resolve({loss.strength or "": value})
    loss.resolve({name: loss.hyperparameters.get(name, 0.0) for name in loss.kl_by})


def _claim(loss: Loss) -> None:
    """Enter a loss under all its names; the same function seen again replaces its own entry."""
    for name in (loss.name, *loss.aliases):
        holder = _losses.get(_aliases.get(name, name))
        if holder and _identity(holder) != _identity(loss):
            raise ConfigurationError(
                f"two losses claim the name {name!r}: {holder.location} and {loss.location}."
            )
    _losses[loss.name] = loss
    _aliases.update(dict.fromkeys(loss.aliases, loss.name))


def _identity(loss: Loss) -> tuple[Path, str, str]:
    """What tells a file that was imported twice from two losses of one name.

    A loss of a script or notebook may be defined anew: the last definition counts.
    """
    home = Path(SCRIPT) if is_of_script(loss) else loss.source_file
    return home, loss.name, getattr(loss.function, "__qualname__", "")


def is_of_script(loss: Loss) -> bool:
    """Whether a loss was defined in the script or notebook that runs, so that nobody imports it."""
    return loss.function.__module__ == SCRIPT


def losses_of_script(names: Iterable[str]) -> bytes:
    """Those of these losses, parts included, that a script or notebook defines, to be sent on.

    Returns:
        what `accept_losses` takes; empty where there are none.
    """
    import dill

    found = {part.name: part for name in names for part in parts_of(get_loss(name))}
    own = [loss for loss in found.values() if is_of_script(loss)]
    return dill.dumps(own, byref=False, recurse=True) if own else b""


def accept_losses(sent: bytes) -> None:
    """Enter the losses that another process of this program sent."""
    import dill

    for loss in dill.loads(sent) if sent else ():  # noqa: S301 - from our own parent process
        _claim(loss)


def parts_of(loss: Loss) -> Iterator[Loss]:
    """A loss as it was registered, or those that it was composed of."""
    if not loss.parts:
        yield loss
    for part in loss.parts:
        yield from parts_of(part)


def load_plugins(folder: str | Path) -> list[str]:
    """Import every loss file of a folder; returns the names of the losses it holds.

    Raises:
        ConfigurationError: the folder is missing or holds no loss, a file cannot be imported, or a
            loss takes a name that is in use.
    """
    _load_own()  # first, so that a clash of names is found in the plug-in
    path = Path(folder).expanduser().resolve()
    if not path.is_dir():
        raise ConfigurationError(f"plug-in folder {path} does not exist.")
    package = f"dpo_bench_plugins_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    with _naming(path / "__init__.py"):
        import_folder_as_package(package, path)
    _import_files(package, path)
    found = sorted(loss.name for loss in _losses.values() if path in loss.source_file.parents)
    if not found:
        raise ConfigurationError(f"plug-in folder {path} holds no file that registers a loss.")
    return found


def _import_files(package: str, path: Path) -> None:
    for module in pkgutil.iter_modules([str(path)]):
        with _naming(path / (f"{module.name}/" if module.ispkg else f"{module.name}.py")):
            importlib.import_module(f"{package}.{module.name}")


@contextlib.contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a loss file is imported into an error that names it."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from error
    except (Exception, SystemExit) as error:  # a script that exits when imported is no loss file
        raise ConfigurationError(
            f"cannot import {file}: {type(error).__name__}: {_in_a_line(error)}"
            f"{_place_within(error, file.parent)}"
        ) from error


def _place_within(error: BaseException, folder: Path) -> str:
    """The last line of a folder's files that an error came through, as `` (at file:line)``."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    inside = (frame for frame in frames if Path(frame.filename).is_relative_to(folder))
    frame = next(inside, None)
    return f" (at {Path(frame.filename).relative_to(folder)}:{frame.lineno})" if frame else ""


def _in_a_line(error: BaseException, most: int = 300) -> str:
    """An error's message without line breaks and what a terminal might obey, cut if need be."""
    words = " ".join(str(error).split())
    text = "".join(letter for letter in words if letter.isprintable())
    return text if len(text) <= most else f"{text[:most]} ..."


@functools.cache
def _load_own() -> None:
    """Import the shipped losses, then those of installed packages.

    A package offers its losses by an entry point of the group `ENTRY_POINTS` that names a module.
    """
    package = importlib.import_module("dpo_bench.losses")
    _import_files(package.__name__, Path(package.__path__[0]))
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        with _naming(Path(f"{entry.dist.name if entry.dist else '?'}: {entry.value}")):
            entry.load()


def get_loss(name: str) -> Loss:
    """The loss of this name or alias, or composed as an expression of names says.

    ``js(dpo)`` is a loss under a modifier, ``0.8*dpo + 1.0*sft`` a weighted sum.

    Raises:
        UnknownLossError: there is none; the message suggests the nearest name.
        ConfigurationError: an expression that spells no loss, or a modifier that cannot take one.
    """
    _load_own()
    return _named(name) if _looks_like_name(name) else compose(name, _named)


def _looks_like_name(name: str) -> bool:
    return not any(mark in name for mark in "()*+")


def _named(name: str) -> Loss:
    try:
        return _losses[_aliases.get(name, name)]
    except KeyError:
        known = [*_losses, *_aliases]
        raise UnknownLossError(
            f"unknown loss {name!r}{nearest(name, known)}. `dpo-bench losses` lists all."
        ) from None


def list_losses() -> list[str]:
    """Names of all losses, sorted; aliases are not listed."""
    _load_own()
    return sorted(_losses)


def source_digest(loss: Loss) -> str:
    """SHA-256 (hex) of a loss's source: its file and the sibling files that it imports.

    Of a composed loss: the sources of its parts and of the modifiers. Of a loss that a script or a
    notebook's cell defines: its function, and what that uses of the same script: functions, classes
    and plain values.

    Raises:
        ConfigurationError: the loss was typed into an interpreter, so that no file tells two
            versions of it apart.
    """
    if loss.parts:
        return _composed_digest(loss)
    if is_of_script(loss):
        return hashlib.sha256("\0".join(_sources_of_script(loss)).encode()).hexdigest()
    files = sorted(_source_closure(loss.source_file), key=lambda file: file.name)
    if not files:
        raise ConfigurationError(f"{loss.name} has no source file: put it into one.")
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(file.read_bytes())
    return hasher.hexdigest()


def _sources_of_script(loss: Loss) -> list[str]:
    """The source of a script's loss and of all that it uses of the script, by name, each once."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, object]] = [(loss.name, inspect.unwrap(loss.function))]
    while waiting:
        name, used = waiting.pop()
        if name in found:
            continue
        if isinstance(used, bool | int | float | str | tuple):
            found[name] = f"{name} = {used!r}"
        elif getattr(used, "__module__", None) == SCRIPT and callable(used):
            found[name] = _source_of(used, loss)
            waiting += _globals_used(used)
    return [found[name] for name in sorted(found)]


def _globals_used(used: object) -> Iterator[tuple[str, object]]:
    """The global names that a function's code mentions, in what is defined inside it too."""
    codes = [used.__code__] if inspect.isfunction(used) else []
    if inspect.isclass(used):
        codes = [one.__code__ for one in vars(used).values() if inspect.isfunction(one)]
    namespace = sys.modules[SCRIPT].__dict__
    while codes:
        code = codes.pop()
        codes += [one for one in code.co_consts if inspect.iscode(one)]
        yield from ((name, namespace[name]) for name in code.co_names if name in namespace)


def _source_of(used: Callable[..., object], loss: Loss) -> str:
    try:
        return inspect.getsource(used)
    except (OSError, TypeError):
        raise ConfigurationError(
            f"{loss.name} was typed into an interpreter that keeps no source, so that two versions"
            " of it could not be told apart: define it in a file or a notebook."
        ) from None


def _composed_digest(loss: Loss) -> str:
    sources = {
        Path(inspect.getsourcefile(m.function) or "").resolve()
        for m in list_modifiers()
        if m.name in loss.modifiers
    }
    files = set().union(*map(_source_closure, sources))
    hasher = hashlib.sha256(Path(inspect.getsourcefile(compose) or "").read_bytes())
    for part in loss.parts:
        hasher.update(source_digest(part).encode())
    for file in sorted(files, key=lambda file: file.name):
        hasher.update(file.read_bytes())
    return hasher.hexdigest()


def _source_closure(file: Path) -> set[Path]:
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        current = waiting.pop()
        if current in seen or not current.is_file():
            continue
        seen.add(current)
        for node in ast.walk(ast.parse(current.read_bytes())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                waiting += _siblings(current.parent, node)
    return seen


def _siblings(folder: Path, node: ast.ImportFrom) -> Iterator[Path]:
    """Files that ``from .a import b`` or ``from . import a`` may read."""
    names = [node.module] if node.module else [alias.name for alias in node.names]
    for name in names:
        yield folder / f"{name.split('.')[0]}.py"
        yield from (folder / name.split(".")[0]).glob("**/*.py")
