"""The scores of the parts of a text, as TSV or as JSON: of each line, document or character."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from charrnn.cli.console import escaped, put_line
from charrnn.strict_json import to_json

if TYPE_CHECKING:
    from charrnn.data.vocabulary import Vocabulary
    from charrnn.evaluation.short_texts import Characters
    from charrnn.models.interface import LanguageModel


class Rows:
    """Print the scores of a text's parts by one model: as TSV, with a column for the model if there are `several`, or
    as JSON, which needs no escapes."""

    def __init__(self, model: str, text: str, *, several: bool, as_json: bool) -> None:
        self.as_json, self.names = as_json, {"model": model, "text": text}
        self.first = [escaped(model)] if several else []

    def put(self, cells: Sequence[str], fields: dict[str, Any]) -> None:
        """Print one row, by its cells or as an object."""
        row = to_json(self.names | fields) if self.as_json else "\t".join([*self.first, *cells])
        put_line(row)


def put_parts(rows: Rows, model: LanguageModel, vocabulary: Vocabulary, content: str, *, documents: bool) -> None:
    """Print the score of each line of a text, or of each of its documents, scored alone."""
    from charrnn.data.documents import split_documents
    from charrnn.evaluation import short_texts

    kind, end = ("document", vocabulary.boundary) if documents else ("line", "\n")
    found = list(split_documents(content, end))
    for part, score in zip(found, short_texts.score(model, vocabulary, found, end=end), strict=True):
        cells = (f"{score.bits_per_character:.4f}", f"{score.bits:.4f}", f"{score.characters}", escaped(part))
        rows.put(cells, {kind: part, **score.fields})


def put_characters(rows: Rows, blocks: Iterable[Characters], vocabulary: Vocabulary, content: str) -> None:
    """Print the bits of each character of a text, the rank that the model gave it, and what was likeliest there."""
    from charrnn.models.likelihood import check_finite
    from charrnn.scores import NATS_PER_BIT

    characters = iter(content)
    for block in blocks:
        check_finite(block.nats)
        tops = [[]] * len(block.nats) if block.likeliest is None else block.likeliest.named(vocabulary)
        for nats, rank, top in zip(block.nats.tolist(), block.ranks.tolist(), tops, strict=True):
            character, bits = next(characters), nats / NATS_PER_BIT
            likeliest = [cell for other, p in top for cell in (escaped(other), f"{p:.4g}")]
            fields = {"character": character, "nats": nats, "bits": bits, "rank": rank}
            if block.likeliest is not None:
                fields["likeliest"] = [{"character": other, "probability": p} for other, p in top]
            rows.put([escaped(character), f"{bits:.4f}", f"{rank}", *likeliest], fields)
