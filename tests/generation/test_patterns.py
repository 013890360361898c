"""Claims about sampling in the form of a regular expression, with Python's own re as the judge."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import charrnn as package
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import MisuseError
from charrnn.generation import beam_search, patterns, sampling
from charrnn.generation.copying import CopyIndex
from charrnn.generation.filters import Filters
from charrnn.generation.patterns import Pattern, PatternAutomaton, PatternProgress
from charrnn.generation.sampling import Sample, Sampler
from charrnn.generation.stop_texts import StopTexts
from charrnn.models import likelihood, ngram
from charrnn.models.ngram import Ngram
from tests.conftest import Charrnn, close

TEXT = "abca春\nbca b春c\nacb\n\n" * 9
VOCABULARY = Vocabulary.from_text(TEXT)
ATOMS = [
    "a",
    "b",
    "春",
    r"\n",
    ".",
    "[ab]",
    "[^a]",
    r"[^\W春]",
    r"\w",
    r"\s",
    r"\S",
    r"\D",
    r"\u6625",
    "(?i:A)",
    "(?s:.)",
]
REPEATS = ["*", "+", "?", "{2}", "{1,}", "{,2}", "{0,3}", "*?", "+?", "??", "{1,2}?"]


def joined(inside: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inside, min_size=1, max_size=3).map("".join),
        st.lists(inside | st.just(""), min_size=2, max_size=3).map(lambda branches: f"({'|'.join(branches)})"),
        st.tuples(inside, st.sampled_from(REPEATS)).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    )


expressions = st.recursive(st.sampled_from(ATOMS), joined, max_leaves=6)
texts = st.text("aab春\n", max_size=6)
stop_texts = st.lists(st.text("ab\n春", min_size=1, max_size=3), max_size=2)
filters = st.sampled_from(
    [
        Filters(),
        Filters(min_p=0.3),
        Filters(top_k=1),
        Filters(top_p=0.2),
        Filters(temperature=0.3),
        Filters(greedy=True),
    ]
)


def model(text: str = TEXT, order: int = 3) -> Ngram:
    tokens = VOCABULARY.encode(text)
    *_, last = zip(range(order), ngram.grow(tokens, VOCABULARY.boundary_tokens[0], len(VOCABULARY)), strict=False)
    return last[1]


MODEL = model()


def write(
    pattern: str, length: int = 500, prime: str = "", num: int = 1, filters: Filters | None = None, **more: object
) -> list[Sample]:
    sampler = Sampler(
        MODEL,
        VOCABULARY,
        [prime] * num,
        length,
        filters or Filters(),
        seed=3,
        indices=range(num),
        pattern=Pattern(pattern),
        **more,  # type: ignore[arg-type]
    )
    streamed = [""] * num
    for step in sampler:
        streamed = [before + added for before, added in zip(streamed, step, strict=True)]
    assert streamed == [made.text for made in sampler.samples]
    return sampler.samples


def follow(automaton: PatternAutomaton, text: str, prime: str = "") -> PatternProgress | None:
    """Write a text; None where a character of it is masked."""
    progress = PatternProgress(automaton, prime, 99)
    for token in VOCABULARY.encode(text).tolist():
        if progress.mask()[token] < 0:
            return None
        progress.add(token)
    return progress


@given(expressions, st.lists(texts, min_size=1, max_size=5))
def test_the_automaton_accepts_what_re_matches(expression: str, written: list[str]) -> None:
    automaton = Pattern(expression).automaton(VOCABULARY, StopTexts(None))
    for text in written:
        try:
            progress = follow(automaton, text)
        except MisuseError:  # nothing of this vocabulary matches
            assert not re.fullmatch(expression, text)
            continue
        assert (progress is not None and progress.matches) == bool(re.fullmatch(expression, text))


@given(expressions, texts, stop_texts, st.integers(1, 8), st.randoms(use_true_random=False))
def test_no_text_leads_to_a_dead_end(
    expression: str, prime: str, until: list[str], length: int, chance: random.Random
) -> None:
    """Whatever is drawn of what is permitted, and taken back again, the text can be finished and then matches."""
    stops = StopTexts(until)
    try:
        progress = PatternProgress(Pattern(expression).automaton(VOCABULARY, stops), prime, length, 8)
    except MisuseError:
        return
    text, matched = "", stops.after(prime)
    while not progress.ends and len(text) < length and not (text and stops.found[matched]):
        permitted = np.flatnonzero(progress.mask() == 0).tolist()
        assert permitted
        if text and chance.random() < 0.2:
            count = chance.randint(1, len(text))
            progress.remove(count)
            text = text[:-count]
            same = PatternProgress(progress.automaton, prime, length)
            for token in VOCABULARY.encode(text).tolist():
                same.add(token)
            assert (same.remaining, same.states) == (progress.remaining, progress.states)
            assert [same.cut(count) for count in range(4)] == [progress.cut(count) for count in range(4)]
        else:
            token = chance.choice(permitted)
            progress.add(token)
            text += VOCABULARY.characters[token]
        matched = stops.after(prime + text)
    kept = text[: len(text) - progress.cut(stops.found[matched])] if text and stops.found[matched] else text
    assert re.fullmatch(expression, kept)
    assert not any(stop in kept for stop in until)


@given(expressions, texts, stop_texts, st.integers(1, 12), filters)
def test_every_sample_matches(expression: str, prime: str, until: list[str], length: int, settings: Filters) -> None:
    try:
        samples = write(expression, length, prime, 3, settings, until=until)
    except MisuseError:
        return
    for made in samples:
        assert re.fullmatch(expression, made.text)
        assert not any(stop in made.text for stop in until)
        assert len(made.text) == made.characters <= length
        assert made.ended_by != "length" or len(made.text) == length


@given(texts, stop_texts, st.integers(1, 12), filters)
def test_a_pattern_of_any_text_changes_nothing(prime: str, until: list[str], length: int, settings: Filters) -> None:
    sampler = Sampler(MODEL, VOCABULARY, [prime] * 3, length, settings, seed=3, indices=range(3), until=until)
    for _ in sampler:
        pass
    assert write("(?s).*", length, prime, 3, settings, until=until) == sampler.samples
    found = beam_search.search(MODEL, VOCABULARY, prime, length, 3, until)
    assert beam_search.search(MODEL, VOCABULARY, prime, length, 3, until, pattern=Pattern("(?s).*")) == found


@given(expressions, st.integers(1, 12), st.integers(2, 4), st.booleans())
def test_every_sample_that_is_finished_matches_without_copies_and_repeats(
    expression: str, length: int, run: int, greedy: bool
) -> None:
    copies = CopyIndex(np.array([ord(character) for character in TEXT], dtype=np.uint32), 4)
    try:
        samples = write(expression, length, "a", 3, Filters(greedy=greedy), no_copy=copies, no_repeat=run)
    except MisuseError:
        return
    for made in samples:
        assert made.ended_by == "exhausted" or re.fullmatch(expression, made.text)
        assert not any(("a" + made.text)[at : at + 4] in TEXT for at in range(len(made.text) - 2))


@given(expressions, texts, stop_texts, st.integers(1, 8), st.integers(1, 5))
def test_every_text_of_a_search_matches(expression: str, prime: str, until: list[str], length: int, width: int) -> None:
    try:
        found = beam_search.search(MODEL, VOCABULARY, prime, length, width, until, pattern=Pattern(expression))
    except MisuseError:
        return
    assert found
    assert len({made.text for made in found}) == len(found)
    for made in found:
        assert re.fullmatch(expression, made.text)
        assert not any(stop in made.text for stop in until)


@given(expressions, texts, stop_texts, filters)
def test_masked_probabilities_add_up_to_one(expression: str, prime: str, until: list[str], settings: Filters) -> None:
    stops = StopTexts(until)
    try:
        progress = PatternProgress(Pattern(expression).automaton(VOCABULARY, stops), prime, 7)
    except MisuseError:
        return
    chance = np.random.default_rng(1)
    matched = stops.after(prime)
    while not progress.ends and progress.remaining:
        mask = progress.mask()
        probabilities = settings(chance.normal(0, 9, len(VOCABULARY)) + mask)
        close(probabilities.sum(), 1)
        assert not probabilities[mask < 0].any()
        token = int(probabilities.argmax())
        progress.add(token)
        matched = stops.step(matched, VOCABULARY.characters[token])
        if stops.found[matched]:
            return


def test_the_mask_renormalises_what_may_follow() -> None:
    """a and b are as likely as they were to each other, however unlikely what then must follow them is."""
    made = write("ab|b春", num=4_000)
    share = sum(one.text == "ab" for one in made) / len(made)
    first = likelihood.all_nats(
        VOCABULARY, MODEL.step(np.array([[VOCABULARY.boundary_tokens[0]]]), MODEL.initial_state(1))[0]
    )[0]
    a, b = np.exp(-first[VOCABULARY.encode("ab")])
    assert share == pytest.approx(a / (a + b), abs=0.03)


def test_nats_are_those_of_the_model_without_the_mask() -> None:
    (made,) = write("b春c", prime="b")
    state, nats = MODEL.initial_state(1), list[float]()
    for character, following in zip("\nb" + made.text[:-1], "b" + made.text, strict=True):
        logits, state = MODEL.step(VOCABULARY.encode(character)[None].astype(np.int64), state)
        nats.append(float(likelihood.all_nats(VOCABULARY, logits)[0][VOCABULARY.encode(following)[0]]))
    assert made.nats == pytest.approx(sum(nats[1:]))


def test_a_sample_ends_where_nothing_can_follow() -> None:
    (made,) = write("[ab]{3}")
    assert (len(made.text), made.ended_by) == (3, "pattern")
    (made,) = write("(?s).*", 20)
    assert (len(made.text), made.ended_by) == (20, "length")
    (made,) = write("(ab)*", 7)  # another pair would not fit
    assert (made.text, made.ended_by) == ("ababab", "pattern")
    (made,) = write("a{0}")
    assert (made.text, made.ended_by, made.bits_per_character) == ("", "pattern", None)
    (found,) = beam_search.search(MODEL, VOCABULARY, "", 5, 3, pattern=Pattern("(?:)"))
    assert (found.text, found.ended_by) == ("", "pattern")


def test_the_samples_of_a_batch_end_each_in_its_own_time() -> None:
    many = write(r"[^\n]+\n", 30, num=9)
    assert len({len(made.text) for made in many}) > 1
    assert all(re.fullmatch(r"[^\n]+\n", made.text) for made in many)
    assert many[:3] == write(r"[^\n]+\n", 30, num=3)


def test_a_stop_text_may_overlap_with_the_end_of_the_form() -> None:
    """The newline of the last line begins the empty line, and stays."""
    for made in write(r"([^\n]{3}\n){2,}", 400, num=9, until="\n\n"):
        assert made.ended_by == "until"
        assert re.fullmatch(r"([^\n]{3}\n){2,}", made.text)
    form = Pattern(r"([^\n]{2}\n)+")
    ended = beam_search.search(MODEL, VOCABULARY, "", 9, 9, "\n\n", pattern=form)
    assert {made.ended_by for made in ended} >= {"until"}
    assert all(re.fullmatch(form.source, made.text) for made in ended)
    # of several positions it is the first that matches: what comes before the stop text
    for made in write("(?s).*", 400, num=9, until="\n\n"):
        assert made.ended_by == "until"
        assert "\n\n" not in made.text + "x"
        assert not made.text.endswith("\n")


def test_a_stop_text_ends_nothing_that_does_not_match() -> None:
    for made in write(r"a.{5}(.b)*", 40, num=9, until="b"):
        assert made.text.find("b") == -1
        assert re.fullmatch(r"a.{5}(.b)*", made.text)
    assert all(re.fullmatch(".{3}", made.text) for made in write(".{3}", num=99, until="bc"))


def test_a_shorter_stop_text_inside_a_longer_one_ends_nothing_too_early() -> None:
    """c matches, and the longer text may end it; but b is complete first, and what is before that does not match."""
    automaton = Pattern("c(a.c)?").automaton(VOCABULARY, StopTexts(["abc", "b"]))
    assert follow(automaton, "cac") is not None
    assert follow(automaton, "cab") is None


def test_a_stop_text_that_begins_in_the_prime_adds_nothing() -> None:
    (first,) = write("(?s).", 1, "a\n", filters=Filters(greedy=True))
    (made,) = write("(?s).*", 9, "a\n", filters=Filters(greedy=True), until="\n" + first.text)
    assert (made.text, made.ended_by) == ("", "until")
    # where the empty text does not match, the stop text cannot be completed
    assert not any(made.text.startswith("b") for made in write(r"\w+", 9, "a\n", num=20, until="\nb"))


def test_the_boundary_of_files_is_matched_by_no_pattern() -> None:
    files = Vocabulary.from_text("ab\0\n" * 5, 1)
    automaton = Pattern(r"(?s)[^b]+").automaton(files, StopTexts(None, "\0"))
    progress = PatternProgress(automaton, "", 9)
    permitted = {files.characters[token] for token in np.flatnonzero(progress.mask() == 0)}
    assert permitted == {"a", "\n"}
    progress.add(files.characters.index("a"))
    assert progress.mask()[files.characters.index("\0")] == 0  # as the end of what matches


def test_an_acrostic_and_a_quatrain() -> None:
    assert re.fullmatch("a.{3}b\nb.{3}b\n", write("a.{3}b\nb.{3}b\n")[0].text)
    (made,) = write(r"([^\n]{2}春\n){4}", until="\n\n")
    assert [line[2] for line in made.text.splitlines()] == list("春春春春")


def test_a_pattern_whose_deterministic_automaton_explodes_takes_little_memory() -> None:
    """.*a.{20} has two million states as a deterministic automaton."""
    pattern = Pattern(".*a.{20}")
    assert len(pattern.atoms) < 30
    automaton = pattern.automaton(VOCABULARY, StopTexts(None))
    (made,) = write(".*a.{20}", 300)
    assert re.fullmatch(".*a.{20}", made.text)
    assert follow(automaton, "".join(np.random.default_rng(1).choice(list("ab春c"), 70))) is not None
    assert len(automaton._known) <= 71


def test_what_was_met_is_remembered_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_MAX_REMEMBERED", 400)
    automaton = Pattern("(?:a.{3}|.)*").automaton(VOCABULARY, StopTexts(None))
    progress = PatternProgress(automaton, "", 999)
    for token in np.random.default_rng(2).choice(np.flatnonzero(progress.mask() == 0), 500).tolist():
        progress.add(token)
        assert automaton._remembered <= 400
        assert len(automaton._known) < 40


WRONG = [
    ("(ab", r"pattern is no regular expression: missing \), unterminated subpattern at position 0\."),
    ("a{3}{2}", "pattern is no regular expression: multiple repeat at position 4"),
    ("", "pattern is empty; name an expression, or leave it out"),
    (r"(a)\1", r"pattern has \\1 at position 3, and a back-reference is not supported; write out what it is to match"),
    ("(?P<x>a)(?P=x)", "a back-reference is not supported"),
    ("(?=a)a", "looking ahead or behind is not supported; write the cases as alternatives"),
    ("(?<!a)b", "looking ahead or behind is not supported"),
    (r"\bab", "a word boundary is not supported"),
    ("(a)?(?(1)b|c)", "a conditional is not supported"),
    ("a^b", r"pattern has \^ at position 1, and an anchor inside is not supported; the whole text is matched anyway"),
    ("(a$)b", "an anchor inside is not supported"),
    ("(?x)a b", "spaces and comments in it are not supported"),
    ("(a{1000}){1000}", "states, more than 100,000; repeat less"),
    ("(a?){99999999999}", "repeat"),
    ("(" * 3000 + ")" * 3000, "nests its groups too deeply"),
    ("[qz]a", r"cannot be met: no character of the model's vocabulary matches \[qz\]"),
    ("夏a|秋b", "vocabulary matches 夏, 秋"),
    ("a{501}", "has 501 characters, and length is 500; raise it"),
]


@pytest.mark.parametrize(("expression", "message"), WRONG)
def test_what_cannot_be_is_refused_in_a_sentence(expression: str, message: str) -> None:
    with pytest.raises(MisuseError, match=message):
        write(expression)


def test_a_form_that_a_stop_text_would_cut_is_refused() -> None:
    with pytest.raises(MisuseError, match=r"every text that matches it contains a text that ends the sample \('\\n'\)"):
        write(r".{3}\n", until="\n")
    with pytest.raises(MisuseError, match="leave keep_until out"):
        write("a", until="b", keep_until=True)
    assert write("a|夏")[0].text == "a"  # what the vocabulary lacks may stand in another branch


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("^ab$|^b$", "ab"),
        (r"\Aab\Z", "ab"),
        ("(?i)^AB", "ab"),
        ("a(?#twice){2}", "aa"),
        ("(?P<first>a)b", "ab"),
        ("a{,2}b", "aab"),
        ("(?s:.)b", "\nb"),
        (r"[]a]\x62", "ab"),
        (r"[\]a-b]\142", "ab"),
        (r"\N{LATIN SMALL LETTER A}b", "ab"),
    ],
)
def test_what_re_reads_is_read_as_it_does(expression: str, text: str) -> None:
    assert re.fullmatch(expression, text)
    progress = follow(Pattern(expression).automaton(VOCABULARY, StopTexts(None)), text)
    assert progress is not None
    assert progress.matches


def test_no_warning_of_python_reaches_the_user() -> None:
    """Of what looks like a set within a class, `re` warns that a later version may read it otherwise."""
    assert write("[[a]b")[0].text == "ab"


def test_a_brace_may_be_a_literal() -> None:
    vocabulary = Vocabulary.from_text("a{}3\n")
    automaton = Pattern("a{3a{}").automaton(vocabulary, StopTexts(None))
    progress = PatternProgress(automaton, "", 9)
    for character in "a{3a{}":
        assert progress.mask()[vocabulary.characters.index(character)] == 0
        progress.add(vocabulary.characters.index(character))
    assert progress.ends


def test_the_command_line_writes_in_a_form(charrnn: Charrnn, runs: dict[str, Path]) -> None:
    for kind in runs:
        common = ["sample", "-m", str(runs[kind]), "--pattern", r"t.{5}[^\s]", "--seed", "1"]
        for more in ([], ["-k", "3"], ["--beam", "4"], ["--greedy"], ["--no-copy", "30", "--no-repeat", "5"]):
            result = charrnn(*common[: -2 if "--beam" in more else None], *more)
            assert result.exit_code == 0, result.output
            for line in filter(None, result.stdout.splitlines()):
                assert re.fullmatch(r"t.{5}[^\s]", line)
    result = charrnn(*common, "--json")
    assert json.loads(result.stdout)["ended_by"] == "pattern"


def test_each_line_is_continued_in_a_form(charrnn: Charrnn, runs: dict[str, Path]) -> None:
    common = ["sample", "-m", str(runs["causal"]), "--each-line", "--pattern"]
    result = charrnn(*common, "..[ae]?", stdin="th\nan\n")
    assert result.exit_code == 0, result.output
    assert [re.fullmatch("(th|an)..[ae]?", line) is not None for line in result.stdout.splitlines()] == [True, True]
    result = charrnn(*common, r"..\n", stdin="th\n")
    assert result.exit_code == 2
    assert "contains a text that ends the sample" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pattern", "(a"], "--pattern is no regular expression: missing ), unterminated subpattern"),
        (["--pattern", ""], "--pattern is empty"),
        (["--pattern", "a{9}", "-n", "4"], "has 9 characters, and -n/--length is 4"),
        (["--pattern", "龍.*"], "--pattern cannot be met: no character of the model's vocabulary matches 龍"),
        (["--pattern", "a", "--infill", "a_"], "--pattern"),
        (["--pattern", "a", "--suffix", "a", "-n", "3"], "--pattern"),
        (["--pattern", "a", "--until", "a", "--keep-until"], "--keep-until"),
    ],
)
def test_a_wrong_pattern_is_misuse(charrnn: Charrnn, runs: dict[str, Path], arguments: list[str], message: str) -> None:
    result = charrnn("sample", "-m", str(runs["causal"]), *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2


def test_python_writes_in_a_form(runs: dict[str, Path]) -> None:
    model = package.load(runs["causal"])
    assert re.fullmatch("t.{4}", model.sample(pattern="t.{4}", seed=1))
    assert "".join(model.stream(pattern="t.{4}", seed=1)) == model.sample(pattern="t.{4}", seed=1)
    assert all(re.fullmatch("t.{4}", text) for text in model.sample(num=3, pattern="t.{4}", no_repeat=4))
    assert all(re.fullmatch("t.?", found.text) for found in model.search(width=3, pattern="t.?"))
    with pytest.raises(MisuseError, match="pattern is 3; it must be a str"):
        model.sample(pattern=3)  # type: ignore[call-overload]
    with pytest.raises(MisuseError, match="pattern is no regular expression"):
        model.stream(pattern="(")


def test_without_a_pattern_nothing_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(sampling, "PatternProgress", refused)
    sampler = Sampler(MODEL, VOCABULARY, [""], 5, Filters(), seed=1, indices=[0])
    assert len(list(sampler)) == 5
