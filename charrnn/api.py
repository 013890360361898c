"""The Python interface to a trained model: generate, search, fill gaps, score, and look inside.
With `api_training`, all that is public: everything else in the package may move."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from os import PathLike
from typing import TYPE_CHECKING, Any, TypedDict, overload

import numpy as np
import numpy.typing as npt

from charrnn.api_arguments import number, path, stop_texts, switch, text, whole
from charrnn.checkpoints import inference, run_dir
from charrnn.config.limits import FILE_BOUNDARY
from charrnn.errors import MisuseError
from charrnn.evaluation import short_texts
from charrnn.generation import beam_search, infill
from charrnn.generation.copying import CopyIndex
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Filling, Gapped
from charrnn.generation.patterns import Pattern
from charrnn.generation.primes import ReadPrimes
from charrnn.generation.sampling import MIN_P, TEMPERATURE, Sample, Sampler
from charrnn.generation.stop_texts import StopTexts, Until
from charrnn.inspection.states import States, read_states
from charrnn.models.ngram import Ngram
from charrnn.models.ngram_mixture import NgramMixture, for_sampling
from charrnn.models.numpy_model import NumpyHMM, NumpyModel
from charrnn.scores import NATS_PER_BIT, Score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from charrnn.models.factory import Network
    from charrnn.models.interface import LanguageModel

_BATCH = 256  # samples drawn side by side, at most, so that memory is bounded


class SamplingOptions(TypedDict, total=False):
    """The keywords of `TextModel.sample` and `TextModel.stream`, which explains them."""

    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    greedy: bool
    until: Until
    keep_until: bool
    document: bool | None
    no_copy: int | None
    no_repeat: int | None
    pattern: str | None
    mixture: bool
    seed: int | None


class TextModel:
    """A trained model that generates and scores text on the CPU, without torch.

    Every method raises MisuseError for an argument of another type or out of range, and CharRNNError for a text with a
    lone surrogate or a NUL, unless that is the boundary.
    """

    def __init__(self, name: str | PathLike[str] | None = None, *, network: bool = False) -> None:
        """Load a model from a run folder, a model file or a name under ./checkpoints; by default the newest run there.
        Of a mixture of a network and an n-gram model, load with `network` the network alone.

        Raises CharRNNError if there is none or the file is damaged.
        """
        self.path = run_dir.find_model(None if name is None else path("the model", name))
        if switch("network", network):
            inference.check_networks("network=True", [self.path])
        self._model: LanguageModel
        self._model, self._vocabulary = inference.load(self.path, network_only=network)
        self._documents = inference.documents(self.path)
        self._copies: CopyIndex | None = None

    def __repr__(self) -> str:
        return f"<charrnn.TextModel: {self._kind()}, {len(self._vocabulary):,} characters, {self.path}>"

    def _kind(self) -> str:
        """Describe the model as `charrnn info` does; of a mixture the network, and the order of its n-gram model."""
        model = self._network
        counted = f" with {self._model.ngram.order}-grams" if isinstance(self._model, NgramMixture) else ""
        if isinstance(model, Ngram):
            return f"ngram of order {model.order}"
        if isinstance(model, NumpyHMM):
            return f"hmm of {len(model.transition)} states{counted}"
        assert isinstance(model, NumpyModel)
        of = model.architecture
        return f"{of.num_layers} x {of.hidden_size} {of.cell}" + ", bidirectional" * of.bidirectional + counted

    @property
    def _network(self) -> LanguageModel:
        """The network of a mixture, or the model itself."""
        return self._model.network if isinstance(self._model, NgramMixture) else self._model

    @property
    def characters(self) -> str:
        """The V characters of the vocabulary: those of the training split, most frequent first, then any others."""
        return self._vocabulary.characters

    @property
    def boundary(self) -> str:
        """The text that ends each document, and comes before the first: a newline if the model knows no documents."""
        return self._vocabulary.boundary

    @overload
    def sample(
        self, prime: str = "", length: int | None = None, *, num: None = None, **options: Unpack[SamplingOptions]
    ) -> str: ...

    @overload
    def sample(
        self, prime: str = "", length: int | None = None, *, num: int, **options: Unpack[SamplingOptions]
    ) -> list[str]: ...

    def sample(
        self,
        prime: str = "",
        length: int | None = None,
        *,
        num: int | None = None,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = MIN_P,
        greedy: bool = False,
        until: Until = None,
        keep_until: bool = False,
        document: bool | None = None,
        no_copy: int | None = None,
        no_repeat: int | None = None,
        pattern: str | None = None,
        mixture: bool = False,
        seed: int | None = None,
    ) -> str | list[str]:
        """Return a continuation of `prime` of at most `length` characters, or with `num` a list of so many.

        It is a whole `document`, which ends where the `boundary` would follow, by default where the model was trained
        on documents and no `length` is given; then `length` is 100,000 by default, and 500 otherwise or with a
        `pattern`. It stops before the first of the texts `until`, one or several, or after it with `keep_until`. It
        contains no `no_copy`-character substring of the training text, and no `no_repeat`-character substring twice; it
        ends early where no other character is possible. The whole of it matches `pattern`, a regular expression without
        back-references and looking around, unless it ends early so; it ends where nothing can follow, and `until` ends
        it only where what is before matches. `keep_until` is refused then. Of a network with counts the network alone
        draws, unless `mixture` is true. None is off. Texts and seeds are those of `charrnn sample --seed` with -k: the
        first three of `num=10` are those of `num=3`, and the first is what there is without `num`. Raises CharRNNError
        for `no_copy` if the training text is gone.
        """
        count = 1 if num is None else whole("num", num, 1)
        sampler = self._prepare(
            prime,
            length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            greedy=greedy,
            until=until,
            keep_until=keep_until,
            document=document,
            no_copy=no_copy,
            no_repeat=no_repeat,
            pattern=pattern,
            mixture=mixture,
            seed=seed,
        )
        texts: list[str] = []
        for first in range(0, count, _BATCH):
            drawn = sampler(range(first, min(first + _BATCH, count)), True)
            for _ in drawn:
                pass
            texts += [one.text for one in drawn.samples]
        return texts[0] if num is None else texts

    @overload
    def stream(
        self, prime: str = "", length: int | None = None, *, num: None = None, **options: Unpack[SamplingOptions]
    ) -> Iterator[str]: ...

    @overload
    def stream(
        self, prime: str = "", length: int | None = None, *, num: int, **options: Unpack[SamplingOptions]
    ) -> Iterator[list[str]]: ...

    def stream(
        self,
        prime: str = "",
        length: int | None = None,
        *,
        num: int | None = None,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = MIN_P,
        greedy: bool = False,
        until: Until = None,
        keep_until: bool = False,
        document: bool | None = None,
        no_copy: int | None = None,
        no_repeat: int | None = None,
        pattern: str | None = None,
        mixture: bool = False,
        seed: int | None = None,
    ) -> Iterator[str] | Iterator[list[str]]:
        """Yield the text of `sample` as it is generated: each character as soon as it cannot be rolled back.

        With `num`, of at most 256, yield lists of what each of the samples adds, "" where that is nothing. Arguments
        are checked, and the prime is read, at once, not when the first text is asked for.
        """
        count = 1 if num is None else whole("num", num, 1, _BATCH)
        sampler = self._prepare(
            prime,
            length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            greedy=greedy,
            until=until,
            keep_until=keep_until,
            document=document,
            no_copy=no_copy,
            no_repeat=no_repeat,
            pattern=pattern,
            mixture=mixture,
            seed=seed,
        )
        steps = iter(sampler(range(count), False))
        return steps if num is not None else (added for (added,) in steps if added)

    def search(
        self,
        prime: str = "",
        length: int | None = None,
        *,
        width: int = 20,
        until: Until = None,
        keep_until: bool = False,
        document: bool | None = None,
        pattern: str | None = None,
    ) -> list[Sample]:
        """Return the `width` likeliest continuations of `prime`, best first, by beam search; `length`, `until`,
        `document` and `pattern` are those of `sample`."""
        prime, (document, most) = text("prime", prime), self._ends(document, length, pattern)
        width, until, keep_until = whole("width", width, 1), stop_texts(until), switch("keep_until", keep_until)
        form = None if pattern is None else Pattern(text("pattern", pattern))
        ends: dict[str, Any] = {"until": until, "keep_until": keep_until, "document": document, "pattern": form}
        return beam_search.search(self._model, self._vocabulary, prime, most, width, **ends)

    def infill(
        self, content: str, num: int = 1, *, blanks: str = infill.BLANKS, width: int = infill.WIDTH
    ) -> list[Filling]:
        """Return the `num` best ways to fill the gaps of a text, its runs of `blanks`; see `infill.fill`."""
        if not text("blanks", blanks):
            raise MisuseError("blanks is empty; name the characters that mark a gap.")
        gapped = Gapped.parse(text("text", content), blanks)
        num, width = whole("num", num, 1), whole("width", width, 1)
        return infill.fill(self._model, self._vocabulary, gapped, num, width)

    def score(self, content: str) -> Score:
        """Score a text exactly, in a single pass that starts after the boundary of documents."""
        tokens = self._vocabulary.encode(self._text(content))
        return short_texts.score_batch(self._model, self._vocabulary, [tokens])[0]

    def bits(self, content: str) -> npt.NDArray[np.float64]:
        """Return the bits of each of the N characters of a text (N); their sum is `score(text).bits`."""
        tokens = self._vocabulary.encode(self._text(content))
        return short_texts.character_nats(self._model, self._vocabulary, tokens) / NATS_PER_BIT

    def encode(self, content: str) -> npt.NDArray[np.int64]:
        """Return the N tokens of a text of N characters: positions in `characters`, or V for any other character.

        A model reads the boundary of its documents before every text, to predict the first character from: a newline,
        unless it was trained on documents.
        """
        return self._vocabulary.encode(self._text(content)).astype(np.int64)

    def states(self, content: str) -> States:
        """Return the states after each of the N characters of a text: `hidden` (N, L, H) for L layers of H units, for
        an LSTM also `cell` (N, L, H), and for a bidirectional model also `backward`; see `States`. Those of a mixture
        are its network's.

        Raises MisuseError for an n-gram model, which has none.
        """
        if isinstance(self._model, Ngram):
            raise MisuseError(f"{self.path} is an n-gram model and has no states; load a network or an hmm.")
        network = self._network
        assert isinstance(network, NumpyModel | NumpyHMM)
        return read_states(network, self.encode(content), self._vocabulary.boundary_tokens)

    def torch_module(self) -> Network:
        """Load the network once more, as a torch.nn.Module in evaluation mode, on the CPU and in fp32; that of a
        mixture knows nothing of its counts.

        `module(tokens, state) -> (logits, state)` reads tokens (B, T) of `encode` from a state, which begins as
        `module.initial_state(B)`, and predicts the next ones: logits (B, T, V), without the escape. Raises MisuseError
        for an n-gram model, which has none.
        """
        if isinstance(self._model, Ngram):
            raise MisuseError(f"{self.path} is an n-gram model and has no torch module; load a network or an hmm.")
        from charrnn.checkpoints import model_file

        return model_file.read_model(self.path)[1]

    def _prepare(
        self,
        prime: str,
        length: int | None,
        *,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        min_p: float | None,
        greedy: bool,
        until: Until,
        keep_until: bool,
        document: bool | None,
        no_copy: int | None,
        no_repeat: int | None,
        pattern: str | None,
        mixture: bool,
        seed: int | None,
    ) -> Callable[[range, bool], Sampler]:
        """Check what to draw, and read the prime; return a function that makes the sampler of some indices, and says if
        it keeps texts."""
        prime, (document, most) = text("prime", prime), self._ends(document, length, pattern)
        filters = Filters(
            temperature=number("temperature", temperature),
            top_k=None if top_k is None else whole("top_k", top_k, 1),
            top_p=None if top_p is None else number("top_p", top_p),
            min_p=None if min_p is None else number("min_p", min_p),
            greedy=switch("greedy", greedy),
        )
        if greedy and filters not in (Filters(min_p=MIN_P, greedy=True), Filters(greedy=True)):
            raise MisuseError("greedy takes the likeliest character; leave out temperature, top_k, top_p and min_p.")
        until, keep_until = stop_texts(until), switch("keep_until", keep_until)
        StopTexts(until)  # an empty one is told before the prime is read
        no_repeat = None if no_repeat is None else whole("no_repeat", no_repeat, 2)
        form = None if pattern is None else Pattern(text("pattern", pattern))
        seed = secrets.randbelow(2**31) if seed is None else whole("seed", seed, 0, 2**63 - 1)
        copies = None if no_copy is None else self._training_copies(whole("no_copy", no_copy, 2))
        model = for_sampling(self._model, mixture=switch("mixture", mixture))
        read = ReadPrimes(model, self._vocabulary, [prime], no_repeat)

        def sampler(indices: range, keep_text: bool) -> Sampler:
            return Sampler(
                model,
                self._vocabulary,
                [prime] * len(indices),
                most,
                filters,
                seed=seed,
                indices=indices,
                until=until,
                keep_until=keep_until,
                document=document,
                no_copy=copies,
                no_repeat=no_repeat,
                pattern=form,
                keep_text=keep_text,
                read=read,
            )

        return sampler

    def _text(self, content: str) -> str:
        """Check a text; NUL ends files where these are the documents, and is in no other."""
        ends_files = isinstance(content, str) and self.boundary == FILE_BOUNDARY
        text("text", content.replace(FILE_BOUNDARY, "") if ends_files else content)
        return content

    def _ends(self, document: bool | None, length: int | None, pattern: str | None) -> tuple[bool, int]:
        """Check whether a whole document is written, and how many characters at most.

        Raises MisuseError for a document of a model that knows none.
        """
        if document is not None and switch("document", document):
            ways_out = "Train one with data.documents, or name a text that ends it with until."
            self._documents.check("document=True writes a whole document", ways_out)
        most = None if length is None else whole("length", length, 1)
        return self._documents.settle(document, most, pattern=pattern is not None)

    def _training_copies(self, size: int) -> CopyIndex:
        """Index the training text's substrings of `size` characters; the index of the last size is cached."""
        if self._copies is None or self._copies.size != size:
            from charrnn.checkpoints import model_file, training_corpus

            advice = "Put it back, or leave out no_copy."
            header = model_file.read_header(self.path)
            self._copies = CopyIndex(training_corpus.find(header, self.path, advice).training.codes, size)
        return self._copies
