"""Real tokenizers, trained on the spot, and preference data written to real files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dpo_bench.data.pairs import LoadedPairs, pairs_from_rows
from dpo_bench.data.rows import Rows
from dpo_bench.experiment.config import Data

SENTENCES = [
    "The film was good, and the actors were even better than I had hoped.",
    "A dull story; nothing happens for two hours.",
    "What is the capital of France? Paris, of course.",
    "Instruct: write a poem. Output: roses are red, violets are blue.",
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + ' ' + eos_token }}{% else %}"
    "{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)


def byte_level(special: list[str]) -> Any:
    """A byte-level BPE tokenizer of the `tokenizers` library."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    return tokenizer


def wrap(**options: Any) -> Any:
    """A tokenizer of `transformers`."""
    import transformers

    build: Any = transformers.PreTrainedTokenizerFast
    return build(**options)


@lru_cache(maxsize=1)
def chatml() -> Any:
    """No BOS; ends turns with <|im_end|>, which is its EOS, and a newline."""
    tokenizer = wrap(
        tokenizer_object=byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@lru_cache(maxsize=1)
def llama() -> Any:
    """Puts <s> before and </s> behind every text; its template writes both itself."""
    from tokenizers.processors import TemplateProcessing

    inner = byte_level(["<s>", "</s>"])
    inner.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = wrap(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = LLAMA
    return tokenizer


def plain(**options: Any) -> Any:
    """A tokenizer of one's own choice of special tokens and template."""
    special = [value for key, value in options.items() if key.endswith("_token")]
    template = options.pop("chat_template", None)
    tokenizer = wrap(tokenizer_object=byte_level(special), **options)
    tokenizer.chat_template = template
    return tokenizer


@lru_cache(maxsize=2)
def sentencepiece(prepend: str) -> Any:
    """As Llama 2's: reads a space before a text (``first``: only there) and knows every byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    inner.train_from_iterator(SENTENCES * 4, trainer)
    return wrap(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def row(number: int, **values: Any) -> dict[str, Any]:
    """A valid row, different for each number."""
    return {
        "prompt": f"Question {number}?",
        "chosen": f" Yes, {number}.",
        "rejected": f" No, {number}.",
    } | values


def rows(count: int) -> list[dict[str, Any]]:
    return [row(number) for number in range(count)]


def loaded(*records: Mapping[str, Any], **options: Any) -> LoadedPairs:
    """Valid pairs of some rows, placed in ``data``."""
    return pairs_from_rows(Rows.numbered("data", records), Data(**options))


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)
