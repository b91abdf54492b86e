"""Rewards that a sequence classifier gives: reward models, and sentiment as in the DPO paper.

The classifier reads ``evaluation.reward_template`` with prompt and response filled in, as one text.
A chat's prompt is the text that the policy reads, its template's special tokens included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpo_bench.errors import ConfigurationError, DataError, EnvironmentProblem
from dpo_bench.evaluation.rewards import Reward
from dpo_bench.model.files import read_json
from dpo_bench.storage import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.experiment.config import Evaluation

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
    label = choose_label(kind, spec, labels_of(config), options.reward_label)
    classifier = Classifier(folder.path, kind, label, options, device)
    identity = digest(
        {
            "kind": kind,
            "model": folder.digest,
            "label": label,
            "template": options.reward_template,
            "tokens": options.reward_max_tokens,
            "over_limit": options.reward_over_limit,
        }
    )
    return Reward(f"{kind}:{folder.label}", f"{kind} {identity}", classifier, classifier.truncated)


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
    """

    def __init__(
        self, folder: Path, kind: str, label: int, options: Evaluation, device: str
    ) -> None:
        self.folder = folder
        self.kind = kind
        self.label = label
        self.options = options
        self.device = device
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        """The reward of each response.

        Raises:
            DataError: a text is over the limit and must not be cut.
            EnvironmentProblem: the folder holds no whole sequence classifier.
        """
        texts = self._texts(prompts, responses)
        lengths = self._lengths(texts)
        limit = self._limit()
        over = [index for index, length in enumerate(lengths) if length > limit]
        if over and self.options.reward_over_limit == "error":
            raise DataError(
                f"{len(over)} of {len(texts)} texts are over the reward model's {limit} tokens "
                f"(the first has {lengths[over[0]]}): set evaluation.reward_over_limit = "
                '"truncate", or shorten the template.'
            )
        order = sorted(range(len(texts)), key=lambda index: (lengths[index], texts[index]))
        values = np.empty(len(texts))
        for start in range(0, len(order), ROWS_PER_PASS):
            part = order[start : start + ROWS_PER_PASS]
            values[part] = self._pass([texts[index] for index in part])
        return [float(value) for value in values]

    def truncated(self, prompts: list[str], responses: list[str]) -> int:
        """How many texts are over the limit, and so are cut on the left."""
        limit = self._limit()
        return sum(length > limit for length in self._lengths(self._texts(prompts, responses)))

    def _texts(self, prompts: list[str], responses: list[str]) -> list[str]:
        template = self.options.reward_template
        # Not str.format: braces in a template are ordinary characters. The prompt goes in last
        # piece by piece, so that a "{response}" inside a prompt stays what it is.
        pieces = template.split("{response}")
        return [
            response.join(piece.replace("{prompt}", prompt) for piece in pieces)
            for prompt, response in zip(prompts, responses, strict=True)
        ]

    def _lengths(self, texts: list[str]) -> list[int]:
        tokenizer, _ = self._load()
        return [len(ids) for ids in tokenizer(texts, verbose=False)["input_ids"]] if texts else []

    def _limit(self) -> int:
        tokenizer, model = self._load()
        positions = getattr(model.config, "max_position_embeddings", None) or UNLIMITED
        own = min(int(tokenizer.model_max_length), int(positions))
        asked = self.options.reward_max_tokens
        if asked > own:
            raise ConfigurationError(
                f"evaluation.reward_max_tokens = {asked}: {self.folder.name} reads at most {own}."
            )
        return asked or own

    def _pass(self, texts: list[str]) -> NDArray[np.float64]:
        import torch

        tokenizer, model = self._load()
        limit = self._limit()
        batch = tokenizer(
            texts,
            return_tensors="pt",
            padding=True,
            truncation=limit < UNLIMITED,
            max_length=limit if limit < UNLIMITED else None,
        )
        with torch.inference_mode():
            logits = model(**batch.to(self.device)).logits.double().cpu()
        return np.asarray(self._values(logits).numpy(), dtype=np.float64)

    def _values(self, logits: Any) -> Any:
        """From logits [row, label] to rewards [row]."""
        import torch

        own = logits[:, self.label]
        exclusive = (
            self._load()[1].config.problem_type != "multi_label_classification"
            and logits.shape[1] > 1
        )
        if self.kind == SENTIMENT:
            return logits.softmax(-1)[:, self.label] if exclusive else own.sigmoid()
        if not exclusive:
            return own
        others = torch.arange(logits.shape[1]) != self.label
        return own - logits[:, others].logsumexp(-1)

    def _load(self) -> tuple[Any, Any]:
        """Tokenizer and model."""
        if self._loaded is None:
            self._loaded = load_classifier(self.folder, self.device)
        return self._loaded


def load_classifier(folder: Path, device: str) -> tuple[Any, Any]:
    """Tokenizer and sequence classifier of a folder, in eval mode and fp32.

    Raises:
        EnvironmentProblem: the folder holds no whole sequence classifier.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    from dpo_bench.model.files import model_files
    from dpo_bench.model.load import load_tokenizer, silent_transformers

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
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        # A decoder's classifier looks for the last token that is not padding.
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model.to(device).eval()
