"""A training, or a counting, with its run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from charrnn.checkpoints.run_dir import Run
from charrnn.training.events import Report
from charrnn.training.loop import train
from charrnn.training.ngram_counting import Counted, Counting, count
from charrnn.training.trainer import Training

Work = TypeVar("Work", Training, Counting)


@dataclass(frozen=True)
class TrainingJob(Generic[Work]):
    """Hold a training, or a counting, and its run folder, whose lock is held."""

    training: Work
    run: Run

    @property
    def saves(self) -> bool:
        """Say whether it saves as it goes, so that it may be stopped and resumed."""
        return isinstance(self.training, Training)

    def learn(self, stop: Callable[[], bool]) -> Iterator[Report | Counted]:
        """Learn to the end, or until `stop` says so; yields reports."""
        if isinstance(self.training, Training):
            return train(self.training, self.run, stop)
        return count(self.training, self.run)
