"""One of the processes of a distributed run; started by test_distributed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from dpo_bench import get_loss
from dpo_bench.training.distributed import join_from_environment
from tests.training.test_trainer import Setup


def main(folder: Path, out: Path, settings: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    ranks = join_from_environment()
    out.mkdir(exist_ok=True)
    setup = Setup(folder)
    for name in names:
        trainer = setup.trainer(
            out, get_loss(name), settings={**json.loads(settings), "checkpoint_seconds": 0}
        )
        trainer.checkpoint = out / f"{name}-{ranks.rank}.checkpoint"
        initial = setup.snapshot()
        result = trainer.run()
        state = trainer.measurer.state()
        torch.save(
            {
                "initial": initial,
                "weights": setup.snapshot(),
                "metrics": torch.tensor(result.metrics.to_numpy()),
                "state": [float(v) for need in state.values() for v in need.values()],
            },
            out / f"{name}-{ranks.rank}.pt",
        )
    if ranks.size > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:])
