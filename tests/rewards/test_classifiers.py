"""Reward models and sentiment classifiers, with real tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpo_bench.errors import ConfigurationError, DataError, EnvironmentProblem
from dpo_bench.experiment.config import Evaluation
from dpo_bench.rewards.base import Prompt, Reward
from dpo_bench.rewards.classifiers import PLAIN, choose_label
from dpo_bench.rewards.find import find_reward
from tests.conftest import PAIRS
from tests.tiny import save_tokenizer

PROMPTS = [Prompt.of(pair["prompt"]) for pair in PAIRS[:9]]
NONE = [Prompt.of("")] * 2
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
    reward = scorer(f"model:{folder}", reward_template=PLAIN)
    texts = [
        f"{prompt.text} {response}" for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
    ]
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
        scorer(f"model:{folder}", reward_template=PLAIN).score(NONE, long)
    cut = scorer(f"model:{folder}", reward_over_limit="truncate", reward_template="{response}")
    assert cut.truncated(NONE, long) == 1
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    end = tokenizer.decode(tokenizer(long[0])["input_ids"][-128:])
    np.testing.assert_allclose(
        cut.score(NONE, long), by_hand(folder, [end, "rain"])[:, 0].numpy(), atol=1e-5
    )
    with pytest.raises(ConfigurationError, match="reads at most 128"):
        scorer(f"model:{folder}", reward_max_tokens=200).score(NONE[:1], ["a"])


def test_a_template_fills_in_texts_as_they_are(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "text", "bert", ["score"])
    reward = scorer(f"model:{folder}", reward_template="{prompt}|{x}|{response}")
    expected = by_hand(folder, ["say {response}|{x}|ok {prompt}"])[:, 0].numpy()
    np.testing.assert_allclose(
        reward.score([Prompt.of("say {response}")], ["ok {prompt}"]), expected, atol=1e-5
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
    reward = scorer(f"model:{llama_folder}", reward_label="1", reward_template=PLAIN)
    with pytest.raises(EnvironmentProblem, match="no sequence classifier"):
        reward.score(NONE[:1], ["b"])
    with pytest.raises(EnvironmentProblem, match=r"LlamaForCausalLM, .*can be a judge"):
        scorer(f"model:{llama_folder}")
    with pytest.raises(ConfigurationError, match="no model at"):
        scorer("sentiment:/not/here")


RM_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}|{{ m['content'] }}<|im_end|>{% endfor %}"
)
CHATS = [
    Prompt.of("<the policy's own tokens>", [{"role": "user", "content": "How is the tea?"}]),
    Prompt.of(
        "<more of these>",
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "And the rain?"},
            {"role": "assistant", "content": "Wet, "},
        ],
    ),
    Prompt.of("a plain question"),
]
ANSWERS = ["It is good.", "and cold.", "yes"]
IN_ITS_TEMPLATE = [
    "<|im_start|>user|How is the tea?<|im_end|><|im_start|>assistant|It is good.<|im_end|>",
    (
        "<|im_start|>system|Be brief.<|im_end|><|im_start|>user|And the rain?<|im_end|>"
        "<|im_start|>assistant|Wet, and cold.<|im_end|>"
    ),
    "<|im_start|>user|a plain question<|im_end|><|im_start|>assistant|yes<|im_end|>",
]


def with_template(folder: Path, template: str | None, **special: Any) -> Path:
    """Give a saved classifier's tokenizer another chat template and other special tokens."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    for name, token in special.items():
        setattr(tokenizer, name, token)
    for file in folder.glob("chat_template*"):
        file.unlink()
    tokenizer.save_pretrained(folder)
    return folder


def last_logits(folder: Path, texts: list[str]) -> list[float]:
    """The scalar head at each text's last token, worked out from the base model's states."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for text in texts:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            states = model.model(input_ids=ids).last_hidden_state
            found.append(float(model.score(states)[0, -1, 0]))
    return found


def test_a_reward_model_with_a_chat_template_reads_messages_in_it(tmp_path: Path) -> None:
    folder = with_template(save_classifier(tmp_path / "rm", "llama", ["score"]), RM_TEMPLATE)
    reward = scorer(f"model:{folder}")
    expected = last_logits(folder, IN_ITS_TEMPLATE)
    np.testing.assert_allclose(reward.score(CHATS, ANSWERS), expected, atol=1e-5)
    assert [reward.reads(*both) for both in zip(CHATS, ANSWERS, strict=True)] == IN_ITS_TEMPLATE
    assert reward.truncated(CHATS, ANSWERS) == 0


@pytest.mark.parametrize("pad", ["<|im_end|>", None, "<|pad|>"])
def test_the_score_is_that_of_the_last_token_whatever_pads(tmp_path: Path, pad: str | None) -> None:
    """Llama 3's templates end in the EOS token, and have no padding of their own."""
    folder = save_classifier(tmp_path / "rm", "llama", ["score"], pad_token_id=None)
    with_template(folder, RM_TEMPLATE, pad_token=pad)
    expected = last_logits(folder, IN_ITS_TEMPLATE)
    np.testing.assert_allclose(scorer(f"model:{folder}").score(CHATS, ANSWERS), expected, atol=1e-5)


def test_a_tokenizer_with_neither_pad_nor_eos_will_do(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "rm", "llama", ["score"], pad_token_id=None)
    with_template(folder, RM_TEMPLATE, pad_token=None, eos_token=None)
    np.testing.assert_allclose(
        scorer(f"model:{folder}").score(CHATS, ANSWERS),
        last_logits(folder, IN_ITS_TEMPLATE),
        atol=1e-5,
    )


def test_special_tokens_of_the_chat_template_stand_there_once(tmp_path: Path) -> None:
    """The tokenizer would put BOS before what the template has begun with BOS."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = save_classifier(tmp_path / "rm", "llama", ["score"])
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    tokenizer.save_pretrained(folder)
    with_template(folder, RM_TEMPLATE)
    np.testing.assert_allclose(
        scorer(f"model:{folder}").score(CHATS, ANSWERS),
        last_logits(folder, IN_ITS_TEMPLATE),
        atol=1e-5,
    )


def test_a_text_reads_a_chats_transcript_without_the_policys_tokens(tmp_path: Path) -> None:
    folder = with_template(save_classifier(tmp_path / "rm", "llama", ["score"]), None)
    reward = scorer(f"model:{folder}")
    texts = [
        "How is the tea? It is good.",
        "System: Be brief.\n\nUser: And the rain?\n\nAssistant: Wet, and cold.",
        "a plain question yes",
    ]
    assert [reward.reads(*both) for both in zip(CHATS, ANSWERS, strict=True)] == texts
    np.testing.assert_allclose(
        reward.score(CHATS, ANSWERS), by_hand(folder, texts)[:, 0].numpy(), atol=1e-5
    )


def test_a_chat_template_that_refuses_is_named_with_the_way_out(tmp_path: Path) -> None:
    refusing = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    folder = save_classifier(tmp_path / "rm", "llama", ["score"])
    with_template(folder, refusing + RM_TEMPLATE)
    reward = scorer(f"model:{folder}")
    with pytest.raises(
        DataError, match=r"reward model rm: .*no system.*evaluation.reward_template"
    ):
        reward.score(CHATS, ANSWERS)


def test_roberta_has_fewer_positions_than_its_table(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaForSequenceClassification

    folder = save_classifier(tmp_path / "roberta", "bert", ["score"])
    with torch.random.fork_rng():
        torch.manual_seed(2)
        build: Any = RobertaConfig
        config = build(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=66,
            num_labels=1,
            pad_token_id=1,
        )
        RobertaForSequenceClassification(config).save_pretrained(folder)
    with_template(folder, None)
    long = ["tea " * 100, "rain"]
    with pytest.raises(DataError, match="over the reward model's 64 tokens"):
        scorer(f"model:{folder}").score(NONE, long)
    cut = scorer(f"model:{folder}", reward_over_limit="truncate", reward_template="{response}")
    assert np.isfinite(cut.score(NONE, long)).all()
