"""The texts in a folder: which files it stands for, and what was left out, counted by reason. Opens none of them."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from charrnn.paths import status

GLOB = ("*.txt",)
COMPRESSED = frozenset({".gz", ".bz2", ".xz"})
RUN_MARK = ".lock"  # marks a run folder, which holds samples of models
_SHOWN = 3  # endings named in a message


@dataclass
class Found:
    """The files of a folder in order, how many were left out by reason, and the endings of those with other names."""

    files: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)

    def note(self, folder: str, *, globs_can_change: bool) -> str | None:
        """Say what was left out, or return None if that is nothing."""
        if not self.endings and not self.left_out:
            return None
        names = f"{self.endings.total():,} with other names ({self._endings()})"
        reasons = [names] * bool(self.endings) + self._reasons()
        advice = f" --glob {self._example()} would take others." if self.endings and globs_can_change else ""
        files = f"{len(self.files):,} file{'s' * (len(self.files) != 1)} to read"
        return f"{folder}: {files}. Left out: {', '.join(reasons)}.{advice}"

    def nothing(self, folder: str, globs: Sequence[str], *, globs_can_change: bool) -> str:
        """Say that there is no file to read, what there is instead, and what to do."""
        wanted = ".txt file" if tuple(globs) == GLOB else f"file like {' or '.join(globs)}"
        there = [self._endings()] * bool(self.endings) + self._reasons()
        advice = f"Take others with --glob, e.g. --glob {self._example()}" if self.endings and globs_can_change else ""
        what = f"; there are {', '.join(there)}" if there else ""
        return f"{folder}: no {wanted} in this folder or below{what}. {advice or 'Name a file or another folder'}."

    def _reasons(self) -> list[str]:
        # the reasons of two words are nouns
        return [f"{count:,} {reason}{'s' * (count > 1 and ' ' in reason)}" for reason, count in self.left_out.items()]

    def _endings(self) -> str:
        most = self.endings.most_common(_SHOWN)
        others = self.endings.total() - sum(count for _, count in most)
        named = [f"{count:,} {ending}" for ending, count in most]
        return ", ".join(named + [f"{others:,} other{'s' * (others > 1)}"] * (others > 0))

    def _example(self) -> str:
        ending = next((ending for ending, _ in self.endings.most_common() if ending.startswith(".")), "")
        return f"'*{ending}'"


def find(folder: Path, globs: Sequence[str] = GLOB) -> Found:
    """Find the files in a folder and below whose names match a pattern in any case, also compressed.

    Hidden files and folders, linked folders, what cannot be read, and the files of runs are left out.
    """
    found = Found()

    def failed(_: OSError) -> None:
        found.left_out["unreadable"] += 1

    pending = [str(folder)]
    while pending:  # os.walk itself calls itself before Python 3.12, too often in folders that are nested deeply
        root, folders, names = next(os.walk(pending.pop(), onerror=failed), ("", [], []))
        deeper: list[str] = []
        for name in sorted(folders):
            if name.startswith("."):
                found.left_out["hidden"] += 1
            elif os.path.islink(os.path.join(root, name)):
                found.left_out["linked folder"] += 1
            else:
                deeper.append(os.path.join(root, name))
        if RUN_MARK in names:
            found.left_out["run folder"] += 1
            continue
        pending += reversed(deeper)
        for name in sorted(names):
            path = Path(root, name)
            if name.startswith("."):
                found.left_out["hidden"] += 1
            elif not _matches(path.relative_to(folder), globs):
                found.endings[path.suffix.lower() or "without ending"] += 1
            elif reason := _why_left_out(path):
                found.left_out[reason] += 1
            else:
                found.files.append(str(path))
    found.files.sort()
    return found


def _why_left_out(path: Path) -> str | None:
    """Say in two words or one why a file is not read, or return None."""
    there = status(path)
    if isinstance(there, OSError):
        return "dangling link" if there.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP} else "unreadable"
    if not stat.S_ISREG(there.st_mode):
        return "special file"
    return None if os.access(path, os.R_OK) else "unreadable"


def _matches(path: Path, globs: Sequence[str]) -> bool:
    lower = PurePosixPath(path.as_posix().lower())
    plain = lower.with_suffix("") if lower.suffix in COMPRESSED else lower
    return any(each.match(glob.lower()) for each in (lower, plain) for glob in globs)
