"""Which evaluation of a training is the best one, and whether it is still getting better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from charrnn.checkpoints.model_file import EvaluationRecord

ALIKE = 1.001  # times the bits of the best mixture: so near to it, the one with the better network is the better one


def network_bits(record: EvaluationRecord) -> float:
    """Return the bits/char that the network alone would be judged by."""
    return replace(record, mixture_nats=None).judged_bits


def best_of(history: Iterable[EvaluationRecord]) -> EvaluationRecord | None:
    """Return the evaluation that the best checkpoint was saved at; None if there is none.

    It has the fewest bits. But counts may be most of a mixture, and hide what the network learns: of mixtures that are
    alike, a later one is better if its network is.
    """
    best, least = None, math.inf
    for record in history:
        least = min(least, record.judged_bits)
        both = best is not None and best.mixture_nats is not None and record.mixture_nats is not None
        allowed = least * ALIKE if both else least
        if best is None or (
            record.judged_bits <= allowed and (best.judged_bits > allowed or network_bits(record) < network_bits(best))
        ):
            best = record
    return best


def progresses(record: EvaluationRecord, before: Iterable[EvaluationRecord]) -> bool:
    """Say whether the model, or its network alone, is better than at all evaluations before."""
    earlier = list(before)
    better = all(record.judged_bits < one.judged_bits for one in earlier)
    return better or all(network_bits(record) < network_bits(one) for one in earlier)
