"""Who is timed: this project, and TRL's DPOTrainer as it comes and at its best settings.

Each runs in processes of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import importlib
import itertools
import os
import resource
import tempfile
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast

import numpy as np

from benchmarks.versus_trl.workloads import Prepared
from dpo_bench.contract import get_loss
from dpo_bench.data.batches import step_order
from dpo_bench.data.tokenized import TokenizedPairs

PRELOAD = (
    "datasets",
    "dpo_bench.model.reference_cache",
    "dpo_bench.training.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)
PRELOAD_PEER = ("trl.trainer.dpo_config", "trl.trainer.dpo_trainer")
"""Imported before the clock starts."""
PEER_LOSSES = {"dpo": "sigmoid", "hinge": "hinge", "nca": "nca_pair"}


@dataclass(frozen=True, slots=True)
class Run:
    """One trained trial.

    Attributes:
        seconds: wall time, loading of the model included.
        final_loss: mean loss of the pairs of the last quarter of the steps.
        losses: mean loss of each step's pairs; of TRL, of every few steps' pairs.
        gradient_norms: before clipping; of TRL, every few steps.
    """

    seconds: float
    final_loss: float
    losses: list[float]
    gradient_norms: list[float]


def quarter(steps: int) -> int:
    """A quarter of the steps, over which the loss is averaged at the end."""
    return max(1, steps // 4)


class Contender(Protocol):
    """Trains the trials of a sweep."""

    def trial(self, loss: str, beta: float) -> Run:
        """Train one trial from the initial weights."""


class Ours:
    """This project: what a sweep's worker does, without evaluation."""

    def __init__(self, prepared: Prepared) -> None:
        from dpo_bench.model.load import load_model
        from dpo_bench.model.logprobs import choose_backend
        from dpo_bench.training.reference_model import CachedReference

        self.prepared = prepared
        self.pairs = prepared.load_pairs()
        model = load_model(prepared.model)
        self.initial = {name: value.clone() for name, value in model.state_dict().items()}
        self.backend = choose_backend(model, longest=self.pairs.longest)
        self.reference = CachedReference(self.backend, self.pairs, "benchmark", "cpu/fp32")

    def trial(self, loss: str, beta: float) -> Run:
        """Train one trial from the initial weights."""
        from dpo_bench.training.trainer import Trainer

        started = time.perf_counter()
        self.backend.model.load_state_dict(self.initial)
        function = get_loss(loss)
        trainer = Trainer(
            self.backend,
            lambda logps: function(logps, beta=beta),
            pairs=self.pairs,
            reference=self.reference,
            settings=self.prepared.workload.settings,
            seed=0,
            checkpoint=Path(tempfile.gettempdir()) / "no-checkpoint-of-a-benchmark",
        )
        metrics = trainer.run().metrics
        seconds = time.perf_counter() - started
        losses = metrics["loss"].tolist()
        last = losses[-quarter(len(losses)) :]
        return Run(seconds, sum(last) / len(last), losses, metrics["gradient_norm"].tolist())


class Peer:
    """TRL's DPOTrainer, spared its tokenizing: it is handed the token ids."""

    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, prepared: Prepared) -> None:
        from datasets import Dataset
        from transformers import AutoTokenizer

        os.environ["TQDM_DISABLE"] = "1"
        warnings.simplefilter("ignore")
        self.prepared = prepared
        self.tokenizer = AutoTokenizer.from_pretrained(prepared.model)
        # Its sampler is switched off: both see the pairs in the order of this project's seed 0.
        pairs, workload = prepared.load_pairs(), prepared.workload
        order = step_order(len(pairs), workload.pairs_per_step, workload.steps, seed=0)
        self.dataset = Dataset.from_dict(columns(pairs.take([*itertools.chain(*order)])))
        self.out = tempfile.mkdtemp(prefix="trl-")

    def trial(self, loss: str, beta: float, log_every: int | None = None) -> Run:
        """Train one trial from the initial weights.

        Args:
            loss: this project's name of the loss.
            beta: its strength.
            log_every: steps whose losses are averaged into one; a quarter of all, if None.
        """
        from transformers import AutoModelForCausalLM

        started = time.perf_counter()
        workload = self.prepared.workload
        model: Any = AutoModelForCausalLM.from_pretrained(self.prepared.model, dtype="float32")
        trainer: Any = self._trainer(model, loss, beta, log_every or quarter(workload.steps))
        trainer.train()
        seconds = time.perf_counter() - started
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        losses = [float(entry["loss"]) for entry in logs]
        return Run(seconds, losses[-1], losses, [float(entry["grad_norm"]) for entry in logs])

    def _trainer(self, model: Any, loss: str, beta: float, log_every: int) -> Any:
        from torch.utils.data import SequentialSampler
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        class Unshuffled(DPOTrainer):
            """Sees the pairs as tokenized and in the order in which they are given."""

            def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
                return dataset

            def _get_train_sampler(self, *_: Any) -> Any:
                return SequentialSampler(cast("Any", self.train_dataset))

        settings = self.prepared.workload.settings
        arguments: dict[str, Any] = {
            "output_dir": self.out,
            "loss_type": [PEER_LOSSES[loss]],
            "beta": beta,
            "learning_rate": settings.learning_rate,
            "lr_scheduler_type": "constant",
            "max_grad_norm": settings.max_gradient_norm,
            "weight_decay": settings.weight_decay,
            "per_device_train_batch_size": settings.pairs_per_step,
            "max_steps": settings.steps,
            "logging_steps": log_every,
            "bf16": False,
            "use_cpu": True,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            **self.options,
        }
        return Unshuffled(
            model,
            args=DPOConfig(**arguments),
            train_dataset=self.dataset,
            processing_class=self.tokenizer,
        )


class PeerAtItsBest(Peer):
    """TRL with every setting that makes it faster on this machine."""

    options: ClassVar[dict[str, Any]] = {
        "precompute_ref_log_probs": True,
        "max_length": None,
        "gradient_checkpointing": False,
    }


CONTENDERS: dict[str, type[Any]] = {
    "dpo_bench": Ours,
    "dpo_bench, one process": Ours,
    "TRL as it comes": Peer,
    "TRL at its best": PeerAtItsBest,
}


def columns(pairs: TokenizedPairs) -> dict[str, list[list[int]]]:
    sides = {"prompt_ids": pairs.prompt, "chosen_ids": pairs.chosen, "rejected_ids": pairs.rejected}
    return {
        name: [np.asarray(side[index]).tolist() for index in range(len(side))]
        for name, side in sides.items()
    }


@dataclass(frozen=True, slots=True)
class Start:
    """What a process reports when it is ready.

    Attributes:
        seconds: preparation, the reference's log-probs included; imports are not.
        memory: resident when the libraries were imported, bytes.
    """

    seconds: float
    memory: int


def serve(pipe: Connection, name: str, prepared: Prepared, threads: int, cache: Path) -> None:
    """Entry point of a contender's process: trials on request, then its peak memory in bytes."""
    os.environ["DPO_BENCH_CACHE"] = str(cache)
    import torch

    for module in PRELOAD if CONTENDERS[name] is Ours else (*PRELOAD, *PRELOAD_PEER):
        importlib.import_module(module)
    torch.set_num_threads(threads)
    memory = peak_memory()
    started = time.perf_counter()
    contender: Contender = CONTENDERS[name](prepared)
    pipe.send(Start(time.perf_counter() - started, memory))
    while (task := pipe.recv()) is not None:
        pipe.send(contender.trial(*task))
    pipe.send(peak_memory())


def peak_memory() -> int:
    """Most bytes that were resident in this process.

    On Linux from /proc: the peak that getrusage tells begins with that of the parent process.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
