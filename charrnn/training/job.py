"""A training of a network or the counting of an n-gram model, with its run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from charrnn.checkpoints.run_dir import Run
from charrnn.training.events import Report
from charrnn.training.loop import train
from charrnn.training.ngram_counting import Counted, Counting, count
from charrnn.training.training_step import Training

Work = TypeVar("Work", Training, Counting)


@dataclass(frozen=True)
class TrainingJob(Generic[Work]):
    """A training or a counting, and its run folder, which is locked."""

    training: Work
    run: Run

    @property
    def saves(self) -> bool:
        """Return whether it saves on the way, so that it may be stopped and resumed."""
        return isinstance(self.training, Training)

    def learn(self, stop: Callable[[], bool]) -> Iterator[Report | Counted]:
        """Train to the end, or until `stop` returns true; yield reports."""
        if isinstance(self.training, Training):
            return train(self.training, self.run, stop)
        return count(self.training, self.run)
