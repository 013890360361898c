"""Documents as a trained model knows them: what ends each, and where they are in a text.
Knows texts in memory; those of a training are found by `splits`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from charrnn.config.limits import FILE_BOUNDARY
from charrnn.data.text_files import joint
from charrnn.errors import MisuseError

LENGTH = 500  # characters to write by default, of no document
MOST = 100_000  # of a document that does not end


@dataclass(frozen=True)
class Documents:
    """What a document of a model is: `kind`, its setting data.documents, and the text that ends each."""

    kind: str
    boundary: str

    @property
    def known(self) -> bool:
        """Whether the model knows where documents begin and end.

        One of an earlier version starts after a newline, whatever its documents are.
        """
        return self.boundary != "\n" or self.kind in {"line", "separator"}

    def settle(self, document: bool | None, length: int | None, *, pattern: bool = False) -> tuple[bool, int]:
        """Say whether a whole document is written, by default where documents are known and no length is given, and how
        many characters at most: fewer with a pattern, which may keep the document from its end."""
        document = self.known and length is None if document is None else document
        return document, (MOST if document and not pattern else LENGTH) if length is None else length

    def check(self, request: str, advice: str, model: str = "this model") -> None:
        """Raise MisuseError where a `request` is about documents, and the model knows none."""
        if self.known:
            return
        if self.kind == "none":
            raise MisuseError(f"{request}, and {model} was trained on a text without documents. {advice}")
        raise MisuseError(
            f"{request}, and {model} was trained by an earlier version, which did not learn where documents begin and"
            " end. Train it again."
        )


def join_files(text: str, boundary: str) -> str:
    """Return a text of files, of which a NUL ends each but the last, with the boundary in its place, as in training."""
    if boundary == FILE_BOUNDARY or FILE_BOUNDARY not in text:
        return text
    files = text.split(FILE_BOUNDARY)
    pieces, tail = [files[0]], files[0][-len(boundary) :]
    for file in files[1:]:
        end = joint(tail, boundary)
        pieces += [end, file]
        tail = (tail + end + file[-len(boundary) :])[-len(boundary) :]
    return "".join(pieces)


def split_documents(text: str, boundary: str) -> Iterator[str]:
    """Yield the documents of a text without their boundary; the last needs none.

    Of those that empty lines end, further newlines around them are left out as well.
    """
    if boundary == "\n\n":
        yield from filter(None, re.split("\n\n+", text.strip("\n")))
        return
    start = 0
    while start < len(text):
        end = text.find(boundary, start)
        end = len(text) if end < 0 else end
        yield text[start:end]
        start = end + len(boundary)
