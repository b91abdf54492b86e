"""Situations of reward models and of reward functions."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.rewards.case import Case, Lab, Ran
from benchmarks.rewards.classifiers import ENDED, LONG, PLAIN, difference

FUNCTIONS = "benchmarks.rewards.functions"
EXACT = 1e-5
"""Relative difference from plain transformers: fp32 of models with large weights."""
AS_PLAIN = "Every reward is that of plain transformers, one text at a time, within 1e-5."
BY_LENGTH = "The rewards are those of `length`, and so is the win rate."


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _models()
    yield from _callables()
    yield from _values()
    yield from _dependent()


def _model(name: str, tried: str, model: str, template: str, **more: object) -> Case:
    settings = (f"evaluation.reward_template={template}", *more.pop("settings", ()))  # type: ignore[misc]
    label = more.pop("label", None)

    def check(lab: Lab, _case: Case, ran: Ran) -> str:
        found = difference(ran.folder, lab.root / "rm" / model, template, label)  # type: ignore[arg-type]
        return "" if found <= EXACT else f"rewards differ by {found:.1e}"

    return Case(name, tried, AS_PLAIN, f"model:ROOT/rm/{model}", settings, more=check, **more)  # type: ignore[arg-type]


def _models() -> Iterator[Case]:
    yield _model("padded", "with a pad token of its own", "padded", PLAIN)
    yield _model("unpadded-ended", "without a pad token; texts end in eos", "unpadded", ENDED)
    yield _model("unpadded", "the same, without `</s>` at the end", "unpadded", PLAIN)
    yield _model(
        "unpadded-gpt2", "GPT-2 without a pad token; texts end in eos", "unpadded-gpt2", ENDED
    )
    yield _model("endless", "tokenizer with neither pad nor eos", "endless", PLAIN)
    yield _model("bf16-weights", "weights in bf16", "bf16", PLAIN)
    yield _model(
        "two-labels", "two labels, the second chosen", "two-labels", PLAIN, label=1,
        settings=("evaluation.reward_label=LABEL_1",),
    )  # fmt: skip
    yield _model(
        "roberta", "RoBERTa of 66 positions, texts cut", "roberta", LONG,
        settings=("evaluation.reward_over_limit=truncate",),
    )  # fmt: skip
    yield Case(
        "roberta-not-cut", "the same, not cut",
        "Exit 4 with the limit of 64 tokens and what to set.",
        "model:ROOT/rm/roberta", (f"evaluation.reward_template={LONG}",), 4,
        ("the reward model's 64 tokens", "reward_over_limit"),
    )  # fmt: skip
    yield Case(
        "nan-head", "NaN head", "Exit 4, with the model's name and the response.",
        "model:ROOT/rm/nan-head", code=4, words=("nan for response 1 of", "nan-head"),
    )  # fmt: skip
    yield Case(
        "value-head", "weights named `value_head.weight`", "Exit 3 with the name that is missing.",
        "model:ROOT/rm/value-head", code=3, words=("lacks 1 of the weights", "score.weight"),
    )  # fmt: skip
    yield Case(
        "language-model", "a causal language model",
        "Exit 3: it is no classifier, and can be a judge.",
        "model:ROOT/policy", code=3, words=("LlamaForCausalLM", "no sequence classifier", "judge"),
    )  # fmt: skip
    yield Case(
        "two-labels-none-chosen", "two labels, none chosen", "Exit 2 with the labels.",
        "model:ROOT/rm/two-labels", code=2, words=("reward_label", "LABEL_1"),
    )  # fmt: skip


def _as_length(name: str, tried: str, function: str, **more: object) -> Case:
    return Case(
        name, tried, BY_LENGTH, f"{FUNCTIONS}:{function}",
        number=lambda response: float(len(response)), more=_mean_length, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def _mean_length(_lab: Lab, _case: Case, ran: Ran) -> str:
    right = ran.responses()["response"].map(len).mean()
    found = float(ran.table["reward"][0])
    return "" if abs(found - right) < 1e-9 else f"mean reward {found}, right {right}"


def _fails(name: str, tried: str, function: str, *words: str, code: int = 4) -> Case:
    wished = f"Exit {code}, in a sentence with the function's name and what it did."
    spec = f"{FUNCTIONS}:{function}"
    return Case(name, tried, wished, spec, code=code, words=(spec, *words))


def _callables() -> Iterator[Case]:
    yield _as_length("length", "plain function", "length")
    yield _as_length("scorer", "object with `__call__`", "scorer")
    yield _as_length("part", "`functools.partial`", "part")
    yield _fails("cached", "`lru_cache`, which cannot keep lists", "cached", "unhashable type")
    yield Case(
        "builtin", "a builtin, `operator:eq`", "Exit 4 with its name and what it returned.",
        "operator:eq", code=4, words=("reward operator:eq returned bool False",),
    )  # fmt: skip
    yield _as_length("of-texts", "torch module whose `forward` takes texts", "of_texts")
    yield _fails(
        "of-tensors", "torch module whose `forward` takes tensors", "of_tensors",
        "is a torch module whose forward", "model:PATH", code=2,
    )  # fmt: skip
    yield _as_length("trlkw", "`f(completions, prompts=None, **kwargs)`", "trlkw")
    yield _fails(
        "accuracy", "TRL's `f(completions, solution, **kwargs)`", "accuracy",
        "(completions", "it must take prompts and responses", code=2,
    )  # fmt: skip


def _values() -> Iterator[Case]:
    yield _as_length("bf16-tensor", "bf16 tensor", "bf16")
    yield _as_length("gradient", "tensor with `requires_grad`", "gradient")
    yield _as_length("generated", "generator", "generated")
    yield _fails("keyed", "dict", "keyed", "returned dict")
    yield _fails("later", "coroutine", "later", "returned coroutine")
    yield _fails("complex-numbers", "complex numbers", "complex_numbers", "returned complex")
    yield _fails("words", "numbers as texts", "words", "returned str")
    yield _fails("short-of-one", "one number too few", "short_of_one", "values for")
    yield _as_length("mutates", "changes its lists", "mutates")
    yield _fails("pops", "empties its list before it counts", "pops", "returned 0 values for")
    yield _fails("raises", "raises", "raises", "failed: KeyError: 'grade' (functions.py, line ")
    yield _fails("huge", "1e308 and -1e308", "huge", "at most 1e+100 in size")
    yield _fails("leaves", "`raise SystemExit(3)`", "leaves", "failed: SystemExit: 3")


def _dependent() -> Iterator[Case]:
    def missed(name: str, function: str, tried: str, wished: str, words: str) -> Case:
        return Case(name, tried, wished, f"{FUNCTIONS}:{function}", words=(words,), more=_warned)

    yield missed(
        "whitened", "whitened", "centered and divided within a call",
        "The control `order` fails, said before the table and in the report.",
        "warning: Control 'order' gave",
    )  # fmt: skip
    yield missed(
        "of-prompts", "of_prompts", "does not read the responses",
        "The control `responses` is 0, said before the table and in the report.",
        "warning: Control 'responses' gave 0 [0, 0]",
    )  # fmt: skip
    yield missed(
        "drawn", "drawn", "another number each time",
        "The control `order` is 0, said before the table and in the report.",
        "warning: Control 'order' gave 0 [0, 0]",
    )  # fmt: skip
    yield _fails(
        "divided", "divided by a deviation that is 0 for equal texts", "divided",
        "returned float nan for response 1 of", "the deviation of its call",
    )  # fmt: skip
    yield Case(
        "shadowed-libraries", "a working directory with files called as libraries",
        "None of them stands in for its library.", f"{FUNCTIONS}:length",
        environment={"PYTHONSAFEPATH": ""}, before=_shadows, directory="shadows",
        number=lambda response: float(len(response)),
    )  # fmt: skip


def _shadows(lab: Lab, _case: Case) -> None:
    (lab.root / "shadows").mkdir()
    for library in ("signal", "dataclasses", "random", "json", "selectors", "numpy", "torch"):
        text = f"raise RuntimeError('not the library {library}')"
        (lab.root / "shadows" / f"{library}.py").write_text(text, encoding="utf-8")


def _warned(_lab: Lab, _case: Case, ran: Ran) -> str:
    if "warning: Control" in ran.text.partition("computed now")[2]:
        return "the terminal says it behind the table"
    return "" if "Check these figures" in ran.report else "the report does not say it"
