"""How many workers a set of machines carries, and how many threads each worker takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.resources import available_cpus, available_memory

if TYPE_CHECKING:
    from dpo_bench.sweep.sources import Sources

SMALL = 50_000_000
"""Bytes of weights below which a second thread costs more, in waiting for it, than it brings."""
THREADS_OF_LARGE = 2
"""Threads that a worker of a larger model takes at least: on SmolLM2-135M one process of two took
0.85 of the time a trial of two processes of one, 0.58 with loading, and 0.50 of their memory."""
BYTES_PER_WEIGHT_BYTE = 6
"""Memory of a worker per byte of weights: policy, reference, start, gradient, two moments."""
LORA_BYTES_PER_WEIGHT_BYTE = 4
"""The same where only an adapter is trained: the model once, and what a step takes besides; on
SmolLM2-135M it was 3.8 (docs/lora.md)."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What workers may take of one machine.

    Attributes:
        cpus: cores.
        gpus: GPUs.
        memory: bytes.
    """

    cpus: int
    gpus: int
    memory: int


def this_machine(gpus: int = 0) -> Machine:
    """This one, with half of its memory.

    Args:
        gpus: how many it has.
    """
    return Machine(available_cpus(), gpus, available_memory() // 2)


def count_gpus() -> int:
    """GPUs that this process sees; none is initialized by looking."""
    import torch

    return torch.cuda.device_count()


def choose_workers(
    machines: Sequence[Machine],
    sources: Sources,
    trials: int,
    need: int | None = None,
    processes: int = 1,
    *,
    shared: int = 0,
) -> int:
    """One worker per GPU; on CPUs one per core, or per two of a larger model, if memory allows.

    On a CPU two workers of one thread each do more than one of two threads where the model is
    small; a larger one's products use both, and every worker holds it and loads it.

    Args:
        machines: where they run.
        sources: say where the models are and on what device.
        trials: how many there are to do.
        need: bytes of memory of a worker.
        processes: of each worker, all of one machine where one holds them; see
            ``training.gpus_per_trial``.
        shared: bytes of that which all workers of a machine have together, on a CPU.

    Raises:
        EnvironmentProblem: there are not so many GPUs.
    """
    need = need or bytes_per_worker(sources, lora=False)
    on_gpus = sources.device == "cuda"
    own = max(1, need - shared)
    threads = 1 if is_small(sources) else THREADS_OF_LARGE

    def room(machine: Machine) -> int:
        if on_gpus:
            return machine.gpus
        cores = max(1, machine.cpus // threads)
        return max(0, min(cores, (machine.memory - shared) // own))

    places = [room(machine) for machine in machines]
    # Where no machine holds a worker, each takes several machines (an executor of one has one).
    workers = sum(place // processes for place in places) or sum(places) // processes
    if on_gpus and not workers:
        raise EnvironmentProblem(
            f"training.gpus_per_trial = {processes}, and of GPUs there are {sum(places)} here: "
            "lower it."
        )
    return max(1, min(workers, trials))


def bytes_per_worker(sources: Sources, *, lora: bool) -> int:
    """Memory of a worker besides the activations of its passes, bytes.

    For small models, and for clusters; else the plan knows better (`dpo_bench.sweep.memory`).
    """
    factor = LORA_BYTES_PER_WEIGHT_BYTE if lora else BYTES_PER_WEIGHT_BYTE
    return max(1, _weight_bytes(sources) * factor)


def is_small(sources: Sources) -> bool:
    """Whether a model is so small that neither memory nor a second thread matters."""
    return _weight_bytes(sources) < SMALL


def choose_threads(machines: Sequence[Machine], sources: Sources, workers: int) -> int:
    """Torch threads of each process: an equal share of the cores, no more than a machine has."""
    if is_small(sources):
        return 1
    on_gpus = sources.device == "cuda"
    cores = [machine.cpus for machine in machines if (machine.gpus if on_gpus else machine.cpus)]
    return max(1, min(sum(cores) // workers, min(cores, default=1)))


def _weight_bytes(sources: Sources) -> int:
    return sum(file.stat().st_size for file in sources.policy.path.glob("*.safetensors"))
