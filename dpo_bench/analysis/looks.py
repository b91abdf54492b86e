"""Looking again after more seeds, without more false verdicts: how much of the 5% each look has.

Who stops as soon as something is decided, and otherwise adds seeds, has several chances of a false
verdict. When the looks are planned beforehand, each is given a part of the 5%, by how much of the
planned seeds it has: of the chance alpha ln(1 + (e - 1) t) is spent at the share t (Lan and DeMets
1983, Biometrika 70, 659, their second function, after Pocock). Each look is tested at what is newly
spent. That the looks have most of their data in common is not made use of, so that the total stays
below 5%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dpo_bench.analysis.comparisons import LEVEL


def levels_of_looks(seeds: Sequence[int]) -> list[float]:
    """The chance of a false verdict that each planned look has.

    Args:
        seeds: that each look has, rising; the last is the most that will be run.

    Raises:
        ValueError: they do not rise, or there is none.

    >>> [round(level, 4) for level in levels_of_looks([3, 6, 10])]
    [0.0208, 0.0146, 0.0146]
    >>> levels_of_looks([5])
    [0.05]
    """
    if not seeds or list(seeds) != sorted(set(seeds)) or seeds[0] < 1:
        raise ValueError(f"looks at {list(seeds)} seeds do not rise")
    spent = [LEVEL * math.log(1 + (math.e - 1) * count / seeds[-1]) for count in seeds]
    return [now - before for now, before in zip(spent, [0.0, *spent], strict=False)]
