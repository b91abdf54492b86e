"""What an experiment file may say: every key with its default, its unit and its meaning.

What a key means for the program stands on it as a mark; see `dpo_bench.experiment.fields`.

Frozen once read. The command line, the files and the documentation all derive from these classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dpo_bench.experiment.fields import (
    DIGESTED,
    NO_EFFECT,
    OMITTED,
    OWN,
    POLICY_ONLY,
    SOURCE,
    VARIED,
    Kind,
    Only,
    elsewhere,
    walk,
)

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]

WORLD = "world:"
"""What the name of an embedded world begins with, as a model or as data."""
JUDGE, CLASSIFIERS = "judge", ("model", "sentiment")
"""What stands before the colon of ``evaluation.reward`` where it names a judge or a classifier."""


def _rate(value: Any) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == "auto" or (is_number and 0 < value < math.inf):
        return value
    raise ValueError("a learning rate is a finite number greater than 0, or auto")


class Section(BaseModel):
    """A table of the file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, coerce_numbers_to_str=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _list_of_one(cls, value: Any, info: ValidationInfo) -> Any:
        """Where a list is wanted, ``0,1`` is one, and so is a single value."""
        if get_origin(cls.model_fields[str(info.field_name)].annotation) is not tuple:
            return value
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return [value] if isinstance(value, int | float) else value


class World(Section):
    """The embedded world (``policy`` or ``preferences`` = ``world:reviews``)."""

    pairs: Count = 1536
    """number of preference pairs to train on"""
    labels: Literal["deterministic", "bradley_terry"] = "deterministic"
    """the better response wins: always, or with probability sigmoid(difference / temperature)"""
    temperature: Positive = 0.5
    """temperature of Bradley-Terry labels, in units of the gold reward"""
    flip_rate: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """share of pairs whose label is flipped afterwards"""
    proxy: Literal["gold", "bag_of_words", "length"] = "gold"
    """what labels the pairs; evaluation always uses the gold reward"""
    seed: int = 0
    """seed of the world's text, model and pairs; 0 comes with the package, others are built here"""


class Data(Section):
    """How preference data is read and tokenized.

    What decides which texts the rows come to stands in these rows; the other keys stand beside them
    in the data's digest, see `dpo_bench.data.prepare.Preferences`.
    """

    split: Annotated[str, DIGESTED] = "train"
    """split of a hub id or folder; ``train`` is also the one that is named like ``train_prefs``"""
    subset: Annotated[str | None, DIGESTED] = None
    """configuration of a hub id, or folder within a folder; omitted: all that is there"""
    heldout: Annotated[str | None, DIGESTED, elsewhere("test_split", "eval_split")] = None
    """held-out pairs: a split or source; else a split or file ``heldout``, or a share of prompts"""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1), DIGESTED] = 0.1
    """share of the prompts that is held out when there are no held-out pairs"""
    pairs: Annotated[int, Field(ge=0), DIGESTED] = 0
    """use the first so many training pairs; 0 means all"""
    shape: Annotated[str, DIGESTED] = "auto"
    """``auto`` (by the columns), ``pairs``, or what rows without pairs are: see docs/data.md"""
    prompt_column: Annotated[str, DIGESTED] = "prompt"
    """column of the prompt; empty: the responses' common beginning, as in HH without that column"""
    chosen_column: Annotated[str, DIGESTED] = "chosen"
    """column of the preferred response"""
    rejected_column: Annotated[str, DIGESTED] = "rejected"
    """column of the other response"""
    margin_column: Annotated[str, DIGESTED] = "margin"
    """column of how much better the preferred response is, for losses that need it"""
    prompt_template: Annotated[str, DIGESTED] = "{prompt}"
    """text of a plain prompt; ``{column}`` is replaced by the row's value"""
    response_template: Annotated[str, DIGESTED] = "{response}"
    """text of a plain response"""
    chat: Annotated[Literal["auto", "wrap", "off"], DIGESTED] = "auto"
    """plain text: wrap it as chat messages, or not (off); auto: not, and say where it could be"""
    chat_template_kwargs: Annotated[dict[str, Any], OMITTED] = {}
    """variables of the policy's chat template, such as ``enable_thinking = false``"""
    max_prompt_tokens: Annotated[Count, elsewhere("max_prompt_length")] = 512
    """limit for the prompt, tokens"""
    max_response_tokens: Annotated[Count, elsewhere("max_length", "max_completion_length")] = 512
    """limit for each response with its EOS, tokens"""
    over_limit: Annotated[Literal["error", "truncate", "drop"], elsewhere("truncation_mode")] = (
        "error"
    )
    """pairs over a limit: stop, cut (prompt left, response right) or leave out; both counted"""
    invalid: Literal["error", "drop"] = "error"
    """rows that are no pair (empty or identical responses, wrong type): stop, or drop (counted)"""


class LoRA(Section):
    """A low-rank adapter over the frozen policy (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Annotated[Count, elsewhere("lora_r", "r")] = 16
    """rank of each adapted layer's update B A"""
    alpha: Annotated[Positive, elsewhere("lora_alpha")] = 32.0
    """the update is multiplied by alpha / rank"""
    rslora: bool = False
    """multiply it by alpha / sqrt(rank) instead (Kalajdzievski 2023, arXiv:2312.03732)"""
    target_modules: str | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """layers: ``all-linear`` (all but the output embedding), a list of names, or a path's regex"""
    layers: Annotated[str, OMITTED, elsewhere("layers_to_transform")] = "all"
    """decoder layers with an adapter: ``all``; the uppermost, ``top:8``; a share, ``top:0.25``"""

    @field_validator("layers")
    @classmethod
    def _layers_in_one_spelling(cls, value: str) -> str:
        """Refuse what means nothing; a share is written in one way, as it is part of identities."""
        if value == "all" or re.fullmatch(r"top:[1-9]\d*", value):
            return value
        share = re.fullmatch(r"top:0?\.(\d*[1-9])0*", value)
        if share is None:
            raise ValueError(
                "give all, top:N with a number of layers, or top:SHARE with a share between 0 and "
                "1, such as top:0.25"
            )
        return f"top:0.{share[1]}"


class Training(Section):
    """The one trainer's settings, the same for every loss."""

    optimizer: Annotated[Literal["adamw", "rmsprop"], OWN, elsewhere("optim")] = "adamw"
    """AdamW, or RMSprop as in the DPO paper"""
    learning_rate: Annotated[
        float | Literal["auto"], BeforeValidator(_rate), OWN, elsewhere("lr")
    ] = "auto"
    """peak learning rate; auto: by the model's size, so that a first run moves; no tuned value"""
    schedule: Annotated[
        Literal["constant", "linear", "cosine"],
        OWN,
        elsewhere("lr_scheduler_type", "lr_scheduler"),
    ] = "linear"
    """after the warm-up: stay, or fall to zero at the last step"""
    warmup_fraction: Annotated[
        float, Field(ge=0, lt=1), OWN, elsewhere("warmup_ratio", "warmup_steps")
    ] = 0.1
    """share of the steps over which the learning rate rises linearly"""
    weight_decay: Annotated[NonNegative, OWN] = 0.0
    """decoupled for AdamW; biases and the weights of norms are spared"""
    max_gradient_norm: Annotated[Positive, OWN, elsewhere("max_grad_norm")] = 10.0
    """gradients are scaled down to this norm"""
    pairs_per_step: Annotated[
        Count, OWN, elsewhere("batch_size", "train_batch_size", "gradient_accumulation_steps")
    ] = 32
    """pairs whose mean loss makes one optimizer step"""
    pairs_per_pass: Annotated[
        int, Field(ge=0), NO_EFFECT, elsewhere("per_device_train_batch_size")
    ] = 0
    """pairs per forward pass, smaller to save memory; never changes the result; 0 means all"""
    reference_sync_steps: Annotated[
        int, Field(ge=0), OWN, elsewhere("sync_ref_model", "ref_model_sync_steps")
    ] = 0
    """steps after which the reference follows the policy (TR-DPO); 0: never; else no cache of it"""
    reference_sync_rate: Annotated[
        float, Field(gt=0, le=1), OWN, elsewhere("ref_model_mixup_alpha")
    ] = 0.6
    """share of the policy in the reference that follows it; the rest is the old reference"""
    tokens_per_pass: Annotated[int, Field(ge=0), NO_EFFECT] = 0
    """tokens per forward pass, likewise, a pair's prompt counted once; 0 suits the device"""
    checkpointing: Annotated[
        Literal["auto", "none", "full"], NO_EFFECT, elsewhere("gradient_checkpointing")
    ] = "auto"
    """full: compute activations again, not keep them; auto: where memory is short on a GPU"""
    compile: Annotated[Literal["auto", "none", "layers"], NO_EFFECT] = "auto"
    """layers: compile each layer of the model, in bf16; auto: on a GPU"""
    steps: Annotated[Count | None, OWN, elsewhere("max_steps")] = None
    """optimizer steps"""
    epochs: Annotated[Positive | None, OWN, elsewhere("epoch", "num_train_epochs")] = None
    """passes over the pairs, instead of ``steps``; neither given: 1, but at least 30 steps"""
    seeds: Annotated[tuple[int, ...], Field(min_length=1), VARIED, NO_EFFECT, elsewhere("seed")] = (
        0,
    )
    """one trial per loss, strength and seed; the seed sets the order of the pairs"""
    resample: Annotated[Literal["none", "bootstrap"], OMITTED] = "none"
    """bootstrap: the seed also draws the pairs, as many, with replacement; see docs/data.md"""
    log_every: Annotated[Count, NO_EFFECT] = 10
    """steps between two readings of the metrics"""
    checkpoint_seconds: Annotated[NonNegative, NO_EFFECT] = 300.0
    """seconds between two checkpoints; 0 means after every step"""
    device: Annotated[Literal["auto", "cpu", "cuda"], NO_EFFECT] = "auto"
    """cuda when there is one"""
    gpus_per_trial: Annotated[Count, NO_EFFECT, elsewhere("num_processes", "nproc_per_node")] = 1
    """GPUs that hold one policy together; as many processes on a machine without GPUs"""
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], elsewhere("bf16", "dtype", "torch_dtype")
    ] = "auto"
    """auto: fp32 on a CPU, bf16 with fp32 master weights and fp32 logits on a GPU"""
    lora: Annotated[LoRA | None, OMITTED] = None
    """a table, even an empty one: train an adapter over one frozen model; absent: all weights"""
    lower_layers_gib: Annotated[NonNegative, NO_EFFECT] = 1.0
    """memory of each worker, GiB, for what layers below ``lora.layers = "top:N"`` give, computed
    once for all trials; 0: in each pass anew"""

    @property
    def peak_rate(self) -> float:
        """The peak learning rate, settled.

        Raises:
            RuntimeError: it is still to be chosen; see `experiment.defaults`.
        """
        if isinstance(self.learning_rate, str):
            raise RuntimeError("training.learning_rate = auto was not settled")  # noqa: TRY004
        return self.learning_rate

    @property
    def lower_layers_bytes(self) -> int:
        """Memory of a worker for what frozen lower layers give; 0 where all layers are trained."""
        if self.lora is None or self.lora.layers == "all":
            return 0
        return int(self.lower_layers_gib * 2**30)

    @model_validator(mode="after")
    def _one_reference(self) -> Training:
        if self.gpus_per_trial > 1 and self.reference_sync_steps:
            raise ValueError(
                "gpus_per_trial and reference_sync_steps do not go together: a reference that "
                "follows the policy is not divided among GPUs; leave one out"
            )
        if self.lora is not None and self.reference_sync_steps:
            raise ValueError(
                "lora and reference_sync_steps do not go together: with an adapter the reference "
                "is the frozen model itself, which cannot follow the policy; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Training:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds are given twice")
        return self


class Evaluation(Section):
    """How every policy is measured against the reference."""

    reward: Annotated[str, DIGESTED, elsewhere("judge")] = "none"
    """vader | module:function | model:PATH | sentiment:PATH | judge:MODEL | none"""
    prompts: Count = 256
    """number of held-out prompts"""
    samples_per_prompt: Annotated[Count, elsewhere("num_samples")] = 2
    """responses per prompt and policy"""
    max_new_tokens: Annotated[Count, elsewhere("max_tokens")] = 128
    """a sampled response is cut here, tokens"""
    temperature: Annotated[Positive, elsewhere("temperature")] = 1.0
    """of the responses that the reward sees; the KL is always taken at temperature 1"""
    reference_samples: Annotated[int, Field(ge=4)] = 64
    """reference responses per prompt: opponents, optimal frontier and best-of-n"""
    reference_precision: Annotated[Positive | None, OMITTED] = None
    """take only so many of them that a win rate's standard error is at most this share above what
    any number would give, such as 0.1: 4, 8, 16 ... of each prompt; unset: all"""
    sampler: Annotated[Literal["builtin", "openai"], OMITTED] = "builtin"
    """builtin | openai:URL: a server such as vLLM samples the reference and adapters;
    docs/sampling.md"""
    sampler_url: Annotated[str, NO_EFFECT] = ""
    """address of that server; openai:URL sets it"""
    rows_per_batch: Annotated[Count, NO_EFFECT] = 512
    """most responses sampled at once, fewer where a GPU's memory says so; never changes the
    result"""
    seed: int = 0
    """seed of the sampling, the same for every policy"""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """bootstrap resamples over prompts"""
    every: Annotated[int, Field(ge=0), POLICY_ONLY] = 0
    """training steps between two evaluations along the way; 0: only at the end"""
    kl_reverse: Annotated[bool, POLICY_ONLY] = False
    """also measure KL(reference || policy), on the reference's own responses"""
    controls: Count = 32
    """prompts on which reward or judge are controlled: a null response, another order"""
    reward_template: Annotated[str | None, DIGESTED, Only("classifier")] = None
    """text that a classifier reads, such as ``{response}``; unset: its own chat template where it
    has one, else ``{prompt} {response}``"""
    reward_label: Annotated[str, DIGESTED, Only("classifier")] = ""
    """label of the classifier, by name or number; empty: its scalar, or its positive label"""
    reward_max_tokens: Annotated[int, Field(ge=0), DIGESTED, Only("classifier")] = 0
    """limit of that text, tokens; 0: the classifier's own"""
    reward_over_limit: Annotated[Literal["error", "truncate"], DIGESTED, Only("classifier")] = (
        "error"
    )
    """texts over the limit: stop, or cut their beginning (counted)"""
    judge_base_url: Annotated[str, DIGESTED, Only("judge")] = "https://api.openai.com/v1"
    """OpenAI-compatible endpoint of a judge, without credentials; ``?api-version=`` may follow"""
    judge_key_variable: Annotated[
        str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$"), NO_EFFECT, Only("judge")
    ] = "OPENAI_API_KEY"
    """environment variable that holds the endpoint's key; empty: it needs none"""
    judge_criterion: Annotated[str, DIGESTED, Only("judge")] = (
        "The better response is more helpful, correct and to the point."
    )
    """what the judge is told to prefer"""
    judge_opponents: Annotated[Count, POLICY_ONLY, Only("judge")] = 1
    """reference responses that each response is judged against, both orders each"""
    judge_max_tokens: Annotated[Count, DIGESTED, Only("judge")] = 16
    """limit of the judge's answer, tokens; more for one that thinks aloud"""
    judge_concurrency: Annotated[Count, NO_EFFECT, Only("judge")] = 8
    """requests under way at once, of each worker"""
    judge_timeout: Annotated[Positive, NO_EFFECT, Only("judge")] = 60.0
    """seconds that one request may take, to the last byte of its answer"""
    judge_retries: Annotated[int, Field(ge=0), NO_EFFECT, Only("judge")] = 6
    """further tries, ever later, when the endpoint is busy, fails or answers garbage or nothing"""
    judge_failures: Annotated[float, Field(ge=0, lt=1), Only("judge")] = 0.05
    """share of requests without a verdict above which the trial fails"""
    judge_price_input: Annotated[NonNegative | None, NO_EFFECT, Only("judge")] = None
    """US dollars per million tokens that the judge reads; unset: no cost is worked out"""
    judge_price_output: Annotated[NonNegative | None, NO_EFFECT, Only("judge")] = None
    """US dollars per million tokens that the judge writes; unset: no cost is worked out"""
    judge_round_robin: Annotated[bool, NO_EFFECT, Only("judge")] = False
    """also judge every trial against every other: prompts x trials x (trials - 1) requests"""

    @model_validator(mode="before")
    @classmethod
    def _engine(cls, values: Any) -> Any:
        name = values.get("sampler") if isinstance(values, dict) else None
        if isinstance(name, str) and name.startswith("openai:"):
            return {**values, "sampler": "openai", "sampler_url": name.removeprefix("openai:")}
        if name == "openai" and not values.get("sampler_url"):
            raise ValueError("sampler: give the server's address too, openai:URL")
        return values


class Comparison(Section):
    """``[comparison]``: what the losses are compared by; nothing of it changes a trial."""

    measure: Annotated[Literal["", "reward", "win_rate"], NO_EFFECT] = ""
    """the primary measure, of which verdicts speak; empty: reward, or else win rate"""
    baseline: Annotated[str, NO_EFFECT] = ""
    """the loss that the others are compared with; empty: dpo, or else the first"""
    kl: Annotated[tuple[Positive, ...], NO_EFFECT] = ()
    """KLs at which they are compared, nats; empty: round ones that most of them cover"""
    same_within: Annotated[Positive | None, NO_EFFECT] = None
    """differences up to this size do not matter, in the measure's unit; unset: none are the same"""


class Search(Section):
    """``[search]``: strengths that lead to given KLs are found, instead of given; docs/search.md.

    Nothing of it changes a trial: it decides which trials there are.
    """

    kl: Annotated[tuple[Positive, ...], Field(min_length=1), NO_EFFECT] = (0.5, 1.0, 2.0, 4.0, 8.0)
    """KLs to the reference that every loss is to reach, nats: there losses are compared"""
    within: Annotated[float, Field(gt=0, lt=0.5), NO_EFFECT] = 0.1
    """a policy is at a KL when its own differs by at most this share of it"""
    learning_rates: Annotated[tuple[Positive, ...], NO_EFFECT] = ()
    """each loss is tuned over these, every one with the same number of trials; empty: not tuned"""
    extend: Annotated[tuple[Literal["learning_rate", "steps"], ...] | None, NO_EFFECT] = None
    """what may move the KL where a loss's own hyperparameters cannot; unset: the learning rate,
    unless it is tuned; ``[]``: nothing"""
    seeds: Annotated[tuple[Count, ...], Field(min_length=1, max_length=2), NO_EFFECT] | None = None
    """number of seeds: at least, at most, added until nothing is open; unset: those of training"""
    baseline: Annotated[str, NO_EFFECT] = ""
    """the loss that the others are compared with; the same as in ``[comparison]``"""
    same_within: Annotated[Positive | None, NO_EFFECT] = None
    """differences up to this size do not matter; the same as in ``[comparison]``"""
    trials_per_loss: Annotated[Count, NO_EFFECT] = 20
    """most trials that the search for one loss, at one tuned learning rate, may take"""
    trials: Annotated[int, Field(ge=0), NO_EFFECT] = 0
    """most trials in all, beyond which no more seeds are added; 0: no limit"""
    hours: Annotated[NonNegative, NO_EFFECT] = 0.0
    """time after which no trial is begun; 0: no limit; what is done by then differs by machine"""
    stop_early: Annotated[bool, NO_EFFECT] = True
    """end a trial of the search whose KL is far beyond the largest of ``kl`` half-way"""

    @field_validator("seeds", "extend", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, int | str) else value

    @model_validator(mode="after")
    def _sensible(self) -> Search:
        if list(self.kl) != sorted(set(self.kl)):
            raise ValueError("kl: give the KLs in ascending order, each once")
        if self.seeds and self.seeds[0] > self.seeds[-1]:
            raise ValueError("seeds: give the least number first, then the most")
        if len(set(self.learning_rates)) != len(self.learning_rates):
            raise ValueError("learning_rates: one is given twice")
        return self

    @property
    def extensions(self) -> tuple[str, ...]:
        """The training keys that may move the KL last, settled."""
        if self.extend is None:
            return () if self.learning_rates else ("learning_rate",)
        return self.extend


SAID_TWICE = ("kl", "baseline", "same_within")
"""Keys of ``[search]`` that ``[comparison]`` has too."""

OWN_KEYS = tuple(key.path for key in walk(Training) if key.has(OWN))
"""Keys of ``[training]`` that a trial may have a value of its own of."""

Value = float | str


class LossGrid(BaseModel):
    """One ``[[losses]]`` table: a name, and values of hyperparameters and of keys of training."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Value | tuple[Value, ...]]

    name: str
    zip: tuple[str, ...] = ()
    """of these the first values go together, then the second, instead of each with each"""
    kl_by: tuple[str, ...] = ()
    """in a search: what moves its KL, in the order to be tried; empty: as the loss itself says"""

    @field_validator("zip", "kl_by", mode="before")
    @classmethod
    def _list_of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _numbers(self) -> LossGrid:
        for key, values in self.values.items():
            for value in values:
                if isinstance(value, str) and key not in Training.model_fields:
                    raise ValueError(f"{key} = {value!r} is not a number")
        return self

    @property
    def values(self) -> dict[str, tuple[Value, ...]]:
        """What is given, each key with its values."""
        return {
            key: value if isinstance(value, tuple) else (value,)
            for key, value in (self.__pydantic_extra__ or {}).items()
        }


class Experiment(Section):
    """A whole experiment file."""

    name: Annotated[str, Field(min_length=1), VARIED, NO_EFFECT]
    """names the results' folder"""
    policy: Annotated[str, DIGESTED, SOURCE, elsewhere("model", "model_name_or_path")]
    """world | hub id | folder | .gguf | smollm2: the model that is trained"""
    reference: Annotated[str | None, DIGESTED, SOURCE, elsewhere("ref_model")] = None
    """like ``policy``; omitted: the policy's starting point"""
    preferences: Annotated[str, DIGESTED, SOURCE, elsewhere("dataset", "dataset_name")]
    """world | hub id | folder | .jsonl .parquet .csv"""
    keep_policies: bool = False
    """also save each trained policy (safetensors) in its trial's folder"""
    trust_remote_code: Annotated[bool, NO_EFFECT] = False
    """allow a hub model to run code of its own"""
    data: Annotated[Data, DIGESTED] = Data()
    """how preference data is read and tokenized"""
    world: Annotated[World, DIGESTED, Only("world")] = World()
    """the embedded world"""
    training: Training = Training()
    """the trainer"""
    evaluation: Evaluation = Evaluation()
    """the evaluator"""
    comparison: Annotated[Comparison, NO_EFFECT] = Comparison()
    """what the report compares"""
    search: Annotated[Search | None, NO_EFFECT, OMITTED] = None
    """a table, even an empty one: strengths are searched for; absent: they are given"""
    losses: Annotated[
        tuple[LossGrid, ...],
        Field(min_length=1),
        VARIED,
        elsewhere("loss", "loss_type", "beta"),
    ]
    """what is swept"""

    @model_validator(mode="before")
    @classmethod
    def _in_one_place(cls, tree: Any) -> Any:
        """What may be said in two places is moved to where it is read."""
        return _compared_as_searched(_own_values_to_losses(tree)) if _is_tree(tree) else tree

    @field_validator("losses", mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        """``losses = ["dpo", "ipo"]``: each with its own grid."""
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return names
        return [{"name": entry} if isinstance(entry, str) else entry for entry in names]

    @model_validator(mode="after")
    def _weights_reach_the_sampler(self) -> Experiment:
        if self.evaluation.sampler != "builtin" and self.training.lora is None:
            raise ValueError(
                "evaluation.sampler: a running server can be given a policy only as an adapter; "
                "set training.lora, or evaluation.sampler = builtin"
            )
        return self

    def has(self, kind: Kind) -> bool:
        """Whether it has what the keys marked ``Only(kind)`` matter with."""
        if kind == "world":
            sources = (self.policy, self.reference, self.preferences)
            return any(source.startswith(WORLD) for source in sources if source is not None)
        scorer, colon, _ = self.evaluation.reward.partition(":")
        named = (JUDGE,) if kind == "judge" else CLASSIFIERS
        return bool(colon) and scorer in named

    def settings(self) -> dict[str, Any]:
        """Plain values of every key, for JSON."""
        return self.model_dump(mode="json")


def _is_tree(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(value.get(name) or {}, Mapping) for name in ("training", "search", "comparison")
    )


def _own_values_to_losses(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """``[training] learning_rate = [1e-4, 1e-3]``: both for every loss that gives none itself."""
    training = dict(tree.get("training") or {})
    lists = {
        key: list(training[key])
        for key in OWN_KEYS
        if isinstance(training.get(key), list | tuple) and training[key]
    }
    if not lists or not isinstance(tree.get("losses"), list | tuple | str):
        return tree
    if tree.get("search") is not None:
        raise ValueError(
            f"training.{next(iter(lists))} has several values: in a search give learning_rates in"
            " [search], or leave [search] out"
        )
    training |= {key: values[0] for key, values in lists.items()}
    given = tree["losses"]
    entries = [given] if isinstance(given, str) else given
    tables = [{"name": one} if isinstance(one, str) else one for one in entries]
    losses = [{**lists, **one} if isinstance(one, Mapping) else one for one in tables]
    return {**tree, "training": training, "losses": losses}


def _compared_as_searched(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is searched for is what is compared: ``[search]`` states it for ``[comparison]``."""
    if not isinstance(tree.get("search"), Mapping) or not isinstance(
        tree.get("comparison") or {}, Mapping
    ):
        return tree  # nothing is searched for, or their own checks say what is wrong
    search, comparison = dict(tree["search"]), dict(tree.get("comparison") or {})
    if not search.get("kl") and not comparison.get("kl"):
        search.setdefault("kl", list(Search.model_fields["kl"].default))
    for key in SAID_TWICE:
        mine, theirs = search.get(key), comparison.get(key)
        if mine and theirs and _plain(mine) != _plain(theirs):
            raise ValueError(f"search.{key} and comparison.{key} differ: give it once")
        if mine or theirs:
            search[key] = comparison[key] = mine or theirs
    return {**tree, "search": search, "comparison": comparison}


def _plain(value: Any) -> Any:
    return [float(one) for one in value] if isinstance(value, list | tuple) else value
