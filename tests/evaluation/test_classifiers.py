"""Reward models and sentiment classifiers, with real tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpo_bench.errors import ConfigurationError, DataError, EnvironmentProblem
from dpo_bench.evaluation.classifiers import choose_label
from dpo_bench.evaluation.rewards import Reward, find_reward
from dpo_bench.experiment.config import Evaluation
from tests.conftest import PAIRS
from tests.tiny import save_tokenizer

PROMPTS = [pair["prompt"] for pair in PAIRS[:9]]
RESPONSES = [pair["chosen"] * (1 + index % 3) for index, pair in enumerate(PAIRS[:9])]


def save_classifier(folder: Path, kind: str, labels: list[str], **more: Any) -> Path:
    """A tiny sequence classifier; ``bert`` reads both ways, ``llama`` the last token."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        LlamaConfig,
        LlamaForSequenceClassification,
    )

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = save_tokenizer(folder, [" ".join(pair.values()) for pair in PAIRS])
    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "pad_token_id": 0,
        "initializer_range": 0.3,
        **more,
    }
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model: Any = (
            BertForSequenceClassification(BertConfig(**sizes))
            if kind == "bert"
            else LlamaForSequenceClassification(LlamaConfig(**sizes))
        )
        with torch.no_grad():
            head = model.classifier if kind == "bert" else model.score
            head.weight.normal_(0, 1)
    model.save_pretrained(folder)
    return folder


def scorer(spec: str, **more: Any) -> Reward:
    found = find_reward(Evaluation(reward=spec, **more))
    assert isinstance(found, Reward)
    return found


def by_hand(folder: Path, texts: list[str]) -> torch.Tensor:
    """Logits of each text by itself, without padding."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        rows = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    return torch.stack(rows).double()


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_reward_model_gives_its_scalar_whatever_the_batch(tmp_path: Path, kind: str) -> None:
    folder = save_classifier(tmp_path / kind, kind, ["score"])
    reward = scorer(f"model:{folder}")
    texts = [f"{prompt} {response}" for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    expected = by_hand(folder, texts)[:, 0].numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(reward.score(PROMPTS, RESPONSES), expected, atol=1e-5)
    backwards = reward.score(PROMPTS[::-1], RESPONSES[::-1])[::-1]
    assert np.array_equal(backwards, reward.score(PROMPTS, RESPONSES))


def test_sentiment_is_the_probability_of_the_positive_label(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "two", "bert", ["NEGATIVE", "POSITIVE"])
    logits = by_hand(folder, RESPONSES)
    given = scorer(f"sentiment:{folder}", reward_template="{response}").score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(given, logits.softmax(-1)[:, 1].numpy(), atol=1e-6)
    odds = scorer(f"model:{folder}", reward_template="{response}", reward_label="positive")
    np.testing.assert_allclose(
        odds.score(PROMPTS, RESPONSES), (logits[:, 1] - logits[:, 0]).numpy(), atol=1e-5
    )


def test_a_multi_label_head_has_a_probability_for_each_label(tmp_path: Path) -> None:
    kind = {"problem_type": "multi_label_classification"}
    folder = save_classifier(tmp_path / "multi", "bert", ["pos", "rude"], **kind)
    logits = by_hand(folder, RESPONSES)
    given = scorer(f"sentiment:{folder}", reward_template="{response}").score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(given, logits.sigmoid()[:, 0].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "labels", "wanted", "found"),
    [
        ("model", ["score"], "", 0),
        ("sentiment", ["neg", "neutral", "Positive"], "", 2),
        ("sentiment", ["LABEL_0", "LABEL_1"], "1", 1),
        ("model", ["rude", "kind"], "KIND", 1),
        ("model", ["a", "b"], "", "set evaluation.reward_label"),
        ("sentiment", ["LABEL_0", "LABEL_1"], "", "which label is the positive one"),
        ("sentiment", ["POS", "positive"], "", "which label is the positive one"),
        ("sentiment", ["positive"], "", "which label is the positive one"),
        ("model", ["a", "b"], "c", "no label 'c'"),
        ("model", ["a", "A"], "a", "2 labels 'a'"),
    ],
)
def test_the_label_is_found_or_asked_for(
    kind: str, labels: list[str], wanted: str, found: int | str
) -> None:
    if isinstance(found, int):
        assert choose_label(kind, "m", labels, wanted) == found
        return
    with pytest.raises(ConfigurationError, match=found):
        choose_label(kind, "m", labels, wanted)


def test_what_is_too_long_stops_or_is_cut_at_its_beginning_and_counted(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "short", "bert", ["score"])
    long = ["tea " * 200 + "is bad.", "rain"]
    with pytest.raises(DataError, match="1 of 2 texts are over the reward model's 128 tokens"):
        scorer(f"model:{folder}").score(["", ""], long)
    cut = scorer(f"model:{folder}", reward_over_limit="truncate", reward_template="{response}")
    assert cut.truncated(["", ""], long) == 1
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.decode(tokenizer(long[0])["input_ids"][-128:])
    np.testing.assert_allclose(
        cut.score(["", ""], long), by_hand(folder, [end, "rain"])[:, 0].numpy(), atol=1e-5
    )
    with pytest.raises(ConfigurationError, match="reads at most 128"):
        scorer(f"model:{folder}", reward_max_tokens=200).score([""], ["a"])


def test_a_template_fills_in_texts_as_they_are(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "text", "bert", ["score"])
    reward = scorer(f"model:{folder}", reward_template="{prompt}|{x}|{response}")
    expected = by_hand(folder, ["say {response}|{x}|ok {prompt}"])[:, 0].numpy()
    np.testing.assert_allclose(
        reward.score(["say {response}"], ["ok {prompt}"]), expected, atol=1e-5
    )


def test_the_identity_is_the_content_not_the_place(tmp_path: Path) -> None:
    first = save_classifier(tmp_path / "first", "bert", ["score"])
    second = save_classifier(tmp_path / "second", "bert", ["score"])
    one = scorer(f"model:{first}").identity
    assert one == scorer(f"model:{second}").identity
    assert one != scorer(f"model:{first}", reward_template="{response}").identity
    config = (second / "config.json").read_text()
    (second / "config.json").write_text(config.replace('"score"', '"other"'))
    assert one != scorer(f"model:{second}").identity


def test_a_language_model_is_no_reward_model(llama_folder: Path) -> None:
    reward = scorer(f"model:{llama_folder}", reward_label="1")
    with pytest.raises(EnvironmentProblem, match="no sequence classifier"):
        reward.score(["a"], ["b"])
    with pytest.raises(ConfigurationError, match="no model at"):
        scorer("sentiment:/not/here")
