"""The texts in data/ are the output of their generator, and its numbers about them are exact."""

import importlib.util
import math
import re
import statistics
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

DATA = Path(__file__).resolve().parent.parent / "data"


def load_generator() -> ModuleType:
    """Import data/generate.py, which is not in a package."""
    specification = importlib.util.spec_from_file_location("generate_data", DATA / "generate.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


generate = load_generator()
Lines = list[tuple[str, float]]
BEIJING = (DATA / "beijing.txt").read_text(encoding="utf-8")

TOY = """
line: text
  3 {pet}爱{pet2}
  1 一{pet.measure}{黑*3|白}{pet}，{pet}{跑|~}{pet.measure}
pet: name measure
  2 猫 只
  1 狗 条*3|只
  1 马 匹
"""


@pytest.fixture(scope="module")
def drawn() -> Lines:
    lines: Lines = generate.drawn(generate.beijing(), generate.BEIJING_LINES, generate.SEED)
    return lines


def toy() -> Any:
    return generate.Grammar(generate.read_tables(TOY))


def test_beijing_is_byte_for_byte_the_output_of_the_script(drawn: Lines) -> None:
    assert (DATA / "beijing.txt").read_bytes() == generate.text(drawn).encode()


def test_digits_is_byte_for_byte_the_output_of_the_script() -> None:
    lines = generate.drawn(generate.digits(), generate.DIGITS_LINES, generate.SEED)
    assert (DATA / "digits.txt").read_bytes() == generate.text(lines).encode()


def test_every_line_has_a_single_derivation_of_the_probability_drawn(drawn: Lines) -> None:
    for line, probability in drawn:
        assert generate.beijing().derivations(line) == [pytest.approx(probability, rel=1e-12)], line


def test_new_lines_have_a_single_derivation_as_well() -> None:
    for line, _ in generate.drawn(generate.beijing(), 3000, seed=7):
        assert len(generate.beijing().derivations(line)) == 1, line


def test_the_files_bits_agree_with_the_exact_entropy(drawn: Lines) -> None:
    bits = [-math.log2(probability) for _, probability in drawn]
    entropy, length = generate.beijing().entropy_and_length()
    characters = [len(line) + 1 for line, _ in drawn]
    for mean, measured in ((entropy, bits), (length, characters)):
        standard_error = statistics.stdev(measured) / math.sqrt(len(measured))
        assert abs(statistics.mean(measured) - mean) < 4 * standard_error
    assert 1.0 < entropy / length < 2.0


def test_the_toy_languages_probabilities_sum_to_one_and_give_its_entropy() -> None:
    grammar = toy()
    language = [
        (line, share * probability)
        for share, template in grammar.templates
        for line, probability in grammar.lines(template)
    ]
    assert len({line for line, _ in language}) == len(language) == 6 + 4 * 4
    assert math.fsum(probability for _, probability in language) == pytest.approx(1)
    assert dict(language)["狗爱猫"] == pytest.approx(3 / 4 * 1 / 4 * 2 / 3)
    assert dict(language)["一条黑狗，狗条"] == pytest.approx(1 / 4 * 1 / 4 * 3 / 4 * 3 / 4 * 1 / 2)
    entropy, length = grammar.entropy_and_length()
    assert entropy == pytest.approx(-sum(p * math.log2(p) for _, p in language))
    assert length == pytest.approx(sum(p * (len(line) + 1) for line, p in language))
    for line, probability in language:
        assert grammar.derivations(line) == [pytest.approx(probability)]


def test_a_template_of_the_real_language_enumerates_to_one() -> None:
    grammar = generate.beijing()
    language = dict(grammar.lines(generate.pieces("我爱{city}{city.love}")))
    assert math.fsum(language.values()) == pytest.approx(1)
    assert language["我爱北京天安门"] > 1.9 * language["我爱北京烤鸭"] > 0
    assert "我爱北京大熊猫" not in language


def test_entropies_of_independent_groups_add_up_to_the_templates() -> None:
    grammar = generate.beijing()
    template = generate.pieces("{month}月{week}{fruit.measure}{fruit}，{week2}，{fruit2}{fruit.measure}")
    parts = [grammar.sums(group, ()) for group in grammar.independent(template)]
    assert len(parts) == 6  # three groups, and three literal texts
    together = [math.fsum(column) for column in zip(*parts, strict=True)]
    assert together == pytest.approx(list(grammar.sums(template, ())))


def test_a_name_in_braces_means_the_same_throughout_a_line() -> None:
    for line, _ in generate.drawn(toy(), 50, seed=3):
        if match := re.fullmatch(r"一(.)[黑白](.)，(.)跑?(.)", line):
            assert match[1] == match[4]
            assert match[2] == match[3]
        else:
            assert line[0] != line[2]


def test_an_ambiguous_grammar_is_detected() -> None:
    grammar = generate.Grammar(generate.read_tables("line: text\n  {猫|猫*3}\n  狗\n"))
    assert len(grammar.derivations("猫")) == 2
    assert grammar.bits("猫") == pytest.approx(1)


def test_beijing_continues_with_tiananmen_then_duck_and_never_with_pandas() -> None:
    after = Counter(re.findall("我爱北京(天安门|烤鸭|故宫|长城|胡同|大熊猫)", BEIJING))
    assert after["天安门"] > 1.5 * after["烤鸭"]
    assert after["烤鸭"] > max(24, after["故宫"], after["长城"], after["胡同"])
    assert after["大熊猫"] == 0
    lines = Counter(BEIJING.split("\n"))
    assert min(lines["我爱北京天安门"], lines["我爱北京烤鸭"], lines["我爱成都大熊猫"]) > 12
    sight, duck, panda = (generate.bits("我爱北京" + end) for end in ("天安门", "烤鸭", "大熊猫"))
    assert sight < duck < panda == math.inf


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("小明买了一本很旧的书，很喜欢。", "小明买了一张很旧的书，很喜欢。"),
        ("我是法国人，我的母语是法语。", "我是法国人，我的母语是德语。"),
        ("因为小红渴了，所以她喝了一大杯水。", "因为小红渴了，所以他喝了一大杯水。"),
        ("二加三等于五，五减三等于二。", "二加三等于六，六减三等于二。"),
        ("“你从哪儿来？”“我从上海来。”", "“你从哪儿来？”“我从上海来。"),
    ],
)
def test_agreement_over_a_distance_is_a_law_of_the_language(right: str, wrong: str) -> None:
    assert generate.bits(right) < math.inf
    assert generate.bits(wrong) == math.inf


@pytest.mark.parametrize("line", ["", "你好", "我爱北京", "我爱北京天安门。", "012", "012345678" * 2])
def test_a_line_outside_has_infinite_bits(line: str) -> None:
    assert generate.bits(line) == math.inf


def test_quotes_and_brackets_close_in_every_line() -> None:
    partner = {"”": "“", "）": "（", "》": "《"}
    for line in BEIJING.splitlines():
        unclosed: list[str] = []
        for character in line:
            if character in partner.values():
                unclosed.append(character)
            elif character in partner:
                assert unclosed.pop() == partner[character], line
        assert not unclosed, line


def test_the_text_is_plain_lines() -> None:
    assert BEIJING.endswith("\n")
    assert not set(BEIJING) & set("\r\t \ufeff{}|*~")
    assert all(BEIJING[:-1].split("\n"))
    assert 300_000 < len(BEIJING.encode()) < 400_000


def test_digits_count_three_times_around() -> None:
    lines = (DATA / "digits.txt").read_text(encoding="utf-8").splitlines()
    assert {line[0] for line in lines} == set("012345678")
    for line in lines:
        assert len(line) == 27
        assert all(int(after) == (int(before) + 1) % 9 for before, after in pairwise(line))
        assert generate.bits(line) == pytest.approx(math.log2(9))
    entropy, length = generate.digits().entropy_and_length()
    assert (entropy, length) == (pytest.approx(math.log2(9)), 28)


def test_scores_are_printed_line_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some.txt").write_text("我爱北京天安门\n我爱北京大熊猫\n", encoding="utf-8")
    generate.main(["--score", str(tmp_path / "some.txt")])
    output = capsys.readouterr()
    first, second = (line.split("\t") for line in output.out.splitlines())
    bits = generate.bits("我爱北京天安门")
    assert first == [f"{bits / 8:.4f}", f"{bits:.4f}", "8", "我爱北京天安门"]
    assert second == ["inf", "inf", "8", "我爱北京大熊猫"]
    assert output.err.startswith("1 of 2 lines belong")


def test_a_missing_file_is_reported_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        generate.main(["--score", str(tmp_path / "nowhere.txt")])
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("line: text\n  我 爱\n", "line 2 of the grammar"),
        ("line: text\n  我{爱\n", "not closed"),
        ("line: text\n  我}爱\n", "not opened"),
        ("line: text\n  我||爱\n", "alternative is empty"),
        ("line: text\n  我爱{town}\n", "no table is named 'town'"),
        ("line: text\n  我爱{line.food}\n", "no column 'food'"),
        ("line: text\n  我爱{line}\n", "mentions itself"),
    ],
)
def test_a_broken_grammar_is_rejected(source: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        generate.Grammar(generate.read_tables(source))


def test_drawing_depends_on_the_seed_alone() -> None:
    grammar = generate.beijing()
    assert grammar.draw(Random(5)) == grammar.draw(Random(5))
    assert generate.drawn(grammar, 5, seed=1) != generate.drawn(grammar, 5, seed=2)
