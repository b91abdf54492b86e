"""The memory plan of a sweep's trials: for a dry run to show, and for a sweep to be refused by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dpo_bench.contract import get_loss
from dpo_bench.errors import EnvironmentProblem
from dpo_bench.experiment.identity import plan_trials
from dpo_bench.model.load import skeleton
from dpo_bench.model.lora import with_adapter
from dpo_bench.model.mapped_weights import LEAST_BYTES
from dpo_bench.model.pass_memory import skeleton_backend
from dpo_bench.resources import available_memory
from dpo_bench.training.memory import MemoryPlan, Setting, plan_memory

if TYPE_CHECKING:
    from dpo_bench.experiment import Experiment
    from dpo_bench.experiment.config import Training
    from dpo_bench.sweep.inputs import Inputs
    from dpo_bench.sweep.sources import Sources

GIB = 1 << 30


def memory_plan(
    experiment: Experiment,
    sources: Sources,
    inputs: Inputs,
    memory: int | None = None,
) -> MemoryPlan:
    """The plan of an experiment's trials; of those with other optimizers, that of the largest.

    Args:
        experiment: every ``auto`` settled.
        sources: of model and data.
        inputs: the data.
        memory: of the device, bytes; None: of this machine's.
    """
    options = experiment.evaluation
    most = max(options.samples_per_prompt, options.reference_samples)
    ranks = experiment.training.gpus_per_trial
    setting = Setting(
        device=sources.device,
        precision=sources.precision,
        memory=memory or device_memory(sources.device, ranks),
        longest=int(inputs.pairs.sizes.max()),
        rows=min(options.rows_per_batch, options.prompts * most),
        sampled=inputs.longest_prompt + inputs.new_tokens,
        ranks=ranks,
    )
    policy, reference = _models(experiment, sources)
    plans = [
        plan_memory(
            policy,
            reference,
            training,
            inputs.pairs,
            setting,
            copies_start=training.lora is None and _differ(sources),
            moves_reference=_moves_reference(experiment, training),
        )
        for training in _distinct(experiment)
    ]
    return max(plans, key=lambda plan: plan.resident)


def device_memory(device: str, ranks: int = 1) -> int:
    """Bytes of this process's GPU, or its share of this machine's memory."""
    if device == "cpu":
        return available_memory() // ranks
    import torch

    return int(torch.cuda.mem_get_info()[1])


def shared_bytes(plan: MemoryPlan, training: Training) -> int:
    """Bytes that all workers of a machine have together; see `dpo_bench.model.mapped_weights`."""
    setting = plan.setting
    if setting.device != "cpu" or setting.narrow or setting.ranks > 1:
        return 0
    frozen = plan.reference
    if training.reference_sync_steps:  # the copy that follows is each worker's own
        frozen //= 2
    if training.lora is not None:
        frozen += plan.weights - plan.gradients
    return frozen if frozen >= LEAST_BYTES else 0


def require_fitting(plan: MemoryPlan, training: Training) -> None:
    """Refuse trials that do not fit.

    Raises:
        EnvironmentProblem: they do not; the message says what would.
    """
    if plan.fits:
        return
    setting = plan.setting
    need = max(plan.total, plan.resident)
    advice = list(_advice(plan, training))
    raise EnvironmentProblem(
        f"a trial takes {_gib(need)} with a pass of one pair of {setting.longest:,} tokens, and "
        f"{_gib(setting.usable)} of {_gib(setting.memory)} "
        f"({_place(setting)}) can be planned for. What would fit, or come closer: "
        f"{'; '.join(advice)}. sweep --dry-run shows the plan."
    )


def describe_plan(plan: MemoryPlan) -> Iterator[str]:
    """A plan in lines for a dry run."""
    setting = plan.setting
    parts = {
        "weights": plan.weights,
        "reference": plan.reference,
        "gradients": plan.gradients,
        "optimizer": plan.optimizer,
        "gathered": plan.gathered,
        "activations": plan.activations,
        "logits": plan.logits,
    }
    shown = ", ".join(f"{name} {_size(size)}" for name, size in parts.items() if size)
    divided = f", on each of {setting.ranks} devices" if setting.ranks > 1 else ""
    yield f"Memory of a trial{divided}, planned: {shown}."
    tokens = "not known before it is made" if plan.passing is None else f"{plan.tokens:,} tokens"
    ways = ["the layers' activations are computed again"] if plan.checkpointing else []
    ways += ["the reference waits in the host's memory"] if plan.is_on_host else []
    yield f"A pass of training: {tokens}{''.join(f'; {way}' for way in ways)}."
    if plan.cached is not None:
        yield (
            f"Sampling: {plan.rows} responses at once, whose keys and values take "
            f"{_size(plan.cache)}."
        )
    yield (
        f"In all {_size(plan.total)}: {_size(plan.training)} training, {_size(plan.sampling)} "
        f"sampling, of {_gib(setting.memory)} ({_place(setting)})."
    )


def _advice(plan: MemoryPlan, training: Training) -> Iterator[str]:
    trains = plan.tokens >= plan.setting.longest
    if training.lora is None:
        yield "LoRA (--set training.lora.rank=16), which trains few weights"
    if not plan.checkpointing and plan.passing is not None and not trains:
        yield "--set training.checkpointing=full"
    if plan.passing is not None and plan.resident < plan.setting.usable and not trains:
        fitting = plan.passing.tokens(plan.setting.usable - plan.resident)
        yield f"pairs of at most {fitting:,} tokens (data.max_prompt_tokens, max_response_tokens)"
    if plan.setting.device == "cuda":
        yield "training.gpus_per_trial, which divides weights among GPUs"
    yield "a smaller model, or more memory"


def _models(experiment: Experiment, sources: Sources) -> tuple[Any, Any]:
    """The policy's backend without weights, its adapter in place, and the reference beside it."""
    trust, lora = experiment.trust_remote_code, experiment.training.lora
    policy = skeleton_backend(skeleton(sources.policy, trust_remote_code=trust), sources.precision)
    if lora is not None:
        policy = with_adapter(policy, lora, sources.policy.address)
        if not _differ(sources):
            return policy, None
    return policy, skeleton(sources.reference, trust_remote_code=trust)


def _differ(sources: Sources) -> bool:
    return sources.policy.digest != sources.reference.digest


def _moves_reference(experiment: Experiment, training: Training) -> bool:
    """Whether steps do not ask the frozen reference itself: what they need of it is cached."""
    needs = {need for grid in experiment.losses for need in get_loss(grid.name).needs}
    alone = training.gpus_per_trial == 1  # a divided one takes little
    return alone and not training.reference_sync_steps and "sequential_kl" not in needs


def _distinct(experiment: Experiment) -> Sequence[Training]:
    """Settings of training of which memory depends differently."""
    settings = [experiment.training]
    if experiment.search is None:
        settings = [trial.settings(experiment.training) for trial in plan_trials(experiment)]
    kinds = {(one.optimizer, bool(one.reference_sync_steps)): one for one in settings}
    return list(kinds.values())


def _place(setting: Setting) -> str:
    return "this machine" if setting.device == "cpu" else "the GPU"


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"


def _size(size: float) -> str:
    return _gib(size) if size >= GIB / 2 else f"{size / 2**20:,.1f} MiB"


def on_gpu_of(sources: Sources, precision: str) -> Sources:
    """The sources as if this machine had a GPU.

    Args:
        sources: of model and data.
        precision: the experiment's ``training.precision``.
    """
    found = "bf16" if precision == "auto" else precision
    content = replace(sources.content, device=f"cuda/{found}")
    return replace(sources, device="cuda", precision=found, content=content)
