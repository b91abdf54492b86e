"""Rewards that a sequence classifier gives: reward models, and sentiment as in the DPO paper.

A classifier whose tokenizer has a chat template reads prompt and response as messages in that
template, which is what it was trained on. Any other reads ``evaluation.reward_template`` with
prompt and response filled in, as one text; so does every one for which that is given. The policy's
own chat template is in neither: of a chat's prompt the text is its readable transcript.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_bench.data.chat import ChatTemplate, answered
from dpo_bench.data.problems import RowProblem
from dpo_bench.errors import ConfigurationError, DataError, EnvironmentProblem
from dpo_bench.model.files import read_json
from dpo_bench.progress import Tell, tell_nobody
from dpo_bench.rewards.base import Reward
from dpo_bench.storage import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.experiment.config import Evaluation
    from dpo_bench.rewards.base import Prompt

PLAIN = "{prompt} {response}"
"""What a classifier without a chat template reads unless it is told otherwise."""
SENTIMENT = "sentiment"
POSITIVE = ("positive", "pos")
"""What a sentiment classifier may call its positive label, in any case."""
ROWS_PER_PASS = 32
UNLIMITED = 1 << 24
"""Limits from which a tokenizer's ``model_max_length`` means that there is none."""


def classifier_reward(kind: str, spec: str, options: Evaluation, device: str) -> Reward:
    """A reward that runs a classifier, which is loaded when it first scores.

    ``model`` gives a scalar head's output, or the log-odds of a chosen label; ``sentiment`` gives
    the probability of the positive label.

    Args:
        kind: ``model`` or ``sentiment``.
        spec: a folder in transformers' format, or a hub id.
        options: the evaluation's settings.
        device: where the classifier runs.

    Raises:
        ConfigurationError: no such folder or label, or several labels that might be meant.
        EnvironmentProblem: the model cannot be had on this machine, or is not whole.
    """
    from dpo_bench.experiment.config import World
    from dpo_bench.model.source import resolve_model

    folder = resolve_model(spec, world=World())
    config = read_json(folder.path / "config.json")
    if generates(config) and not options.reward_label:
        raise EnvironmentProblem(
            f"evaluation.reward = {kind}:{spec}: it is a {config['architectures'][0]}, which writes"
            " texts, and no sequence classifier; a language model can be a judge: judge:MODEL."
        )
    label = choose_label(kind, spec, labels_of(config), options.reward_label)
    classifier = Classifier(folder.path, kind, label, options, device)
    identity = digest(
        {
            "kind": kind,
            "model": folder.digest,
            "label": label,
            "template": classifier.template or "its own chat template",
            "tokens": options.reward_max_tokens,
            "over_limit": options.reward_over_limit,
        }
    )
    return Reward(
        f"{kind}:{folder.label}",
        f"{kind} {identity}",
        classifier,
        classifier.truncated,
        classifier.text,
    )


def generates(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is that of a language model, and says nothing of labels.

    >>> generates({"architectures": ["LlamaForCausalLM"]})
    True
    """
    names = config.get("architectures") or ("",)
    labels = {"id2label", "num_labels"} & config.keys()
    return not labels and all(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names)


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """A classifier's label names in the order of its outputs.

    >>> labels_of({"id2label": {"1": "POSITIVE", "0": "NEGATIVE"}})
    ('NEGATIVE', 'POSITIVE')
    >>> labels_of({})
    ('LABEL_0', 'LABEL_1')
    """
    named = config.get("id2label")
    if isinstance(named, Mapping) and named:
        return tuple(str(named[key]) for key in sorted(named, key=int))
    return tuple(f"LABEL_{index}" for index in range(int(config.get("num_labels") or 2)))


def choose_label(kind: str, spec: str, labels: Sequence[str], wanted: str) -> int:
    """Which of a classifier's outputs is the reward.

    Args:
        kind: ``model`` or ``sentiment``.
        spec: the model, for messages.
        labels: names of its outputs.
        wanted: ``evaluation.reward_label``: a name, a number, or empty.

    Raises:
        ConfigurationError: there is none, or it is not clear which.
    """
    where = f"evaluation.reward = {kind}:{spec}"
    listed = ", ".join(f"{index} {name}" for index, name in enumerate(labels))
    if wanted:
        found = [
            index
            for index, name in enumerate(labels)
            if wanted.casefold() in (name.casefold(), str(index))
        ]
        if len(found) != 1:
            count = "no label" if not found else f"{len(found)} labels"
            raise ConfigurationError(
                f"{where}: {count} {wanted!r} (evaluation.reward_label); it has: {listed}."
            )
        return found[0]
    if kind == SENTIMENT:
        found = [index for index, name in enumerate(labels) if name.casefold() in POSITIVE]
        if len(found) == 1 and len(labels) > 1:
            return found[0]
        raise ConfigurationError(
            f"{where}: which label is the positive one? Set evaluation.reward_label; "
            f"it has: {listed}."
        )
    if len(labels) == 1:
        return 0
    raise ConfigurationError(
        f"{where} has {len(labels)} outputs, not one: set evaluation.reward_label to one of: "
        f"{listed}."
    )


class Classifier:
    """A sequence classifier as a reward function.

    Rows are sorted by length and text before they are batched, so that the order in which they are
    given changes nothing. It runs in fp32.

    Attributes:
        template: the text with ``{prompt}`` and ``{response}`` that it reads; None: messages in its
            tokenizer's chat template.
    """

    def __init__(
        self, folder: Path, kind: str, label: int, options: Evaluation, device: str
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.label = label
        self.options = options
        self.device = device
        self.template = options.reward_template
        if self.template is None and not has_chat_template(folder):
            self.template = PLAIN

    def __call__(
        self, prompts: list[Prompt], responses: list[str], tell: Tell = tell_nobody
    ) -> list[float]:
        """The reward of each response.

        Raises:
            DataError: a text is over the limit and must not be cut, or the chat template refuses
                the messages.
            EnvironmentProblem: the folder holds no whole sequence classifier.
        """
        texts = self._texts(prompts, responses)
        lengths = [len(ids) for ids in self._encode(texts)]
        over = [length for length in lengths if length > self._limit]
        if over and self.options.reward_over_limit == "error":
            raise DataError(
                f"{len(over)} of {len(texts)} texts are over the reward model's {self._limit} "
                f"tokens (the first has {over[0]}): set evaluation.reward_over_limit = "
                '"truncate", or shorten the template.'
            )
        order = sorted(range(len(texts)), key=lambda index: (lengths[index], texts[index]))
        values = np.empty(len(texts))
        for start in range(0, len(order), ROWS_PER_PASS):
            part = order[start : start + ROWS_PER_PASS]
            rows = self._encode([texts[index] for index in part], limit=self._limit)
            values[part] = self._pass(rows)
            tell(start + len(part), len(order))
        return [float(value) for value in values]

    def truncated(self, prompts: list[Prompt], responses: list[str]) -> int:
        """How many texts are over the limit, and so are cut on the left."""
        rows = self._encode(self._texts(prompts, responses))
        return sum(len(ids) > self._limit for ids in rows)

    def text(self, prompt: Prompt, response: str) -> str:
        """What it reads of a prompt and a response.

        Raises:
            DataError: its chat template refuses the messages.
        """
        if self.template is None:
            return self._in_its_chat_template(prompt, response)
        # Not str.format: braces in a template are ordinary characters. The prompt goes in last
        # piece by piece, so that a "{response}" inside a prompt stays what it is.
        pieces = self.template.split("{response}")
        return response.join(piece.replace("{prompt}", prompt.transcript) for piece in pieces)

    def _in_its_chat_template(self, prompt: Prompt, response: str) -> str:
        answer = {"role": "assistant", "content": response}
        try:
            return ChatTemplate(self._tokenizer).conversation(answered(prompt.messages, answer), {})
        except RowProblem as problem:
            raise DataError(
                f"reward model {self.folder.name}: {problem.detail}; give it a text instead, such "
                f'as evaluation.reward_template = "{PLAIN}".'
            ) from None

    def _texts(self, prompts: list[Prompt], responses: list[str]) -> list[str]:
        return [self.text(*both) for both in zip(prompts, responses, strict=True)]

    def _encode(self, texts: list[str], limit: int | None = None) -> list[list[int]]:
        """Token ids of each text, cut to a limit; a chat template writes special tokens itself."""
        if not texts:
            return []
        cut: dict[str, Any] = {}
        if limit is not None and limit < UNLIMITED:
            cut = {"truncation": True, "max_length": limit}
        encoded = self._tokenizer(
            texts, add_special_tokens=self.template is not None, verbose=False, **cut
        )
        rows: list[list[int]] = encoded["input_ids"]
        return rows

    @cached_property
    def _limit(self) -> int:
        own = min(int(self._tokenizer.model_max_length), positions(self._model))
        asked = self.options.reward_max_tokens
        if asked > own:
            raise ConfigurationError(
                f"evaluation.reward_max_tokens = {asked}: {self.folder.name} reads at most {own}."
            )
        return asked or own

    def _pass(self, rows: list[list[int]]) -> NDArray[np.float64]:
        import torch

        pad = self._padding(rows)
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        for config in (self._model.config, self._model.config.get_text_config()):
            # A decoder's classifier looks for the last token that is not this one.
            config.pad_token_id = pad
        with torch.inference_mode():
            logits = self._model(
                input_ids=ids.to(self.device), attention_mask=mask.to(self.device)
            ).logits
        return np.asarray(self._values(logits.double().cpu()).numpy(), dtype=np.float64)

    def _padding(self, rows: list[list[int]]) -> int:
        """A token to pad with in which no row ends: its own, or else any.

        Where it is also what a text ends with (Llama 3's end of turn, for example), the score would
        be read one token too early.
        """
        ends: set[int] = {row[-1] for row in rows if row}
        own = (self._tokenizer.pad_token_id, self._declared_padding)
        choices: list[int] = [token for token in own if token is not None]
        choices += range(len(ends) + 1)
        return next(token for token in choices if token not in ends)

    def _values(self, logits: Any) -> Any:
        """From logits [row, label] to rewards [row]."""
        import torch

        own = logits[:, self.label]
        exclusive = (
            self._model.config.problem_type != "multi_label_classification" and logits.shape[1] > 1
        )
        if self.kind == SENTIMENT:
            return logits.softmax(-1)[:, self.label] if exclusive else own.sigmoid()
        if not exclusive:
            return own
        others = torch.arange(logits.shape[1]) != self.label
        return own - logits[:, others].logsumexp(-1)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load_classifier(self.folder, self.device)

    @property
    def _tokenizer(self) -> Any:
        return self._loaded[0]

    @property
    def _model(self) -> Any:
        return self._loaded[1]

    @cached_property
    def _declared_padding(self) -> int | None:
        """What the model's configuration calls padding; before a pass changes it."""
        found: int | None = self._model.config.get_text_config().pad_token_id
        return found


def has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer of a folder has a chat template; loads nothing."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and bool(read_json(file).get("chat_template"))


def positions(model: Any) -> int:
    """How many tokens a classifier has positions for.

    RoBERTa and its kind count positions from behind their padding token's id.
    """
    config = model.config.get_text_config()
    declared = int(getattr(config, "max_position_embeddings", None) or UNLIMITED)
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            return min(declared, int(module.num_embeddings - module.padding_idx - 1))
    return declared


def load_classifier(folder: Path, device: str) -> tuple[Any, Any]:
    """Tokenizer and sequence classifier of a folder, in eval mode and fp32.

    Raises:
        EnvironmentProblem: the folder holds no whole sequence classifier.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from dpo_bench.model.files import model_files
    from dpo_bench.model.load import load_tokenizer
    from dpo_bench.model.loading import silent_transformers

    tokenizer = load_tokenizer(folder)
    try:
        with silent_transformers():
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=torch.float32,
                use_safetensors=not model_files(folder).pickled,
                weights_only=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a folder's content makes transformers stumble over
        text = " ".join(str(error).split())[:300]
        raise EnvironmentProblem(
            f"{folder} cannot be loaded as a sequence classifier: {type(error).__name__}: {text}"
        ) from error
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise EnvironmentProblem(
            f"{folder} is no sequence classifier: it lacks {len(missing)} of the weights of "
            f"{type(model).__name__}, such as {missing[0]}."
        )
    tokenizer.truncation_side = "left"
    return tokenizer, model.to(device).eval()
