"""Claims about infilling, on four symbols: few enough that every filling can be scored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config.schema import ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError, MisuseError
from charrnn.generation import infill
from charrnn.generation.infill import IMPLAUSIBLE, WIDTH, Filling, Gapped
from charrnn.models.bidirectional import BidirectionalRNN
from charrnn.models.char_rnn import CharRNN
from charrnn.models.interface import WIDEST, LanguageModel, Tokens
from charrnn.models.losses import target_nats
from charrnn.models.torch_model import TorchModel
from charrnn.scores import NATS_PER_BIT
from tests.generation.test_beam_search import VOCABULARY, chain, every_model, logged, made

TEXTS = {
    "one": "ab__c",
    "two": "ca_b__c",
    "three": "_ab_c_",
    "at both ends": "__b_",
    "at the end": "acb__",
    "nothing else": "___",
    "lines": "ab\n__c\n",
    "two of lines": "_\nb__",
    "escapes": "鸟_🐦鸟_b",
}
every_text = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
every_cell = pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])


@pytest.fixture
def nothing_is_hopeless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infill, "_HOPELESS", math.inf)


VOCABULARY_NATS = (VOCABULARY.known_nats, VOCABULARY.escape_nats)


def encoded(text: str) -> torch.Tensor:
    return torch.tensor([VOCABULARY.encode(text).tolist()])


def filled(text: str, characters: str) -> str:
    """Write characters into the blanks of a text, one after the other."""
    remaining = iter(characters)
    return "".join(next(remaining) if character == "_" else character for character in text)


@torch.no_grad()
def nats_of(model: CharRNN, texts: list[str], first: int, last: int | None = None) -> npt.NDArray[np.float64]:
    """Score characters `first` to `last` of texts (R) of one length in a single plain pass, in nats (R)."""
    tokens = torch.tensor([[VOCABULARY.boundary_tokens[0], *VOCABULARY.encode(text).tolist()] for text in texts])
    logits, _ = model.eval()(tokens[:, :-1], model.initial_state(len(texts)))
    targets = tokens[:, 1:]
    nats = -torch.log_softmax(logits, -1).gather(-1, targets.clamp(max=len(VOCABULARY) - 1)[..., None])[..., 0]
    nats = torch.where(targets == VOCABULARY.escape, VOCABULARY.escape_nats, nats + VOCABULARY.known_nats)
    totals: npt.NDArray[np.float64] = nats[:, first:last].sum(1).numpy()
    return totals


def ranked(model: CharRNN, text: str, last: int | None = None) -> list[tuple[str, float]]:
    """Return every filling of a text, without newlines if it is a single line, and its nats, best first."""
    allowed = VOCABULARY.characters if "\n" in text else VOCABULARY.characters.replace("\n", "")
    texts = [filled(text, "".join(way)) for way in itertools.product(allowed, repeat=text.count("_"))]
    nats = nats_of(model, texts, text.index("_"), last)
    return [(texts[index], float(nats[index])) for index in np.argsort(nats, kind="stable")]


def two_sided_chain(
    following: Mapping[str, Mapping[str, float]], preceding: Mapping[str, Mapping[str, float]]
) -> BidirectionalRNN:
    """Build two Markov chains, one read forwards and one backwards; the joint head is their product."""
    values = {
        "cell": "rnn",
        "hidden_size": 8,
        "num_layers": 1,
        "embedding_size": 4,
        "dropout": 0.0,
        "tie_weights": False,
    }
    model = BidirectionalRNN(ModelConfig.model_validate({**values, "bidirectional": True}), 4).double()
    forwards, backwards = torch.zeros(8, 4), torch.zeros(8, 4)
    forwards[:4], backwards[4:] = 20.0 * torch.eye(4), 20.0 * torch.eye(4)  # tanh(20) is 1
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.embedding.copy_(torch.eye(4))
        model.get_parameter("layers.0.kernel.weight_ih_l0").copy_(forwards)
        model.get_parameter("backward_stack.layers.0.kernel.weight_ih_l0").copy_(backwards)
        model.get_parameter("head").copy_(torch.cat((logged(following), logged(preceding)), 1))
        model.joint_trust[0] = 1.0
    return model


def mislead(bias: torch.Tensor, character: str) -> None:
    """Make a head predict one character whatever the context."""
    with torch.no_grad():
        bias[VOCABULARY.characters.index(character)] = 50.0


def fill(model: CharRNN, vocabulary: Vocabulary, gapped: Gapped, count: int = 1, width: int = WIDTH) -> list[Filling]:
    return infill.fill(TorchModel(model), vocabulary, gapped, count, width)


def gaps_of(fillings: list[Filling]) -> list[tuple[str, ...]]:
    return [filling.gaps for filling in fillings]


# parsing


@pytest.mark.parametrize(
    ("text", "gaps"),
    [
        ("a_b", ((1, 2),)),
        ("a＿b", ((1, 2),)),
        ("a＿_＿b__c", ((1, 4), (5, 7))),
        ("__a_", ((0, 2), (3, 4))),
        ("___", ((0, 3),)),
        ("_", ((0, 1),)),
        ("我爱＿＿，", ((2, 4),)),
        ("a\n_", ((2, 3),)),
    ],
)
def test_every_run_of_blanks_is_a_gap(text: str, gaps: tuple[tuple[int, int], ...]) -> None:
    assert Gapped.parse(text) == Gapped(text, gaps, "" if "\n" in text else "\n")


def test_other_blanks_replace_the_default_ones() -> None:
    assert Gapped.parse("a_?b＿", "?").gaps == ((2, 3),)
    assert Gapped.parse("a_?b*", "?*").gaps == ((2, 3), (4, 5))


@given(st.text("_＿a\n", max_size=12))
def test_gaps_are_exactly_the_blanks_and_never_touch(text: str) -> None:
    gapped = Gapped.parse(text, required=False)
    inside = [index for start, end in gapped.gaps for index in range(start, end)]
    assert inside == [index for index, character in enumerate(text) if character in "_＿"]
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(gapped.gaps))
    assert gapped.without == ("" if "\n" in text.removesuffix("\n") else "\n")


def test_a_text_without_a_gap_is_a_misuse_where_one_is_required() -> None:
    for text in ("", "ab\nc"):
        with pytest.raises(MisuseError, match=r"no gap\. Write ＿ or _ once for every missing character\."):
            Gapped.parse(text)
        assert Gapped.parse(text, required=False).gaps == ()
    with pytest.raises(MisuseError, match=r"Write \? once"):
        Gapped.parse("a_b", "?")
    with pytest.raises(CharRNNError, match=r"text: character 1 is a lone surrogate \(U\+D800\)"):
        Gapped.parse("_\ud800")


# every filling


@every_cell
@every_text
@pytest.mark.usefixtures("nothing_is_hopeless")
def test_a_causal_model_ranks_all_fillings_by_their_nats(cell: str, text: str) -> None:
    model = made(cell)
    expected, size = ranked(model, text), text.count("_")
    found = fill(model, VOCABULARY, Gapped.parse(text), 4**size, 4**size)
    assert [filling.text for filling in found] == [way for way, _ in expected]
    np.testing.assert_allclose([filling.nats for filling in found], [nats for _, nats in expected], rtol=1e-12)


@every_cell
@every_text
@pytest.mark.usefixtures("nothing_is_hopeless")
def test_a_bidirectional_model_ranks_fillings_by_its_forward_half(
    cell: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infill, "IMPLAUSIBLE", np.inf)
    model = made(cell, bidirectional=True)
    expected, size = ranked(model, text), text.count("_")
    found = fill(model, VOCABULARY, Gapped.parse(text), 4**size, 4**size)
    assert [filling.text for filling in found] == [way for way, _ in expected]
    np.testing.assert_allclose([filling.nats for filling in found], [nats for _, nats in expected], rtol=1e-12)


@every_cell
@pytest.mark.usefixtures("nothing_is_hopeless")
@torch.no_grad()
def test_what_is_implausible_to_both_halves_together_comes_last(cell: str) -> None:
    model, after = made(cell, bidirectional=True).eval(), "caa"
    assert isinstance(model, BidirectionalRNN)
    half = model.backward_half
    totals = dict(ranked(model, "ab__caa"))
    for text in totals:
        read, _ = half.read(encoded("\n" + text)[:, 1:].flip(1), half.initial_state(1))
        targets = encoded("\n" + text[: -len(after)]).flip(1)
        totals[text] += float(target_nats(half.logits(read[:, len(after) - 1 :]), targets, *VOCABULARY_NATS).sum())
    implausible = {text: nats > min(totals.values()) + IMPLAUSIBLE for text, nats in totals.items()}
    expected = sorted(ranked(model, "ab__caa"), key=lambda one: (implausible[one[0]], one[1]))
    assert 0 < sum(implausible.values()) < 9
    assert [one.text for one in fill(model, VOCABULARY, Gapped.parse("ab__caa"), 9, 9)] == [one for one, _ in expected]


@every_model
@every_text
@pytest.mark.usefixtures("nothing_is_hopeless")
def test_a_wide_beam_finds_every_filling_once(cell: str, bidirectional: bool, text: str) -> None:
    model, size = made(cell, bidirectional), text.count("_")
    found = fill(model, VOCABULARY, Gapped.parse(text), 4**size, 4**size)
    assert sorted(filling.text for filling in found) == sorted(way for way, _ in ranked(model, text))
    assert [filling.index for filling in found] == list(range(len(found)))


@every_model
@pytest.mark.usefixtures("nothing_is_hopeless")
def test_the_first_of_many_are_the_few(cell: str, bidirectional: bool) -> None:
    model, gapped = made(cell, bidirectional), Gapped.parse(TEXTS["two"])
    many = fill(model, VOCABULARY, gapped, 27, 64)
    for count in (1, 2, 9):
        assert gaps_of(fill(model, VOCABULARY, gapped, count, 64)) == gaps_of(many)[:count]


@pytest.mark.parametrize("seed", range(4))
def test_dropping_candidates_does_not_lose_the_best(seed: int) -> None:
    model, text = made(seed=seed), "ab___" + "cab\nbca" * 22
    (found,) = fill(model, VOCABULARY, Gapped.parse(text), 1, 64)
    best, nats = ranked(model, text, 5 + 128)[0]
    assert found.text == best
    assert found.nats == pytest.approx(nats, rel=1e-12)


def test_a_filling_nine_nats_behind_after_8_characters_may_win_in_the_end() -> None:
    model, text = made("rnn", seed=248), "ab___" + "cab\nbca" * 12  # found by trial: states so chaotic are rare
    best, _ = ranked(model, text)[0]
    after_8 = dict(ranked(model, text, 5 + 8))
    assert 9.0 < after_8[best] - min(after_8.values()) < infill._HOPELESS
    assert fill(model, VOCABULARY, Gapped.parse(text), 1, 64)[0].text == best


def test_hopeless_candidates_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, read = [], infill._Search._read

    def watched(
        self: infill._Search, model: LanguageModel, hypotheses: infill._Hypotheses, tokens: Tokens
    ) -> infill._Hypotheses:
        rows.append(tokens.shape)
        return read(self, model, hypotheses, tokens)

    monkeypatch.setattr(infill._Search, "_read", watched)
    model = chain(a={"b": 1 - 3e-9}, b={"c": 1 - 3e-9}, c={"a": 1 - 3e-9})
    fill(model, VOCABULARY, Gapped.parse("abcab_" + "abc" * 20), 1, 9)
    assert rows == [(3, 1), (3, 8), (1, 24), (1, 28), (1, 0)]


def test_the_requested_number_is_found_however_hopeless() -> None:
    sure = 1 - 3e-9  # anything else is 20 nats behind
    model = chain(start={"a": sure}, a={"b": sure}, b={"c": sure}, c={"a": sure})
    found = fill(model, VOCABULARY, Gapped.parse("abcab_" + "abc" * 20), 3, 9)
    assert len({filling.gaps for filling in found}) == 3
    assert found[0].gaps == ("c",)
    assert found[1].nats > found[0].nats + 20


# fillings


@every_model
@every_text
def test_only_the_gaps_change_and_each_keeps_its_length(cell: str, bidirectional: bool, text: str) -> None:
    gapped = Gapped.parse(text)
    for filling in fill(made(cell, bidirectional), VOCABULARY, gapped, 3, 2):
        assert filling.text == filled(text, "".join(filling.gaps))
        assert [len(gap) for gap in filling.gaps] == [end - start for start, end in gapped.gaps]
        assert set("".join(filling.gaps)) <= set(VOCABULARY.characters)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_filling_contains_no_excluded_character(bidirectional: bool) -> None:
    model, text = made(bidirectional=bidirectional), "a__\nb_"
    every, some = (fill(model, VOCABULARY, Gapped(text, ((1, 3), (5, 6)), out), 64, 64) for out in ("", "\nb鸟"))
    assert any("\n" in "".join(filling.gaps) for filling in every)
    assert {"".join(filling.gaps) for filling in some} == {"".join(way) for way in itertools.product("ac", repeat=3)}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_line_is_filled_without_a_newline_even_where_that_is_likeliest(bidirectional: bool) -> None:
    model = made(bidirectional=bidirectional)
    for name, bias in model.named_parameters():
        if name in {"head_bias", "backward_bias", "joint_bias"}:
            mislead(bias, "\n")
    assert "\n" not in fill(model, VOCABULARY, Gapped.parse("ab___c"))[0].text
    assert fill(model, VOCABULARY, Gapped.parse("b\na___c"))[0].text == "b\na\n\n\nc"


# scores


def test_the_score_is_of_the_gaps_and_of_the_known_text_after_the_first_gap() -> None:
    model, text = made(), "ca_b鸟_c"
    (found,) = fill(model, VOCABULARY, Gapped.parse(text))
    assert found.characters == 5
    assert found.nats == pytest.approx(nats_of(model, [found.text], 2)[0], rel=1e-12)
    assert found.bits_per_character == pytest.approx(found.nats / NATS_PER_BIT / 5, rel=1e-15)


def test_of_the_text_after_the_last_gap_the_first_128_characters_count() -> None:
    model, start = made(), "ba_c__" + "abc\nacb" * 18
    assert len(start) == 6 + 126
    first, second = (fill(model, VOCABULARY, Gapped.parse(start + "ba" + rest), 5, 64) for rest in ("c" * 99, "b鸟"))
    assert gaps_of(first) == gaps_of(second)
    assert [filling.nats for filling in first] == [filling.nats for filling in second]
    for filling in first:
        assert filling.characters == 4 + 128
        assert filling.nats == pytest.approx(nats_of(model, [filling.text], 2, 6 + 128)[0], rel=1e-12)


def test_all_of_the_text_between_two_gaps_counts() -> None:
    model, text = made(), "a_" + "bca" * 100 + "_c"
    (found,) = fill(model, VOCABULARY, Gapped.parse(text))
    best, nats = ranked(model, text)[0]
    assert (found.text, found.characters) == (best, 1 + 300 + 2)
    assert found.nats == pytest.approx(nats, rel=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_gap_far_inside_a_long_text_is_filled(bidirectional: bool) -> None:
    model, before, after = made("gru", bidirectional), "abc\nb" * 800, "cb\nca" * 800
    text = before + "__" + after
    (found,) = fill(model, VOCABULARY, Gapped.parse(text))
    assert found.text == before + found.gaps[0] + after
    assert found.characters == 2 + 128
    if not bidirectional:
        assert found.text == ranked(model, text[: 4002 + 128])[0][0] + text[4002 + 128 :]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("size", [WIDEST, WIDEST + 1, WIDEST + 15])
def test_a_gap_wider_than_the_joint_head_learns_is_filled(bidirectional: bool, size: int) -> None:
    (found,) = fill(made(bidirectional=bidirectional), VOCABULARY, Gapped.parse("ab" + "_" * size + "c"), 1, 3)
    assert (len(found.gaps[0]), len(found.text), found.characters) == (size, size + 3, size + 1)


def test_windows_of_any_size_read_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, gapped = made(bidirectional=True), Gapped.parse("ca_bbac__bca\nac")
    expected = fill(model, VOCABULARY, gapped, 9)
    monkeypatch.setattr(infill, "_MAX_LOGITS", 9)
    found = fill(model, VOCABULARY, gapped, 9)
    assert gaps_of(found) == gaps_of(expected)
    np.testing.assert_allclose([one.nats for one in found], [one.nats for one in expected], rtol=1e-12)


# candidates of a bidirectional model


Proposed = list[tuple[str, list[str]]]
ALTERNATING = {"c": {"b": 0.9}, "b": {"c": 0.9}}  # before c stands b, before b c


@pytest.fixture
def proposed(monkeypatch: pytest.MonkeyPatch) -> Proposed:
    """Record for each gap the suffix that the backward half reads, ? for an escape, and the candidates."""
    found: Proposed = []
    propose, read_suffix = infill._Search._candidates, infill._Search._read_suffix
    suffixes: list[str] = []

    def watched_candidates(
        self: infill._Search, before: infill._Hypotheses, size: int, after: infill._Hypotheses | None
    ) -> tuple[Tokens, Tokens]:
        parents, strings = propose(self, before, size, after)
        found.append((suffixes[-1], [VOCABULARY.decode(string) for string in strings]))
        return parents, strings

    def watched_suffix(self: infill._Search, suffix: Tokens) -> infill._Hypotheses | None:
        suffixes.append(VOCABULARY.decode(suffix).replace("\ufffd", "?"))
        return read_suffix(self, suffix)

    monkeypatch.setattr(infill._Search, "_candidates", watched_candidates)
    monkeypatch.setattr(infill._Search, "_read_suffix", watched_suffix)
    monkeypatch.setattr(infill, "_LAST_FACTOR", 1)
    return found


def test_the_backward_half_proposes_what_the_forward_half_cannot(proposed: Proposed) -> None:
    model = two_sided_chain({}, ALTERNATING)
    mislead(model.head_bias, "a")
    mislead(model.joint_bias, "a")
    fill(model, VOCABULARY, Gapped.parse("a____cab"), 1, 1)
    assert proposed == [("cab", ["aaaa", "cbcb"])]


def test_the_joint_head_proposes_what_the_forward_half_cannot(proposed: Proposed) -> None:
    model = two_sided_chain({}, ALTERNATING)
    mislead(model.head_bias, "a")
    mislead(model.backward_bias, "a")
    fill(model, VOCABULARY, Gapped.parse("a_cab"), 1, 1)
    assert proposed == [("cab", ["a", "b"])]


def test_the_joint_head_sees_how_much_of_the_gap_remains(proposed: Proposed) -> None:
    # it trusts the backward half where one character remains: only the last of three is surely b
    model = two_sided_chain({}, ALTERNATING)
    for bias in (model.head_bias, model.backward_bias):
        mislead(bias, "a")
    with torch.no_grad():
        model.joint_bias[VOCABULARY.characters.index("c")] = 1.0
    fill(model, VOCABULARY, Gapped.parse("a___c"), 1, 1)
    assert proposed == [("c", ["aaa", "ccb"])]


def test_a_causal_model_and_a_gap_at_the_end_have_only_forward_candidates(proposed: Proposed) -> None:
    model = two_sided_chain({}, ALTERNATING)
    mislead(model.head_bias, "a")
    fill(model, VOCABULARY, Gapped.parse("c__"), 1, 1)
    fill(chain(a={"c": 0.9}, c={"a": 0.9}), VOCABULARY, Gapped.parse("a__c"), 1, 1)
    assert proposed == [("", ["aa"]), ("c", ["ca"])]


def test_a_narrow_search_finds_with_both_sides_what_it_misses_with_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infill, "_LAST_FACTOR", 1)
    following = {"start": {"a": 0.6, "b": 0.3}, "b": {"c": 0.98}}
    one_sided, two_sided = chain(**following), two_sided_chain(following, {"c": {"b": 0.9}})
    assert fill(one_sided, VOCABULARY, Gapped.parse("_c"), 1, 1)[0].text == "ac"
    assert fill(two_sided, VOCABULARY, Gapped.parse("_c"), 1, 1)[0].text == "bc"
    assert fill(one_sided, VOCABULARY, Gapped.parse("_c"), 1, 3)[0].text == "bc"


def test_the_first_filling_is_read_to_the_right_of_each_gap(proposed: Proposed) -> None:
    fill(two_sided_chain({}, ALTERNATING), VOCABULARY, Gapped.parse("a_b__c"), 1, 9)
    (first, _), (last, _), (first_again, _), (last_again, _) = proposed
    assert (first, last, last_again) == ("b??c", "c", "c")
    assert first_again[0] + first_again[-1] == "bc"
    assert "?" not in first_again


def test_the_characters_in_a_gap_are_never_read(proposed: Proposed) -> None:
    model = made(bidirectional=True)
    first, second = (fill(model, VOCABULARY, Gapped(text, ((1, 2), (3, 5)), "\n")) for text in ("a_b__c", "aabaac"))
    assert first == second
    assert proposed[4:] == proposed[:4]
    assert proposed[0][0] == "b??c"


def test_a_causal_model_fills_its_gaps_once(proposed: Proposed) -> None:
    fill(made(), VOCABULARY, Gapped.parse("a_b__c"), 1, 9)
    assert len(proposed) == 2


# requests


@pytest.mark.parametrize("bidirectional", [False, True])
def test_filling_is_deterministic_and_leaves_the_global_generator_alone(bidirectional: bool) -> None:
    model, gapped, before = made("gru", bidirectional), Gapped.parse("ab_c__"), torch.get_rng_state()
    first = fill(model.train(), VOCABULARY, gapped, 5, 5)
    assert fill(model.train(), VOCABULARY, gapped, 5, 5) == first
    assert torch.equal(before, torch.get_rng_state())


def test_requesting_more_fillings_than_there_are_returns_all() -> None:
    assert len(fill(made(), VOCABULARY, Gapped.parse("a_c"), 99)) == 3


def test_more_fillings_than_the_width_can_be_requested() -> None:
    assert len(fill(made(), VOCABULARY, Gapped.parse("a__c"), 8, 1)) == 8


def test_bad_requests_are_refused_in_a_sentence() -> None:
    model, gapped = made(), Gapped.parse("a_b")
    with pytest.raises(MisuseError, match="num is 0; it must be at least 1"):
        fill(model, VOCABULARY, gapped, 0)
    with pytest.raises(MisuseError, match="beam is 0; it must be at least 1"):
        fill(model, VOCABULARY, gapped, 1, 0)
