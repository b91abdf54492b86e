"""Rewards that are a user's functions: what they are given, may return, and are identified by."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dpo_bench.analysis.bootstrap import bootstrap_mean, resample_weights
from dpo_bench.errors import ConfigurationError, DataError
from dpo_bench.experiment.config import Evaluation
from dpo_bench.rewards.base import LARGEST, Prompt, Reward, numbers_of
from dpo_bench.rewards.find import find_reward

PROMPTS = [
    Prompt.of("why is it so?"),
    Prompt.of("who"),
    Prompt.of("<x>hm", [{"role": "user", "content": "hm"}]),
]
RESPONSES = ["a", "bb", "cccc"]
LENGTHS = [1.0, 2.0, 4.0]

FRESH = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module into the working directory and gives its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write(text: str, name: str = "") -> str:
        name = name or f"own_rewards_{next(FRESH)}"
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def reward_of(module: Callable[[str], str], text: str, name: str = "f") -> Reward:
    found = find_reward(Evaluation(reward=f"{module(text)}:{name}"))
    assert isinstance(found, Reward)
    return found


SIGNATURES = [
    "prompts, responses",
    "prompts, completions",
    "completions, prompts",
    "completions, prompts=None, **kwargs",
    "completions, **kwargs",
    "prompts, completions, **kwargs",
    "responses",
    "*, responses, prompts",
    "prompts, *, completions, scale=1",
    "responses, prompts, /",
    "scale=1, responses=None",
    "response, prompt",
    "messages, responses",
]
"""Of functions that say by name which texts they want; the truth is always the same."""


@pytest.mark.parametrize("signature", SIGNATURES)
def test_parameters_are_passed_by_their_names(module: Callable[[str], str], signature: str) -> None:
    given = next(name for name in ("responses", "completions", "response") if name in signature)
    reward = reward_of(module, f"def f({signature}): return [len(one) for one in {given}]")
    assert reward.score(PROMPTS, RESPONSES).tolist() == LENGTHS


@pytest.mark.parametrize("signature", [
    "asked, answered", "asked, answered, /", "asked, answered, scale=1", "prompts, answered",
    "asked, *rest", "*rest",
    "*responses",
])  # fmt: skip
def test_other_parameters_are_passed_by_position(
    module: Callable[[str], str], signature: str
) -> None:
    given = {"asked, *rest": "rest[0]", "*rest": "rest[1]", "*responses": "responses[1]"}.get(
        signature, "answered"
    )
    reward = reward_of(module, f"def f({signature}): return [len(one) for one in {given}]")
    assert reward.score(PROMPTS, RESPONSES).tolist() == LENGTHS


def test_prompts_come_as_texts_and_as_messages(module: Callable[[str], str]) -> None:
    text = (
        "def f(messages, prompts, responses):\n"
        "    return [100 * len(m) + 10 * len(m[0]['content']) + len(p)\n"
        "            for m, p in zip(messages, prompts)]"
    )
    assert reward_of(module, text).score(PROMPTS, RESPONSES).tolist() == [243, 133, 125]


def test_further_keywords_carry_the_prompts(module: Callable[[str], str]) -> None:
    text = "def f(completions, **kwargs): return [len(p) for p in kwargs['prompts']]"
    assert reward_of(module, text).score(PROMPTS, RESPONSES).tolist() == [13, 3, 5]
    text = "def f(**kwargs): return [len(p) for p in kwargs['completions']]"
    assert reward_of(module, text).score(PROMPTS, RESPONSES).tolist() == LENGTHS


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "texts",
        "completions, solution",
        "completions, solution, **kwargs",
        "answered, prompts",
        "one, two, three",
        "one, two, *, three",
        "texts, scale=1",
        "prompts",
        "asked, **responses",
        "*anything, **more",
        "scale=1, responses=None, /",
    ],
)
def test_a_signature_that_fits_neither_is_refused_at_start(
    module: Callable[[str], str], signature: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        reward_of(module, f"def f({signature}): return 0")
    message = str(caught.value)
    assert f"the signature ({signature}): it must take prompts and responses" in message
    assert "\n" not in message


def test_the_function_of_the_readme_works(module: Callable[[str], str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in readme.split("```python\n")[1:]]
    (block,) = [block for block in blocks if "def brevity(" in block]
    values = reward_of(module, block, "brevity").score(PROMPTS, ["one", "one two", ""])
    assert values.tolist() == [-1, -2, 0]


CALLABLES = """
import functools, operator

def weighted(weight, prompts, responses):
    return [weight * len(one) for one in responses]

class Scorer:
    weight = 1
    def __call__(self, prompts, responses):
        return weighted(self.weight, prompts, responses)
    def score(self, completions, **kwargs):
        return weighted(1, None, completions)
    @classmethod
    def of_class(cls, completions):
        return weighted(cls.weight, None, completions)
    @staticmethod
    def plain(prompts, responses):
        return weighted(1, prompts, responses)

def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

scorer = Scorer()
part = functools.partial(weighted, 1)
named = functools.partial(weighted, weight=1)
lengths = functools.partial(map, lambda prompt, response: len(response))
bound = scorer.score
decorated = logged(Scorer.plain)
"""


@pytest.mark.parametrize(
    "name",
    ["scorer", "part", "named", "lengths", "bound", "decorated",
     "scorer.score", "Scorer.of_class", "Scorer.plain"],
)  # fmt: skip
def test_whatever_can_be_called_will_do(module: Callable[[str], str], name: str) -> None:
    reward = reward_of(module, CALLABLES, name)
    assert reward.score(PROMPTS, RESPONSES).tolist() == LENGTHS


def test_a_cached_function_and_a_builtin_are_found(module: Callable[[str], str]) -> None:
    text = "import functools\n@functools.lru_cache\ndef f(prompts, responses): return [1]"
    with pytest.raises(DataError, match=r"^reward own\S+:f failed: TypeError: unhashable type"):
        reward_of(module, text).score(PROMPTS, RESPONSES)
    with pytest.raises(DataError, match="reward operator:eq returned bool False: return one"):
        find_reward(Evaluation(reward="operator:eq")).score(PROMPTS, RESPONSES)  # type: ignore[union-attr]


MODULES = """
import torch

class OfTexts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
    def forward(self, completions, **kwargs):
        return self.weight * torch.tensor([float(len(one)) for one in completions])

of_texts = OfTexts()
of_tokens = torch.nn.Linear(2, 1)
"""


def test_a_torch_module_is_taken_by_its_forward(module: Callable[[str], str]) -> None:
    assert reward_of(module, MODULES, "of_texts").score(PROMPTS, RESPONSES).tolist() == LENGTHS
    words = r"is a torch module whose forward has the signature \(input: .*use model:PATH"
    with pytest.raises(ConfigurationError, match=words):
        reward_of(module, MODULES, "of_tokens")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Scorer", "is a class: name a function, or an object of it"),
        ("Scorer.score", r"signature (self, completions, **kwargs)"),
        ("scorer.weight", "has no function scorer.weight"),
        ("nothing", ".py) has no function nothing"),
        ("scorer.", "has no function scorer."),
    ],
)
def test_what_is_no_function_is_refused(
    module: Callable[[str], str], name: str, words: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        reward_of(module, CALLABLES, name)
    assert words in str(caught.value)


def test_a_module_that_exits_when_imported_is_refused(module: Callable[[str], str]) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot import own_\S+: SystemExit: 3"):
        reward_of(module, "raise SystemExit(3)")


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 4],
        (1.0, np.float16(2), torch.tensor(4, dtype=torch.bfloat16)),
        torch.tensor([1, 2, 4]),
        torch.tensor([1.0, 2.0, 4.0], dtype=torch.bfloat16),
        torch.tensor([1.0, 2.0, 4.0], dtype=torch.float16, requires_grad=True) * 1,
        [torch.tensor(one, requires_grad=True) for one in LENGTHS],
        np.array([1, 2, 4], dtype=np.uint8),
        np.array([1, 2.0, 4], dtype=object),
        pd.Series([1.0, 2.0, 4.0], index=[5, 3, 1]),
        range(1, 4),
    ],
    ids=lambda values: type(values).__name__,
)
def test_numbers_of_any_kind_are_numbers(values: Any) -> None:
    right = [1.0, 2.0, 3.0] if isinstance(values, range) else LENGTHS
    found = numbers_of("own", values, RESPONSES)
    assert found.dtype == np.float64
    assert found.tolist() == right


def test_a_division_by_no_deviation_is_told() -> None:
    words = "own returned float nan for response 1 of 2, 'one': .*the deviation of its call"
    with pytest.raises(DataError, match=words):
        numbers_of("own", [math.nan, math.nan], ["one", "one"])
    with pytest.raises(DataError, match=r"in size\.$"):
        numbers_of("own", [math.nan, math.nan], ["one", "two"])


def test_a_generator_is_drawn_from_in_a_line(module: Callable[[str], str]) -> None:
    text = "def f(prompts, responses):\n    for one in responses: yield len(one)"
    assert reward_of(module, text).score(PROMPTS, RESPONSES).tolist() == LENGTHS
    endless = "import itertools\ndef f(prompts, responses): return itertools.count()"
    with pytest.raises(DataError, match="returned 4 values for 3 responses"):
        reward_of(module, endless).score(PROMPTS, RESPONSES)
    late = "def f(prompts, responses):\n    yield 1\n    raise KeyError('grade')"
    with pytest.raises(DataError, match=r"failed: KeyError: 'grade' \(own_\w+\.py, line 3\)"):
        reward_of(module, late).score(PROMPTS, RESPONSES)


async def later() -> list[float]:
    return LENGTHS


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"score": 1}, "returned dict {'score': 1}: return one number per response"),
        ({1.0, 2.0, 3.0}, "returned set "),
        ("123", "returned str '123'"),
        (b"123", "returned bytes"),
        (None, "returned None: "),
        (3.5, "returned float 3.5"),
        (torch.tensor(3.5), "an array of shape [] for 3 responses"),
        (np.ones((3, 1)), "an array of shape [3, 1] for 3 responses"),
        (pd.DataFrame({"a": LENGTHS}), "an array of shape [3, 1]"),
        ([1.0, 2.0], "returned 2 values for 3 responses"),
        ([], "returned 0 values for 3 responses"),
        ([1, [2], 4], "returned list [2] for response 2 of 3, 'bb'"),
        ([1, "2", 4], "returned str '2' for response 2 of 3, 'bb'"),
        ([1, None, 4], "returned None for response 2 of 3"),
        ([1, 2j, 4], "returned complex 2j for response 2"),
        (np.array([1, 2j, 4]), "returned complex (1+0j) for response 1"),
        (torch.tensor([1, 2j, 4]), "returned complex (1+0j) for response 1"),
        ([1, {"score": 2}, 4], "returned dict {'score': 2} for response 2"),
        ([1, pd.NA, 4], "for response 2 of 3"),
        ([1, float("nan"), 4], "returned float nan for response 2"),
        (np.array([1, 2, np.inf]), "returned float inf for response 3 of 3, 'cccc'"),
        ([1, -1e308, 4], "returned float -1e+308 for response 2"),
        ([1, 10**5000, 4], "returned an integer beyond that for response 2"),
        (torch.tensor([1e39, 1, 1], dtype=torch.float32), "returned float inf for response 1"),
    ],
)
def test_anything_else_is_refused_in_a_line(values: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        numbers_of("own:f", values, RESPONSES)
    message = str(caught.value)
    assert message.startswith("reward own:f returned ")
    assert words in message
    assert "\n" not in message
    assert len(message) < 300
    assert caught.value.exit_code == 4


def test_a_coroutine_is_refused_and_closed() -> None:
    with pytest.raises(DataError, match="returned coroutine <coroutine object later"):
        numbers_of("own:f", later(), RESPONSES)  # filterwarnings: one left alone would be an error


def test_the_largest_reward_leaves_the_statistics_finite() -> None:
    values = np.array([LARGEST, -LARGEST, 0.0, LARGEST])
    assert numbers_of("own", values, ["a"] * 4).tolist() == values.tolist()
    found = bootstrap_mean(values, resample_weights(4, 100, 0))
    assert np.isfinite([found.value, found.low, found.high]).all()
    assert found.value == pytest.approx(LARGEST / 4)


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        ("ValueError('no\\n grade')", "ValueError: no grade"),
        ("SystemExit(7)", "SystemExit: 7"),
        ("RecursionError()", "RecursionError: "),
    ],
)
def test_a_reward_that_raises_is_told_with_its_place(
    module: Callable[[str], str], raised: str, words: str
) -> None:
    text = f"def inner():\n    raise {raised}\n\ndef f(prompts, responses):\n    inner()"
    reward = reward_of(module, text)
    with pytest.raises(DataError) as caught:
        reward.score(PROMPTS, RESPONSES)
    where = reward.name.partition(":")[0]
    assert str(caught.value) == f"reward {reward.name} failed: {words} ({where}.py, line 2)"


def test_an_error_in_a_library_is_placed_where_the_user_called_it(
    module: Callable[[str], str],
) -> None:
    text = "import json\ndef f(prompts, responses):\n    return json.loads('[')"
    with pytest.raises(DataError, match=r"JSONDecodeError: .* \(own_\w+\.py, line 3\)$"):
        reward_of(module, text).score(PROMPTS, RESPONSES)


def test_a_reward_may_do_with_its_lists_what_it_likes(module: Callable[[str], str]) -> None:
    text = (
        "def f(messages, prompts, responses):\n"
        "    values = [float(len(responses.pop(0))) for _ in range(len(responses))]\n"
        "    prompts.clear()\n"
        "    messages[0][0].clear()\n"
        "    return values\n"
    )
    prompts, responses = [Prompt.of(one.text) for one in PROMPTS], list(RESPONSES)
    reward = reward_of(module, text)
    for _ in range(2):
        assert reward.score(prompts, responses).tolist() == LENGTHS
    assert responses == RESPONSES
    assert prompts[0].messages == [{"role": "user", "content": "why is it so?"}]


SAYS_IDENTITY = """
import sys
from dpo_bench.rewards.find import find_reward
from dpo_bench.experiment.config import Evaluation
print(find_reward(Evaluation(reward=sys.argv[1])).identity)
"""


def identity(folder: Path, spec: str = "own:f") -> str:
    """Of a reward, in a process of its own that stands in a folder."""
    paths = os.pathsep.join([str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, "-P", "-B", "-c", SAYS_IDENTITY, spec],
        cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LIBRARIES = "venv/lib/python3.11/site-packages"
SOURCES = {
    "own.py": (
        f"import json, sys, words\nsys.path.append({LIBRARIES!r})\nimport installed\n"
        "from kit import tools\nf = tools.wrapped(words.count)\n"
    ),
    "words.py": (
        "def count(prompts, responses):\n    import late.parts\n"
        "    return late.parts.all(responses)\n"
    ),
    "late/parts.py": "def all(responses): return [len(one) for one in responses]\n",
    "kit/__init__.py": "",
    "kit/tools.py": (
        "import functools\nfrom .deep.inner import same\n"
        "def wrapped(f): return functools.partial(same(f))\n"
    ),
    "kit/deep/__init__.py": "",
    "kit/deep/inner.py": "def same(f): return f\n",
}
"""Of a reward: all that it imports from the working directory, directly or not."""
FOREIGN = {"other.py": "nobody = 'imports this'\n", f"{LIBRARIES}/installed.py": ""}


def test_the_identity_covers_what_the_module_imports_from_the_users_folders(
    module: Callable[[str], str], tmp_path: Path
) -> None:
    there = tmp_path / "there"
    for folder, (name, text) in itertools.product(
        (tmp_path, there), {**SOURCES, **FOREIGN}.items()
    ):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def now() -> str:
        found = find_reward(Evaluation(reward="own:f"))
        assert found is not None
        return found.identity

    first = now()
    for name, text in {**SOURCES, **FOREIGN}.items():
        (tmp_path / name).write_text(f"{text}# changed\n")
        assert (now() != first) == (name in SOURCES), name
        (tmp_path / name).write_text(text)
    assert now() == first == identity(there)


def test_a_file_of_the_working_directory_stands_in_for_no_library(tmp_path: Path) -> None:
    (tmp_path / "secrets.py").write_text("raise SystemExit('mine')")
    (tmp_path / "own.py").write_text(
        "import secrets\ndef f(prompts, responses): return [secrets.randbelow(1)] * len(responses)"
    )
    assert identity(tmp_path).startswith("own:f ")
