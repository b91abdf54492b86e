"""A user's function as a reward: how it is found, what it is given, and what identifies it.

Whatever can be called will do: a function, a method, an object with ``__call__``, a `partial`, a
builtin, a torch module whose ``forward`` takes texts. It gets its parameters by name where their
names are known, in any order and also keyword-only, so that reward functions written for TRL's
trainers and plain texts work as they are:

====================================================  ==========================================
``prompts``, ``prompt``                               what the policy reads, a text per response
``completions``, ``completion``, ``responses``,
``response``                                          the texts to be scored
``messages``                                          of each prompt its chat messages
====================================================  ==========================================

Otherwise two positional parameters get prompts and responses. Each call gets lists of its own.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

from dpo_bench.errors import ConfigurationError, DataError, DpoBenchError
from dpo_bench.progress import Tell, tell_nobody
from dpo_bench.rewards.base import Prompt, numbers_of
from dpo_bench.storage import digest, file_digest

PROMPTS = ("prompts", "prompt")
RESPONSES = ("completions", "completion", "responses", "response")
MESSAGES = "messages"
KNOWN = (*PROMPTS, *RESPONSES, MESSAGES)
AT_ONCE = 256
"""Responses of a call at most: between calls it is told how far a slow function is."""
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders of installed packages, whose versions are not a reward's own source."""

Kind = inspect.Parameter
SEVERAL = (Kind.VAR_POSITIONAL, Kind.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Calling:
    """What a function is given.

    Attributes:
        positional: names of `KNOWN`, in the order in which their values are passed.
        keywords: names of `KNOWN` whose values are passed by name.
    """

    positional: tuple[str, ...]
    keywords: tuple[str, ...] = ()

    def call(
        self, function: Callable[..., Any], prompts: list[Prompt], responses: list[str]
    ) -> Any:
        """What the function returns for these texts."""

        def value(name: str) -> list[Any]:
            if name in RESPONSES:
                return list(responses)
            if name == MESSAGES:
                return [copy.deepcopy(list(prompt.messages)) for prompt in prompts]
            return [prompt.text for prompt in prompts]

        return function(
            *map(value, self.positional), **{name: value(name) for name in self.keywords}
        )


BY_POSITION = Calling(("prompts", "responses"))


def calling(function: Callable[..., Any]) -> Calling | None:
    """What a function's signature asks for; None when it fits neither names nor two positions.

    >>> calling(lambda completions, prompts=None, **kwargs: None)
    Calling(positional=(), keywords=('completions', 'prompts'))
    >>> calling(lambda asked, answered: None)
    Calling(positional=('prompts', 'responses'), keywords=())
    >>> calling(lambda completions, solution: None) is None
    True
    """
    try:
        parameters = list(inspect.signature(_telling(function)).parameters.values())
    except (TypeError, ValueError):  # a builtin that does not tell
        return BY_POSITION
    takes_any = any(one.kind is Kind.VAR_KEYWORD for one in parameters)
    if any(one.name in RESPONSES for one in parameters if one.kind not in SEVERAL):
        return _by_name(parameters, takes_any=takes_any)
    if takes_any and not _any_places(parameters) and not _unknown(parameters):
        return _by_name(parameters, takes_any=True)
    return BY_POSITION if _two_positions(parameters) else None


def _telling(function: Any) -> Any:
    """What has the signature of a call: of a torch module its ``forward``."""
    return function.forward if is_torch_module(function) else function


def is_torch_module(function: object) -> bool:
    """Whether something is a ``torch.nn.Module``, whose call takes whatever ``forward`` takes."""
    torch = sys.modules.get("torch")  # whoever made one has imported it
    return torch is not None and isinstance(function, torch.nn.Module)


def _by_name(parameters: list[Kind], *, takes_any: bool) -> Calling | None:
    if _unknown(parameters):
        return None
    known = [one for one in parameters if one.name in KNOWN and one.kind not in SEVERAL]
    positional = tuple(one.name for one in known if one.kind is Kind.POSITIONAL_ONLY)
    if [one.name for one in parameters[: len(positional)]] != list(positional):
        return None  # another that has no name comes before them
    keywords = [one.name for one in known if one.kind is not Kind.POSITIONAL_ONLY]
    if takes_any:  # what TRL passes to every reward function
        for name, spellings in (("prompts", PROMPTS), ("completions", RESPONSES)):
            if not set(spellings) & {one.name for one in known}:
                keywords.append(name)
    return Calling(positional, tuple(keywords))


def _two_positions(parameters: list[Kind]) -> bool:
    """Whether prompts and responses can be passed by position, and nothing else is wanted."""
    if any(_required(one) for one in parameters if one.kind is Kind.KEYWORD_ONLY):
        return False
    places = [
        one for one in parameters if one.kind in (Kind.POSITIONAL_ONLY, Kind.POSITIONAL_OR_KEYWORD)
    ]
    known = [one.name for one in places if one.name in KNOWN]
    if known and not (known == [places[0].name] and known[0] in PROMPTS):
        return False  # a known name in another's place
    named = any(one.kind is Kind.VAR_KEYWORD for one in parameters)
    if _any_places(parameters):
        return len(places) <= 2 and not named
    return sum(map(_required, places)) == 2


def _any_places(parameters: list[Kind]) -> bool:
    return any(one.kind is Kind.VAR_POSITIONAL for one in parameters)


def _unknown(parameters: list[Kind]) -> list[Kind]:
    """Parameters that must be given and have none of the known names."""
    return [one for one in parameters if _required(one) and one.name not in KNOWN]


def _required(parameter: Kind) -> bool:
    return parameter.default is Kind.empty and parameter.kind not in SEVERAL


@dataclass(frozen=True, slots=True)
class UserFunction:
    """A user's function as a reward's.

    Attributes:
        spec: ``module:name``, for messages.
        function: the user's.
        calling: what it is given.
        files: its source, by module; see `own_files`.
    """

    spec: str
    function: Callable[..., Any]
    calling: Calling
    files: dict[str, Path]

    @property
    def identity(self) -> str:
        """The name and the content of its source, wherever that lies."""
        content = {name: file_digest(file) for name, file in self.files.items()}
        return f"{self.spec} {digest(content)}"

    def __call__(
        self, prompts: list[Prompt], responses: list[str], tell: Tell = tell_nobody
    ) -> Any:
        """What the function returns, of one call or, part by part, of several.

        Raises:
            DataError: the function raised, or would end the process; it did not return a number for
                each response of a part.
        """
        total = len(responses)
        if total <= AT_ONCE:
            return self._call(prompts, responses)
        rewards: list[float] = []
        for start in range(0, total, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            values = self._call(prompts[part], responses[part])
            rewards += numbers_of(self.spec, values, responses[part]).tolist()
            tell(len(rewards), total)
        return rewards

    def _call(self, prompts: list[Prompt], responses: list[str]) -> Any:
        """What one call returns; of an iterator what comes out of it."""
        try:
            values = self.calling.call(self.function, prompts, responses)
            # Of an iterator, which may have no end, one more tells that there are too many.
            most = len(responses) + 1
            return list(itertools.islice(values, most)) if isinstance(values, Iterator) else values
        except DpoBenchError:
            raise
        except (Exception, SystemExit) as error:
            what = " ".join(str(error).split())[:300]
            raise DataError(
                f"reward {self.spec} failed: {type(error).__name__}: {what}{self._where(error)}"
            ) from error

    def _where(self, error: BaseException) -> str:
        """The last line of the user's files that an error came through, else the last of all."""
        own = {str(file) for file in self.files.values()}
        places, trace = [], error.__traceback__
        while trace is not None:
            places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
            trace = trace.tb_next
        places = [place for place in places if place[0] != __file__]
        mine = [place for place in places if str(Path(place[0]).resolve()) in own]
        if not places:
            return ""
        file, line = (mine or places)[-1]
        return f" ({Path(file).name}, line {line})"


def find_function(spec: str) -> UserFunction:
    """The function that ``module:name`` names; the name may have dots, as ``Class.method``.

    The working directory is looked at last, so that no file in it stands in for a library.

    Raises:
        ConfigurationError: there is no such module or function, or it cannot be given prompts and
            responses.
    """
    module_name, _, name = spec.partition(":")
    where = f"evaluation.reward = {spec!r}"
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # also a script that exits when imported
        text = " ".join(str(error).split())[:300]
        raise ConfigurationError(
            f"{where}: cannot import {module_name}: {type(error).__name__}: {text}"
        ) from error
    function: Any = module
    for part in name.split("."):
        function = getattr(function, part, None)
    if not callable(function):
        raise ConfigurationError(
            f"{where}: {module_name} ({getattr(module, '__file__', None) or 'built in'}) has no "
            f"function {name}."
        )
    if isinstance(function, type):
        raise ConfigurationError(f"{where} is a class: name a function, or an object of it.")
    how = calling(function)
    if how is None:
        what = (
            "is a torch module whose forward has the signature" if is_torch_module(function) else ""
        )
        hint = "; for a classifier that transformers saved use model:PATH" if what else ""
        raise ConfigurationError(
            f"{where} {what or 'has the signature'} {_signature(function)}: it must take prompts "
            "and responses (or completions), as texts, by these names or as two positional "
            f"parameters, and nothing else{hint}."
        )
    return UserFunction(spec, function, how, own_files(module, function))


def _signature(function: Callable[..., Any]) -> str:
    return " ".join(str(inspect.signature(_telling(function))).split())[:200]


def own_files(module: ModuleType, function: object) -> dict[str, Path]:
    """The source files that a reward is made of, by module name.

    The files of the module that was named and of the one in which the function was written, and of
    all that these import, in turn, from the user's own folders: the working directory and the
    folder of the module (of a package the one around it). Installed packages are not the user's
    own, whether or not they lie there; what is opened or imported by a computed name is not seen.
    """
    starts = [module, sys.modules.get(_home(function) or "")]
    waiting = [(one.__name__, file) for one in starts if one and (file := _file_of(one))]
    roots = [Path.cwd().resolve()]
    roots += [_root(name, file) for name, file in waiting if not _is_installed(file)]
    found: dict[str, Path] = {}
    while waiting:
        name, file = waiting.pop()
        if name in found:
            continue
        found[name] = file
        waiting += [
            (other, path)
            for other in _imports(name, file)
            if other not in found and (path := _find(other)) and _is_own(other, path, roots)
        ]
    return found


def _home(function: Any) -> str | None:
    """Name of the module in which a callable was written."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, MethodType):
            function = function.__func__
        elif (inner := getattr(function, "__wrapped__", None)) is not None:
            function = inner
        else:
            break
    home = getattr(function, "__module__", None) or type(function).__module__
    return home if isinstance(home, str) else None


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file and Path(file).is_file() else None


def _root(name: str, file: Path) -> Path:
    """The folder of a module, of one in a package that around the outermost."""
    levels = name.count(".") + (file.name == "__init__.py")
    return file.parents[min(levels, len(file.parents) - 1)]


def _is_own(name: str, file: Path, roots: list[Path]) -> bool:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == __name__.partition(".")[0]:
        return False
    return not _is_installed(file) and any(file.is_relative_to(root) for root in roots)


def _is_installed(file: Path) -> bool:
    return not INSTALLED.isdisjoint(file.parts)


def _imports(name: str, file: Path) -> set[str]:
    """Full names of what a file imports, also within its functions; some may be no modules."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # compiled
        return set()
    package = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names if base}
    # Of a.b.c also a and a.b: the files of its packages run before it.
    return {".".join(one.split(".")[: at + 1]) for one in found for at in range(one.count(".") + 1)}


def _find(name: str) -> Path | None:
    """File of a module, imported or not (nothing is imported for it); None where there is none."""
    folders: Any = None
    file: Path | None = None
    for at in range(name.count(".") + 1):
        parent = ".".join(name.split(".")[: at + 1])
        if at and folders is None:
            return None  # what it would be in is no package
        if (module := sys.modules.get(parent)) is not None:
            file, folders = _file_of(module), getattr(module, "__path__", None)
            continue
        spec = PathFinder.find_spec(parent, folders)
        if spec is None:
            return None
        file = Path(spec.origin).resolve() if spec.has_location and spec.origin else None
        folders = spec.submodule_search_locations
    return file
