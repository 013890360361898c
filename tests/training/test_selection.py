"""Claims about which evaluation is the best, and when a training no longer gets better."""

from __future__ import annotations

import pytest

from charrnn.checkpoints.model_file import EvaluationRecord
from charrnn.scores import NATS_PER_BIT
from charrnn.training.selection import best_of, progresses


def evaluated(*scores: tuple[float, float | None]) -> list[EvaluationRecord]:
    """Make evaluations of (network, mixture) bits per character."""
    return [
        EvaluationRecord(
            step, 1.0, 1.0, None, 100 * NATS_PER_BIT * alone, 100, 40, mixture_nats=mixed and 100 * NATS_PER_BIT * mixed
        )
        for step, (alone, mixed) in enumerate(scores, 1)
    ]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([(2.0, None), (1.9, None), (1.95, None), (1.9, None)], 2),  # of equals the first
        ([(2.0, None), (1.9999, None)], 2),  # networks alone: however little
        ([(2.0, 1.5), (1.9, 1.6)], 1),
        ([(2.0, 1.5), (2.1, 1.4)], 2),
        ([(2.9, 1.9160), (2.5, 1.9162), (2.0, 1.9163)], 3),  # the counts hide what the network learns
        ([(2.0, 1.9162), (2.9, 1.9160)], 1),
        ([(2.9, 1.9000), (2.5, 1.9015), (2.0, 1.9030)], 2),  # no further from the best than 0.1 %
        ([(2.9, 2.0000), (2.5, 2.0010), (2.6, 1.9980)], 3),  # nor where that is a later one
        ([(2.0, None), (1.9, 1.8), (1.95, 1.7)], 3),
    ],
)
def test_of_mixtures_that_are_alike_the_one_with_the_better_network_is_best(
    scores: list[tuple[float, float | None]], best: int
) -> None:
    found = best_of(evaluated(*scores))
    assert found is not None
    assert found.step == best


def test_what_is_saved_as_the_best_is_the_best_of_all_so_far() -> None:
    """Evaluation by evaluation, the one that is saved stays the best one until another one replaces it."""
    history = evaluated((2.9, 2.0), (2.5, 2.001), (2.6, 1.998), (2.4, 1.999), (2.3, 2.05), (2.5, 1.9))
    saved = None
    for count in range(1, len(history) + 1):
        best = best_of(history[:count])
        assert best in (saved, history[count - 1])
        saved = best
    assert best_of([]) is None


def test_a_training_goes_on_while_the_network_or_the_mixture_gets_better() -> None:
    first, second, third, fourth = evaluated((2.9, 1.9160), (2.5, 1.9162), (2.6, 1.91), (2.7, 1.92))
    assert progresses(first, [])
    assert progresses(second, [first])
    assert progresses(third, [first, second])
    assert not progresses(fourth, [first, second, third])
