"""Whether training changed a policy at all: where none did, nothing can be compared."""

from __future__ import annotations

from collections.abc import Sequence

UNMOVED = 1e-3
"""Nats of KL to the reference below which a policy counts as the reference."""


def unmoved_in_words(kls: Sequence[float], learning_rate: object) -> str:
    """What to say of policies of which some did not leave the reference; empty where all did.

    >>> unmoved_in_words([0.5, 2.0], 1e-6)
    ''

    Args:
        kls: each policy's KL to the reference, nats.
        learning_rate: of the experiment, for the message.
    """
    still = [kl for kl in kls if kl < UNMOVED]
    if not still:
        return ""
    if len(still) < len(kls):
        return (
            f"{len(still)} of {len(kls)} policies did not leave the reference (KL below "
            f"{UNMOVED:g} nats): they say nothing of their losses."
        )
    return (
        f"No policy left the reference: the largest KL is {max(still):.1g} nats, so nothing here "
        f"compares losses. Raise training.learning_rate (now {learning_rate}) or training.steps."
    )
