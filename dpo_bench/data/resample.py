"""Which training pairs a seed trains on.

Seeds that vary the order of the pairs alone say how far a result depends on that order, and nothing
about what another sample of preferences would have given, which is the larger part elsewhere
(Bouthillier et al. 2021, arXiv:2103.03098, figure 1). ``training.resample = "bootstrap"`` draws as
many pairs as there are, with replacement: the spread over seeds then holds the data's share, too.

With replacement, and not a part of the pairs without: a part of them trains on fewer pairs, for
fewer steps of an epoch, which is another experiment, and parts of more than a half share so many
pairs that their spread is too small (by 1 - m/n for m of n). The price is that about 37% of the
pairs of a seed are missing from it and others come two or three times, so that a policy that learns
its pairs by heart overfits somewhat earlier. Pairs are drawn one by one, also where several have
one prompt. Held-out pairs and evaluation prompts stay what they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STREAM = (0, 1)
"""Spawn key of the draw; the orders of epochs have keys of one number, see `StepOrder`."""


def bootstrap_pairs(pairs: int, seed: int) -> NDArray[np.int64]:
    """The pairs that a seed trains on: indices, ascending, each as often as it was drawn.

    They depend on the seed and the number of pairs, on nothing else, and never on the loss: losses
    of one seed are trained on the same pairs.

    Args:
        pairs: number of training pairs, and of draws.
        seed: of the training.

    Returns:
        [pairs], from 0 to ``pairs`` - 1.
    """
    # A seed may be negative; as entropy it must not be.
    entropy = np.random.SeedSequence(seed % 2**64, spawn_key=_STREAM)
    return np.sort(np.random.Generator(np.random.PCG64(entropy)).integers(0, pairs, pairs))
