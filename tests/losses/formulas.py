"""Every loss once more, written for mpmath straight from its paper, to hold the code against.

Each formula takes one pair and the hyperparameters by name. Nothing here is shared with `losses`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import mpmath as mp

from dpo_bench import PairLogps

Number = Any  # mpmath has no types
Formula = Callable[..., Number]


@dataclass(frozen=True)
class Pair:
    """One pair in losses.md's letters: policy p, reference r, tokens n; winner w, loser l.

    Beyond that: m the data's margin; sp and sr the sums over the shared part; c the confidence;
    k the sequential KL; z the mismatched log-ratio; mean the running mean log-ratio.
    """

    p_w: Number
    p_l: Number
    r_w: Number
    r_l: Number
    n_w: Number
    n_l: Number
    m: Number
    sp_w: Number
    sp_l: Number
    sr_w: Number
    sr_l: Number
    c_w: Number
    c_l: Number
    k_w: Number
    k_l: Number
    z: Number
    mean: Number

    @property
    def a(self) -> Number:
        return self.p_w - self.r_w

    @property
    def b(self) -> Number:
        return self.p_l - self.r_l

    @property
    def margin(self) -> Number:
        return self.a - self.b


def pairs_of(logps: PairLogps) -> list[Pair]:
    """The pairs of a full record, their floating-point numbers taken as exact."""
    columns = [getattr(logps, field.name).tolist() for field in fields(logps)]
    return [Pair(*map(mp.mpf, row)) for row in zip(*columns, strict=True)]


def sigmoid(x: Number) -> Number:
    return 1 / (1 + mp.exp(-x))


def log_sigmoid(x: Number) -> Number:
    return -mp.log1p(mp.exp(-x)) if x > 0 else x - mp.log1p(mp.exp(x))


CERTAIN, LEAST = -mp.mpf("1e-6"), mp.exp(-20)
"""Bounds that `orpo` and `odpo` document."""


def dpo(pair: Pair, beta: Number) -> Number:
    return -log_sigmoid(beta * pair.margin)


def cdpo(pair: Pair, beta: Number, label_smoothing: Number) -> Number:
    z = beta * pair.margin
    return -(1 - label_smoothing) * log_sigmoid(z) - label_smoothing * log_sigmoid(-z)


def hinge(pair: Pair, beta: Number) -> Number:
    return max(mp.mpf(0), 1 - beta * pair.margin)


def ipo(pair: Pair, beta: Number) -> Number:
    return (pair.a / pair.n_w - pair.b / pair.n_l - 1 / (2 * beta)) ** 2


def ipo_sum(pair: Pair, beta: Number) -> Number:
    return (pair.margin - 1 / (2 * beta)) ** 2


def robust_dpo(pair: Pair, beta: Number, label_smoothing: Number) -> Number:
    e, z = label_smoothing, beta * pair.margin
    return (-(1 - e) * log_sigmoid(z) + e * log_sigmoid(-z)) / (1 - 2 * e)


def dpo_norm(pair: Pair, beta: Number) -> Number:
    return -log_sigmoid(beta * (pair.a / pair.n_w - pair.b / pair.n_l))


def exo(pair: Pair, beta: Number, label_smoothing: Number, label_normalization: Number) -> Number:
    z = beta * pair.margin
    policy = (sigmoid(z), sigmoid(-z))
    label = ((1 - label_smoothing) ** label_normalization, label_smoothing)
    return sum(f * (mp.log(f) - mp.log(r)) for f, r in zip(policy, label, strict=True))


def nca(pair: Pair, beta: Number) -> Number:
    a, b = beta * pair.a, beta * pair.b
    return -log_sigmoid(a) - log_sigmoid(-a) / 2 - log_sigmoid(-b) / 2


def sppo(pair: Pair, beta: Number) -> Number:
    return (pair.a - 1 / (2 * beta)) ** 2 + (pair.b + 1 / (2 * beta)) ** 2


def apo_zero(pair: Pair, beta: Number) -> Number:
    return 1 - sigmoid(beta * pair.a) + sigmoid(beta * pair.b)


def apo_down(pair: Pair, beta: Number) -> Number:
    return sigmoid(beta * pair.a) + 1 - sigmoid(beta * pair.margin)


def discopop(pair: Pair, beta: Number, tau: Number) -> Number:
    z = beta * pair.margin
    m = sigmoid(z / tau)
    return -(1 - m) * log_sigmoid(z) + m * mp.exp(-z)


def dpop(pair: Pair, beta: Number, lam: Number) -> Number:
    return -log_sigmoid(beta * (pair.margin - lam * max(mp.mpf(0), pair.r_w - pair.p_w)))


def cal_dpo(pair: Pair, beta: Number, calibration_weight: Number) -> Number:
    return -log_sigmoid(pair.margin) + calibration_weight * sppo(pair, beta)


def length_dpo(pair: Pair, beta: Number, alpha: Number) -> Number:
    return -log_sigmoid(beta * pair.margin + alpha * (pair.n_w - pair.n_l))


def chi_po(pair: Pair, beta: Number, clip: Number) -> Number:
    rewards = [beta * (mp.exp(u) + u) for u in (pair.a, pair.b)]
    return -log_sigmoid(max(-clip, min(clip, rewards[0] - rewards[1])))


def gpo_exp(pair: Pair, beta: Number) -> Number:
    return exp_or_tangent(-beta * pair.margin)


def gpo_squared(pair: Pair, beta: Number) -> Number:
    return (beta * pair.margin - 1) ** 2


def gpo_truncated_quadratic(pair: Pair, beta: Number) -> Number:
    return max(mp.mpf(0), 1 - beta * pair.margin) ** 2


def gpo_savage(pair: Pair, beta: Number) -> Number:
    return 1 / (1 + mp.exp(beta * pair.margin)) ** 2


def exp_or_tangent(x: Number) -> Number:
    """e^x, continued from x = 20 by its tangent, as the losses that need it document."""
    return mp.exp(x) if x <= 20 else mp.exp(20) * (1 + x - 20)


def simpo(pair: Pair, beta: Number, gamma_beta_ratio: Number) -> Number:
    margin = pair.p_w / pair.n_w - pair.p_l / pair.n_l
    return -log_sigmoid(beta * margin - gamma_beta_ratio * beta)


def alpha_po(pair: Pair, beta: Number, alpha: Number, gamma_beta_ratio: Number) -> Number:
    rewards = [
        beta * (1 - exp_or_tangent(-alpha * p / n)) / alpha
        for p, n in ((pair.p_w, pair.n_w), (pair.p_l, pair.n_l))
    ]
    return -log_sigmoid(rewards[0] - rewards[1] - gamma_beta_ratio * beta)


def cpo(pair: Pair, beta: Number, alpha: Number) -> Number:
    return -log_sigmoid(beta * (pair.p_w - pair.p_l)) - alpha * pair.p_w / pair.n_w


def orpo(pair: Pair, lam: Number) -> Number:
    def log_odds(p: Number) -> Number:
        probability = mp.exp(min(p, CERTAIN))
        return mp.log(probability / (1 - probability))

    chosen, rejected = pair.p_w / pair.n_w, pair.p_l / pair.n_l
    return -chosen - lam * log_sigmoid(log_odds(chosen) - log_odds(rejected))


def slic(pair: Pair, delta: Number, lam: Number) -> Number:
    return max(mp.mpf(0), delta - (pair.p_w - pair.p_l)) - lam * pair.p_w / pair.n_w


def rrhf(pair: Pair, lam: Number) -> Number:
    chosen, rejected = pair.p_w / pair.n_w, pair.p_l / pair.n_l
    return max(mp.mpf(0), rejected - chosen) - lam * chosen


def sft(pair: Pair) -> Number:
    return -pair.p_w / pair.n_w


def unlikelihood(pair: Pair, alpha: Number) -> Number:
    return -pair.p_w + alpha * pair.p_l


def simper(pair: Pair) -> Number:
    return mp.exp(pair.p_l / pair.n_l) - mp.exp(pair.p_w / pair.n_w)


def dpo_shift(pair: Pair, beta: Number, lam: Number) -> Number:
    return -log_sigmoid(beta * (pair.a - lam * pair.b))


def odpo(pair: Pair, beta: Number, alpha: Number, log_alpha: Number) -> Number:
    offset = alpha * pair.m + (log_alpha * mp.log(max(pair.m, LEAST)) if log_alpha else 0)
    return -log_sigmoid(beta * pair.margin - offset)


def reward_distillation(pair: Pair, beta: Number) -> Number:
    return (beta * pair.margin - pair.m) ** 2


def ld_dpo(pair: Pair, beta: Number, alpha: Number) -> Number:
    """Modified likelihoods first, as the paper has it: shared part + alpha x the rest."""

    def likelihood(whole: Number, shared: Number) -> Number:
        return shared + alpha * (whole - shared)

    a = likelihood(pair.p_w, pair.sp_w) - likelihood(pair.r_w, pair.sr_w)
    b = likelihood(pair.p_l, pair.sp_l) - likelihood(pair.r_l, pair.sr_l)
    return -log_sigmoid(beta * (a - b))


def tdpo1(pair: Pair, beta: Number) -> Number:
    delta = beta * pair.k_l - beta * pair.k_w
    return -log_sigmoid(beta * pair.margin - delta)


def tdpo2(pair: Pair, beta: Number, alpha: Number) -> Number:
    delta = beta * pair.k_l - beta * pair.k_w
    return -log_sigmoid(beta * pair.margin - alpha * delta)


def bco(pair: Pair, beta: Number) -> Number:
    shift = beta * pair.mean
    return -log_sigmoid(beta * pair.a - shift) - log_sigmoid(-(beta * pair.b - shift))


def kto(pairs: list[Pair], beta: Number, lam: Number) -> list[Number]:
    z0 = max(mp.mpf(0), sum(pair.z for pair in pairs) / len(pairs))
    return [
        1 - sigmoid(beta * (pair.a - z0)) + lam * (1 - sigmoid(beta * (z0 - pair.b)))
        for pair in pairs
    ]


def aot(pairs: list[Pair], beta: Number, label_smoothing: Number) -> list[Number]:
    policy = sorted(pair.p_w - pair.p_l for pair in pairs)
    reference = sorted(pair.r_w - pair.r_l for pair in pairs)
    return [
        _smoothed(beta * (p - r), label_smoothing) for p, r in zip(policy, reference, strict=True)
    ]


def aot_unpaired(pairs: list[Pair], beta: Number, label_smoothing: Number) -> list[Number]:
    chosen, rejected = sorted(pair.a for pair in pairs), sorted(pair.b for pair in pairs)
    return [
        _smoothed(beta * (a - b), label_smoothing) for a, b in zip(chosen, rejected, strict=True)
    ]


def _smoothed(z: Number, e: Number) -> Number:
    return -(1 - e) * log_sigmoid(z) - e * log_sigmoid(-z)


LN2 = 0.6931471805599453

AT_REFERENCE: Mapping[Formula, float | None] = {
    alpha_po: None,
    apo_down: 1.0,
    aot: LN2,
    aot_unpaired: LN2,
    apo_zero: 1.0,
    bco: 2 * LN2,
    cal_dpo: LN2 + 500_000,  # 2 x 500^2 at the authors' beta of .001
    cdpo: LN2,
    chi_po: LN2,
    cpo: None,
    discopop: (LN2 + 1) / 2,
    dpo: LN2,
    dpo_norm: LN2,
    dpo_shift: LN2,
    dpop: LN2,
    exo: 2.7612305,  # -ln 2 - (ln .999 + ln .001) / 2
    gpo_exp: 1.0,
    gpo_savage: 0.25,
    gpo_squared: 1.0,
    gpo_truncated_quadratic: 1.0,
    hinge: 1.0,
    ipo: 25.0,
    ipo_sum: 25.0,
    kto: 1.0,
    ld_dpo: LN2,
    length_dpo: None,
    nca: 2 * LN2,
    odpo: None,
    orpo: None,
    reward_distillation: None,
    robust_dpo: LN2,
    rrhf: None,
    sft: None,
    simper: None,
    simpo: None,
    slic: None,
    tdpo1: LN2,
    tdpo2: LN2,
    sppo: 500_000.0,  # 2 x 500^2 at the paper's beta of .001
    unlikelihood: None,
}
"""Loss at the defaults where policy and reference agree; None where it depends on the data."""

FORMULAS: Mapping[str, Formula] = {formula.__name__: formula for formula in AT_REFERENCE}
"""By name of the loss."""

OF_THE_BATCH = {"aot", "aot_unpaired", "kto"}
"""Formulas that take all pairs of a batch and give the loss of each."""
