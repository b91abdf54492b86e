"""What the program says of a model, held against plain code.

The plain code is a few lines of transformers and torch: one text per forward pass, no padding, no
packing, no cache, no code of this project but the random numbers of the sampler.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from dpo_bench.contract import get_loss
from dpo_bench.data.batches import step_order
from dpo_bench.errors import DpoBenchError
from dpo_bench.evaluation.reference_evaluation import sampling_plan
from dpo_bench.experiment.read import validate
from dpo_bench.model.logprobs import token_logps
from dpo_bench.model.sampling import uniforms
from dpo_bench.notes import Note, heard
from dpo_bench.progress import Control
from dpo_bench.sweep.context import WorkerContext
from dpo_bench.sweep.sources import find_sources
from dpo_bench.training.trainer import StoppedError, Trainer
from dpo_bench.training.weights import trained_weights

STEPS, PAIRS, BETA, RATE = 3, 4, 0.1, 1e-4
TEXT_TOLERANCE = 1e-4
"""Nats by which the log-prob of a text may differ: rounding in fp32."""
TOKEN_TOLERANCE = 1e-5
"""Nats by which a token's may depend on what else is in its batch."""
LOSS_TOLERANCE = 2e-4
TEXT_OF = {"Llama4ForConditionalGeneration": "Llama4ForCausalLM"}
"""Of a class whose whole model reads no text alone in this transformers, the class of its text."""


@dataclass
class Outcome:
    """What came out for one model.

    Attributes:
        name: of the model.
        log_probs: how they are computed; empty where the model was refused.
        sampling: how responses are sampled.
        text: largest difference of a reference log-prob from plain code, nats a text.
        mates: largest difference of a pair alone from the pair among others, nats a token.
        first: the first loss minus ln 2.
        steps: largest difference of the further losses from a plain training loop.
        samples: how many of the sampled responses are the policy's own, of all.
        kl: largest difference of a response's KL from plain code, nats.
        resumed: whether an interrupted run ends with the same bits.
        ends: whether every trained and every sampled response ends with one end token at most.
        refused: the error, where the model was refused.
        crashed: a traceback's last line, where something broke.
        notes: what the user was told.
    """

    name: str
    log_probs: str = ""
    sampling: str = ""
    text: float = math.nan
    mates: float = math.nan
    first: float = math.nan
    steps: float = math.nan
    samples: str = ""
    kl: float = math.nan
    resumed: bool | None = None
    ends: bool | None = None
    refused: str = ""
    crashed: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """``right``, ``refused``, ``wrong`` or ``crashed``."""
        if self.crashed:
            return "crashed"
        if self.refused:
            return "refused"
        right, total = map(int, self.samples.split("/"))
        holds = (
            self.text <= TEXT_TOLERANCE,
            self.mates <= TOKEN_TOLERANCE,
            abs(self.first) <= 1e-6,
            self.steps <= LOSS_TOLERANCE,
            right == total,
            self.kl <= TEXT_TOLERANCE,
            self.resumed,
            self.ends,
        )
        return "right" if all(holds) else "wrong"

    def as_dict(self) -> dict[str, Any]:
        """For a table."""
        return {"verdict": self.verdict, **asdict(self)}


def check(
    name: str, model: Path, pairs: Path, work: Path, *, lora: bool = False, new_tokens: int = 8
) -> Outcome:
    """Send one model through the program and hold what comes out against plain code.

    Args:
        name: what to call it.
        model: a folder in transformers' format.
        pairs: a file of preference pairs.
        work: folder for checkpoints.
        lora: train an adapter instead of all weights.
        new_tokens: limit of a sampled response.
    """
    outcome = Outcome(name)
    training: dict[str, Any] = {
        "steps": STEPS,
        "pairs_per_step": PAIRS,
        "learning_rate": RATE,
        "schedule": "constant",
        "warmup_fraction": 0,
        "checkpoint_seconds": 1e9,
        **({"lora": {"rank": 4}} if lora else {}),
    }
    experiment = validate(
        {
            "name": "check",
            "policy": str(model),
            "preferences": str(pairs),
            "training": training,
            "evaluation": {
                "prompts": 4,
                "samples_per_prompt": 2,
                "reference_samples": 4,
                "max_new_tokens": new_tokens,
                "resamples": 100,
            },
            "data": {"heldout_fraction": 0.34},
            "losses": [{"name": "dpo", "beta": BETA}],
        },
        name,
    )

    def say(note: Note) -> None:
        outcome.notes.append(note.text)

    try:
        with heard(say):
            bench = WorkerContext(experiment, find_sources(experiment))
            _measure(outcome, bench, model, work)
    except DpoBenchError as error:
        outcome.refused = " ".join(str(error).split()).replace(str(model), model.name)
    except Exception as error:
        outcome.crashed = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    outcome.notes = [text for text in outcome.notes if type_of_path(text)]
    return outcome


def type_of_path(note: str) -> bool:
    """Whether a note tells how something is computed."""
    return any(word in note for word in ("packed", "sampled", "logits", "max_position"))


def _measure(outcome: Outcome, bench: WorkerContext, model: Path, work: Path) -> None:
    plain = plain_model(model)
    outcome.log_probs, outcome.sampling = bench.policy.name, bench.policy.sampler
    pairs = bench.inputs.pairs
    texts = [tuple(side.tolist() for side in pairs.pair(row)) for row in range(len(pairs))]
    outcome.text = _texts(bench, plain, texts)
    outcome.mates = _mates(bench)
    bench.reset_policy(0)
    result = _train(bench, work / "whole.pt")
    outcome.first = result.initial_loss - math.log(2)
    final = {name: value.clone() for name, value in trained_weights(bench.policy.model).items()}
    if bench.experiment.training.lora is None:
        outcome.steps = _steps(model, texts, [float(loss) for loss in result.metrics["loss"]])
    else:
        outcome.steps = 0.0  # an adapter is peft's code, held against peft in the tests
    evaluation = bench.evaluator.evaluate(bench.policy)
    _samples(outcome, bench, plain, evaluation.samples)
    bench.reset_policy(0)
    _interrupted(bench, work / "parts.pt")
    again = trained_weights(bench.policy.model)
    outcome.resumed = all(torch.equal(final[name], value) for name, value in again.items())
    outcome.ends = _ends(bench, texts, evaluation.samples["response_ids"])


def plain_model(folder: Path) -> Any:
    """A model as transformers loads it, in fp32."""
    import transformers

    from dpo_bench.model.loading import silent_transformers

    # The very class that the folder was saved from, whatever the program makes of it.
    saved = json.loads((folder / "config.json").read_text("utf-8"))["architectures"][0]
    build: Any = getattr(transformers, TEXT_OF.get(saved, saved))
    with silent_transformers():
        return build.from_pretrained(folder, dtype=torch.float32).eval()


def plain_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits at every position of one text, fp64, shape [token, vocabulary]."""
    logits: torch.Tensor = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return logits.double()


def plain_logp(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """Summed log-prob of a response, nats."""
    logp = plain_logits(model, prompt + response)[len(prompt) - 1 : -1].log_softmax(-1)
    return logp.gather(-1, torch.tensor(response)[:, None]).sum()


def _texts(bench: WorkerContext, plain: Any, texts: list[Any]) -> float:
    reference = bench.training_reference
    if reference is None:
        raise ValueError("the experiment has no reference")
    sums = reference.all_sums
    with torch.no_grad():
        differences = [
            abs(float(plain_logp(plain, prompt, response)) - float(ours[row]))
            for row, (prompt, *responses) in enumerate(texts)
            for response, ours in zip(responses, (sums.chosen, sums.rejected), strict=True)
        ]
    return max(differences)


def _mates(bench: WorkerContext) -> float:
    """Each pair by itself against all of them together."""
    path, pairs = bench.reference, bench.inputs.pairs
    indices = list(range(len(pairs)))
    with torch.no_grad():
        together = path.batch(pairs, indices)
        rows = token_logps(path, together).split(together.lengths.tolist())
        worst = 0.0
        for row in indices:
            alone = token_logps(path, path.batch(pairs, [row]))
            both = torch.cat([rows[row], rows[len(pairs) + row]])
            worst = max(worst, float((alone - both).abs().max()))
    return worst


def _train(bench: WorkerContext, checkpoint: Path, control: Control | None = None) -> Any:
    return Trainer(
        backend=bench.policy,
        loss=get_loss("dpo").at({"beta": BETA}),
        pairs=bench.inputs.pairs,
        reference=bench.training_reference,
        settings=bench.experiment.training,
        seed=0,
        checkpoint=checkpoint,
        control=control,
    ).run()


def _interrupted(bench: WorkerContext, checkpoint: Path) -> None:
    """The same run, stopped after its first step and gone on with from its checkpoint."""
    try:
        _train(bench, checkpoint, Control(should_stop=lambda: True))
    except StoppedError:
        bench.reset_policy(1)  # what the policy is meanwhile must not matter
    _train(bench, checkpoint)


def _steps(folder: Path, texts: list[Any], losses: list[float]) -> float:
    """The losses of a plain loop over the same pairs in the same order."""
    policy, reference = plain_model(folder), plain_model(folder)
    for module in policy.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW(policy.parameters(), lr=RATE, weight_decay=0.0)
    worst = 0.0
    for step, indices in enumerate(step_order(len(texts), PAIRS, STEPS, 0)):
        optimizer.zero_grad()
        total = 0.0
        for row in indices:
            prompt, *responses = texts[row]
            chosen, rejected = (
                plain_logp(policy, prompt, one) - plain_logp(reference, prompt, one).detach()
                for one in responses
            )
            loss = -logsigmoid(BETA * (chosen - rejected)) / len(indices)
            loss.backward()
            total += loss.detach().item()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimizer.step()
        worst = max(worst, abs(total - losses[step]))
    return worst


def _samples(outcome: Outcome, bench: WorkerContext, reference: Any, samples: Any) -> None:
    """The same responses by the plainest sampler there is, and their KL."""
    options, prompts = bench.experiment.evaluation, bench.inputs.prompts
    ends = bench.inputs.end_tokens
    plan = sampling_plan(options, ends, "policy", options.samples_per_prompt, 1.0)
    numbers = uniforms(plan, len(prompts))
    policy = bench.policy.model
    right, worst = 0, 0.0
    with torch.no_grad():
        for row in samples.to_dict("records"):
            prompt, found = (
                list(prompts.tokens[row["prompt_id"]]),
                list(map(int, row["response_ids"])),
            )
            drawn: list[int] = []
            for number in numbers[row["prompt_id"], row["sample"]]:
                logits = plain_logits(policy, prompt + drawn)[-1]
                drawn.append(_pick(logits, float(number)))
                if drawn[-1] in ends:
                    break
            right += drawn == found
            ours, theirs = (
                plain_logits(one, prompt + found)[len(prompt) - 1 : -1].log_softmax(-1)
                for one in (policy, reference)
            )
            kl = float((ours.exp() * (ours - theirs)).nan_to_num(0.0).sum())
            worst = max(worst, abs(kl - row["kl"]))
    outcome.samples, outcome.kl = f"{right}/{len(samples)}", worst


def _pick(logits: torch.Tensor, number: float) -> int:
    """The token at which the cumulative probability passes a number."""
    cumulative = np.cumsum(logits.softmax(-1).numpy())
    return int(np.searchsorted(cumulative, number * cumulative[-1], side="right"))


def _ends(bench: WorkerContext, texts: list[Any], sampled: Any) -> bool:
    """One end token, the last, in what is trained; none but the last in what is sampled."""
    ends = bench.inputs.end_tokens
    trained = [response for _, *responses in texts for response in responses]
    return all(one[-1] in ends and not ends & set(one[:-1]) for one in trained) and not any(
        ends & set(one[:-1]) for one in sampled
    )
