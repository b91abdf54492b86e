"""What DPO, IPO and chi-PO converge to with unlimited data, against their closed forms."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dpo_bench.contract import get_loss
from dpo_bench.reproduce.record import PublishedRow, Reproduced
from dpo_bench.reproduce.tabular import gradient, minimize, pair_logps, total_variation

ACTIONS = 6
TOLERANCE = 1e-12
BETAS = {"dpo": (0.3, 1.0), "ipo_sum": (0.3, 1.0), "chi_po": (0.3, 1.0)}
NAMES = {"dpo": "DPO", "ipo_sum": "IPO", "chi_po": "chi-PO"}
PAPERS = {"dpo": "2305.18290 eq. 4", "ipo_sum": "2310.12036", "chi_po": "2407.13399"}


@dataclass(frozen=True, slots=True)
class ToyWorld:
    """Six actions: a reference, a reward and the share of the data that each pair of them has.

    Attributes:
        reference: probabilities [action].
        reward: [action].
        behavior: probabilities [action] with which both responses of a pair are drawn.
    """

    reference: Tensor
    reward: Tensor
    behavior: Tensor

    @property
    def preference(self) -> Tensor:
        """P(row beats column) under Bradley-Terry, [action, action]."""
        return (self.reward[:, None] - self.reward[None, :]).sigmoid()

    @property
    def advantage(self) -> Tensor:
        """P(action beats the behavior policy), [action]."""
        return self.preference @ self.behavior


def make_world(seed: int = 0) -> ToyWorld:
    """A world without symmetries."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(3, ACTIONS, dtype=torch.float64, generator=generator)
    return ToyWorld(draws[0].softmax(0), draws[1], draws[2].softmax(0))


def population_loss(world: ToyWorld, loss: str, beta: float) -> Callable[[Tensor], Tensor]:
    """The expected loss over pairs and labels, as a function of the policy's logits [action]."""
    pairs = list(itertools.permutations(range(ACTIONS), 2))
    winners, losers = torch.tensor(pairs).T
    share = world.behavior[winners] * world.behavior[losers] * world.preference[winners, losers]
    weights = share / share.sum()
    found, reference = get_loss(loss), world.reference.log()

    def objective(logits: Tensor) -> Tensor:
        logps = pair_logps(logits.log_softmax(-1), reference, pairs)
        return (found(logps, beta=beta) * weights).sum()

    return objective


def tilted(world: ToyWorld, score: Tensor) -> Tensor:
    """The reference times e^score, normalized."""
    return (world.reference.log() + score).softmax(0)


def chi_po_optimum(world: ToyWorld, beta: float) -> Tensor:
    """Reference x W0(exp((r - Z) / beta)), Z such that it sums to one."""
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import lambertw

    reference, reward = world.reference.numpy(), world.reward.numpy()

    def policy(level: float) -> Tensor:
        weight = np.real(lambertw(np.exp((reward - level) / beta).tolist()))
        return torch.from_numpy(reference * weight)

    low, high = float(reward.min()) - 20 * beta, float(reward.max()) + 20 * beta
    level = brentq(lambda z: float(policy(z).sum()) - 1, low, high, xtol=1e-15, rtol=1e-15)
    return policy(float(level))


CLOSED_FORMS: dict[str, Callable[[ToyWorld, float], Tensor]] = {
    "dpo": lambda world, beta: tilted(world, world.reward / beta),
    "ipo_sum": lambda world, beta: tilted(world, world.advantage / beta),
    "chi_po": chi_po_optimum,
}


def run(source: str) -> Reproduced:
    """Optimize, and evaluate the gradient at the closed form."""
    world = make_world()
    rows = []
    for loss, betas in BETAS.items():
        for beta in betas:
            objective = population_loss(world, loss, beta)
            closed = CLOSED_FORMS[loss](world, beta)
            found = minimize(objective, world.reference.log()).softmax(0)
            slope = gradient(objective, closed.log()).abs().max()
            for what, value in (
                ("total variation to the closed form", total_variation(found, closed)),
                ("largest gradient at the closed form", float(slope)),
            ):
                series = f"{NAMES[loss]}, {what}"
                rows.append(PublishedRow(source, series, beta, 0.0, value, TOLERANCE, "formula"))
    rows.sort(key=lambda row: row.series)
    return Reproduced(tuple(rows), TEXT)


TEXT = f"""\
Six actions, a random reference, reward and behavior policy; Bradley-Terry labels, all pairs at
their exact shares. The expected loss, through the registry, is minimized over the policy's logits
in fp64 (L-BFGS from the reference, then Newton). The x is beta. The closed forms:

- DPO ({PAPERS["dpo"]}): reference x e^(r/beta) / Z.
- IPO ({PAPERS["ipo_sum"]}): reference x exp(P(y beats mu) / tau) / Z, mu the behavior policy.
- chi-PO ({PAPERS["chi_po"]}): reference x W0(exp((r - Z)/beta)), W0 Lambert's function.

Each is checked twice: the optimizer ends there, and the gradient vanishes there."""
