"""Dynamic evaluation scores first, then updates a copy; it gains where a text changes, and never beats the entropy."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charrnn.checkpoints import model_file
from charrnn.config.schema import Config, ModelConfig
from charrnn.data.vocabulary import Vocabulary
from charrnn.errors import CharRNNError
from charrnn.evaluation import dynamic, dynamic_tuning, scoring
from charrnn.evaluation.dynamic import DynamicEvaluator, UpdateRule
from charrnn.generation.filters import Filters
from charrnn.generation.sampling import Sampler
from charrnn.models.char_rnn import CharRNN
from charrnn.models.factory import make_model
from charrnn.models.losses import Losses
from charrnn.models.torch_model import TorchModel
from charrnn.scores import NATS_PER_BIT
from tests.conftest import CELLS, TEXT, Charrnn, settings
from tests.training.test_entropy import draw, learn, markov_source

VOCABULARY = Vocabulary.from_text(TEXT)
OTHER = "jackdaws love my big sphinx of quartz, 鸟!\n" * 3  # with unknown characters
OPTIONS: list[dict[str, object]] = [
    *(dict[str, object](cell=cell, activation=activation) for cell, activation in CELLS),
    {"cell": "lstm", "tie_weights": True, "layer_norm": True},
    {"cell": "gru", "leak": 0.5, "time_skip": 3, "residual": True},
    {"cell": "lstm", "bidirectional": True},
]


def small(**options: object) -> CharRNN:
    config = ModelConfig.model_validate(
        {"hidden_size": 7, "num_layers": 2, "embedding_size": 4, "dropout": 0.3, "tie_weights": False, **options}
    )
    model = make_model(config, len(VOCABULARY))
    assert isinstance(model, CharRNN)
    model.initialise(torch.Generator().manual_seed(3))
    return model.eval()


def dynamic_nats(evaluator: DynamicEvaluator, text: str) -> np.ndarray:
    """Return the nats of each character of a text."""
    return np.concatenate([block.nats for block in evaluator.characters(evaluator.vocabulary.encode(text))])


def static_nats(model: CharRNN, vocabulary: Vocabulary, text: str) -> np.ndarray:
    return np.concatenate([block.nats for block in scoring.characters(model, vocabulary, vocabulary.encode(text))])


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> None:
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_at_rate_0_the_score_is_the_static_one(options: dict[str, object]) -> None:
    model = small(**options)
    evaluator = DynamicEvaluator.of(model, VOCABULARY, UpdateRule(0.0, 0.1))
    np.testing.assert_allclose(dynamic_nats(evaluator, OTHER), static_nats(model, VOCABULARY, OTHER), rtol=0, atol=2e-5)
    score = evaluator.evaluate(VOCABULARY.encode(OTHER))
    plain = scoring.evaluate(model, VOCABULARY, VOCABULARY.encode(OTHER), exact=True).score
    assert score.characters == plain.characters == len(OTHER)
    assert score.correct == plain.correct
    assert score.nats == pytest.approx(plain.nats, rel=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_model_is_not_changed_and_a_repetitive_text_scores_better(options: dict[str, object]) -> None:
    model = small(**options)
    before = weights(model)
    evaluator = DynamicEvaluator.of(model, VOCABULARY, UpdateRule(0.2))
    first, second = dynamic_nats(evaluator, TEXT), dynamic_nats(evaluator, TEXT)
    assert_same(model, before)
    np.testing.assert_array_equal(first, second)  # the first evaluation left no trace
    assert first.mean() < static_nats(model, VOCABULARY, TEXT).mean() - 0.05
    np.testing.assert_allclose(first[:20], static_nats(model, VOCABULARY, TEXT)[:20], rtol=0, atol=2e-5)


EVALUATOR = DynamicEvaluator.of(small(), VOCABULARY, UpdateRule(0.5, 0.01))
BASE_NATS = dynamic_nats(EVALUATOR, TEXT[:90])


@given(st.integers(0, 89), st.sampled_from(sorted(set(TEXT) | {"鸟"})))
def test_no_character_affects_the_scores_before_it(position: int, character: str) -> None:
    changed = dynamic_nats(EVALUATOR, TEXT[:position] + character + TEXT[position + 1 : 90])
    # up to the last bits: rounding of matrix products depends on where their operands lie in memory
    np.testing.assert_allclose(changed[:position], BASE_NATS[:position], rtol=1e-6)


def test_an_update_is_that_of_the_paper() -> None:
    model = small()
    rule, rms = UpdateRule(0.4, 0.2), dynamic.gradient_rms(model, VOCABULARY)
    trained = [weight.detach().clone() for weight in model.parameters()]
    updater = dynamic._Updater(model, rms, rule)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    moved = [weight.detach().clone() for weight in model.parameters()]
    tokens = torch.from_numpy(VOCABULARY.encode(TEXT[:21]).astype(np.int64))[None]
    loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1], model.initial_state(1))[0][0], tokens[0, 1:])
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    updater.update(loss)

    mean = torch.cat([r.flatten() for r in rms]).mean()
    floor = dynamic._EPSILON * mean
    gain = torch.cat([(r**2 / (r + floor)).flatten() for r in rms]).sum()
    for after, w0, w, g, r in zip(model.parameters(), trained, moved, gradients, rms, strict=True):
        expected = w + (0.2 * r / mean).clamp(max=1) * (w0 - w) - 0.4 / gain * g / (r + floor)
        torch.testing.assert_close(after.detach(), expected)


def test_the_rate_is_how_much_an_update_lowers_the_loss_of_an_average_segment() -> None:
    model = small()
    rms = dynamic.gradient_rms(model, VOCABULARY)
    sampler = Sampler(TorchModel(model), VOCABULARY, [""], 2000, Filters(temperature=1.0), seed=5, indices=[0])
    for _ in sampler:
        pass
    tokens = VOCABULARY.encode(sampler.samples[0].text)
    state, gains, rate = model.initial_state(1), [], 1e-3
    for first in range(0, 2000, dynamic.SEGMENT):
        moved = small()
        updater = dynamic._Updater(moved, rms, UpdateRule(rate, 0.0))
        window = dynamic._window(tokens[None], first, VOCABULARY.boundary_tokens)
        generator = torch.Generator()
        loss, after = dynamic._losses(moved, VOCABULARY, window, state, generator)
        updater.update(loss.total())
        with torch.no_grad():
            gains.append(float(loss.total() - dynamic._losses(moved, VOCABULARY, window, state, generator)[0].total()))
        state = after.detach()
    assert np.mean(gains) == pytest.approx(rate, rel=0.25)


@pytest.mark.parametrize("rate", [1e6, 1e30, 1e39], ids=str)
def test_diverged_weights_are_reported(rate: float, charrnn: Charrnn, runs: dict[str, Path]) -> None:
    """Even if they are finite: which numbers overflow depends on the processor."""
    with pytest.raises(CharRNNError, match="--dynamic-rate"):
        dynamic_nats(replace(EVALUATOR, rule=UpdateRule(rate)), TEXT)
    result = charrnn("evaluate", "-m", str(runs["causal"]), "--dynamic", "--dynamic-rate", f"{rate:g}")
    assert result.exit_code == 1
    assert "too high" in result.stderr


# Sources whose entropy is known


@pytest.fixture(scope="module")
def markov(tmp_path_factory: pytest.TempPathFactory) -> tuple[CharRNN, Vocabulary]:
    """Train a model on a Markov source."""
    folder = tmp_path_factory.mktemp("markov")
    (folder / "source.txt").write_text(draw(markov_source(5), 60_000, 1)[0])
    sizes = ("model.hidden_size=24", "model.embedding_size=8", "train.batch_size=16", "train.sequence_length=32")
    training = learn(
        str(folder / "run"),
        str(folder / "source.txt"),
        *sizes,
        "train.steps=500",
        "train.eval_every=500",
        "train.learning_rate=0.02",
    )
    assert isinstance(training.model, CharRNN)
    return training.model, training.vocabulary


def test_what_cannot_be_predicted_is_not_learnt(markov: tuple[CharRNN, Vocabulary]) -> None:
    text, true_bits = draw(markov_source(5), 10_000, 2)
    for rate in (0.01, 0.2):
        bits = dynamic_nats(DynamicEvaluator.of(*markov, UpdateRule(rate)), text) / NATS_PER_BIT
        difference = (bits - true_bits)[1:]
        assert difference.mean() > -3 * difference.std() / math.sqrt(
            len(difference)
        )  # below the entropy, the text leaks
        assert bits.mean() < 1.15 * true_bits.mean()  # and nothing is forgotten


def test_dynamic_evaluation_adapts_to_a_text_that_changes_half_way(markov: tuple[CharRNN, Vocabulary]) -> None:
    (familiar, _), (unfamiliar, true_bits) = draw(markov_source(5), 2_000, 2), draw(markov_source(6), 4_000, 3)
    evaluator = DynamicEvaluator.of(*markov, UpdateRule(0.2))
    adapted, plain = (
        nats / NATS_PER_BIT
        for nats in (dynamic_nats(evaluator, familiar + unfamiliar), static_nats(*markov, familiar + unfamiliar))
    )
    assert adapted[2_000:].mean() < 0.8 * plain[2_000:].mean()
    assert adapted[5_000:].mean() < adapted[2_000:3_000].mean()
    assert adapted[5_000:].mean() > true_bits[3_000:].mean()


def test_tuning_finds_a_higher_rate_for_an_unfamiliar_text(markov: tuple[CharRNN, Vocabulary]) -> None:
    evaluator, vocabulary = DynamicEvaluator.of(*markov), markov[1]
    same, tried = evaluator.tune(vocabulary.encode(draw(markov_source(5), 2_000, 7)[0]))
    other, _ = evaluator.tune(vocabulary.encode(draw(markov_source(6), 2_000, 7)[0]))
    assert same.rate < UpdateRule.rate <= other.rate
    assert min(tried, key=lambda each: each[1].nats)[0] == same
    assert len({rule for rule, _ in tried}) == len(tried)


# Adapting to a text before sampling


def test_a_bidirectional_model_adapts_all_of_its_heads() -> None:
    model = small(cell="lstm", bidirectional=True)
    before = weights(model)
    tokens = VOCABULARY.encode(OTHER)
    adapted, score = dynamic.adapt(model, VOCABULARY, tokens, UpdateRule(0.3))
    assert_same(model, before)
    assert score.characters == len(OTHER)
    window = dynamic._window(tokens[None], 0, VOCABULARY.boundary_tokens)

    @torch.no_grad()
    def losses(of: CharRNN) -> Losses:
        return dynamic._losses(of, VOCABULARY, window, of.initial_state(1), torch.Generator().manual_seed(1))[0]

    for after, was in zip(losses(adapted)[:3], losses(model)[:3], strict=True):
        assert after is not None
        assert was is not None
        assert float(after) < float(was) - 0.05


def test_adapting_scores_what_dynamic_evaluation_scores() -> None:
    model, tokens, rule = small(cell="gru"), VOCABULARY.encode(OTHER), UpdateRule(0.3, 0.01)
    adapted, score = dynamic.adapt(model, VOCABULARY, tokens, rule)
    assert score.nats == pytest.approx(DynamicEvaluator.of(model, VOCABULARY, rule).evaluate(tokens).nats, rel=1e-5)
    assert static_nats(adapted, VOCABULARY, OTHER).sum() < score.nats < static_nats(model, VOCABULARY, OTHER).sum()


@pytest.mark.parametrize(
    "options",
    [
        ["-n", "9", "--seed", "1"],
        ["-n", "9", "--seed", "1", "-k", "3", "-p", "the "],
        ["-n", "9", "--seed", "1", "--each-line"],
        ["-n", "9", "--beam", "3"],
        ["--infill", "th_ quick _________ __x"],
        ["-p", "the ", "--suffix", "fox", "-n", "3"],
    ],
    ids=" ".join,
)
def test_adapting_precedes_every_way_of_sampling(options: list[str], either: str, here: Path, charrnn: Charrnn) -> None:
    (here / "read.txt").write_text("zzz zz z\n" * 80)
    file = Path(either) / "best.safetensors"
    before = file.read_bytes()
    plain = charrnn("sample", "-m", either, *options, stdin="the\nfox\n")
    result = charrnn("sample", "-m", either, *options, "--adapt", "read.txt", "--adapt-rate", "0.5", stdin="the\nfox\n")
    assert result.exit_code == 0, result.stderr
    assert "Adapted to read.txt: 720 characters" in result.stderr
    assert result.stdout.count("z") > plain.stdout.count("z")
    assert file.read_bytes() == before
    assert not (Path(either) / dynamic_tuning.RULE_FILE).exists()


def test_adapting_at_rate_0_changes_nothing(either: str, charrnn: Charrnn) -> None:
    options = ["sample", "-m", either, "-n", "30", "--seed", "4"]
    adapted = charrnn(*options, "--adapt", "-", "--adapt-rate", "0", stdin="zzz zz z\n" * 9)
    assert adapted.exit_code == 0, adapted.stderr
    assert adapted.stdout == charrnn(*options).stdout


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["sample", "--adapt-rate", "1"], "", "--adapt"),
        (["sample", "--adapt", "-", "-p", "-"], "", "stdin"),
        (["sample", "--adapt", "-", "--each-line"], "", "stdin"),
        (["sample", "--adapt", "-", "--adapt-rate", "-1"], "", "0 or more"),
        (["sample", "--adapt", "-"], "", "standard input is empty"),
        (["sample", "--adapt", "nowhere.txt"], "", "nowhere.txt"),
        (["evaluate", "--dynamic-rate", "1"], "", "belong to --dynamic"),
        (["evaluate", "--dynamic", "--per-line"], "", "--per-char"),
        (["evaluate", "--dynamic", "--exact"], "", "--exact"),
        (["evaluate", "--dynamic", "--dynamic-rate", "nan"], "", "0 or more"),
        (["evaluate", "--dynamic", "--dynamic-decay", "2"], "", "between 0 and 1"),
    ],
    ids=str,
)
def test_misuse_is_an_error_without_traceback(
    arguments: list[str], stdin: str, message: str, runs: dict[str, Path], charrnn: Charrnn
) -> None:
    result = charrnn(*arguments, "-m", str(runs["causal"]), stdin=stdin)
    assert result.exit_code in {1, 2}
    assert result.stdout == ""
    assert message in result.stderr
    assert "Traceback" not in result.stderr


# evaluate --dynamic


def test_dynamic_and_static_scores_are_labelled(runs: dict[str, Path], charrnn: Charrnn) -> None:
    causal, both = str(runs["causal"]), str(runs["bidirectional"])
    table = charrnn("evaluate", "-m", causal, "--dynamic", "-", stdin=OTHER)
    assert table.exit_code == 0, table.stderr
    _, _, row, *_ = table.stdout.splitlines()
    assert "(dynamic)" in row
    assert "dynamic" not in charrnn("evaluate", "-m", causal, "-", stdin=OTHER).stdout
    rule = ["--dynamic", "--dynamic-rate", "0.25", "--dynamic-decay", "0.01"]
    for model in (causal, both):
        result = charrnn("evaluate", "-m", model, "-", "--json", *rule, stdin=OTHER)
        found = json.loads(result.stdout)
        assert (found["mode"], found["dynamic_rate"], found["dynamic_decay"]) == ("dynamic", 0.25, 0.01)
        assert "cloze_accuracy" not in found
        assert ("forward half" in result.stderr) == (model == both)
        plain = json.loads(charrnn("evaluate", "-m", model, "-", "--json", stdin=OTHER).stdout)
        assert plain["mode"] == "static"
        assert found["bits_per_character"] < plain["bits_per_character"]
        rows = charrnn("evaluate", "-m", model, "-", "--per-char", *rule, stdin=OTHER).stdout.splitlines()
        assert len(rows) == len(OTHER)
        total = sum(float(line.split("\t")[1]) for line in rows)
        assert total == pytest.approx(found["nats"] / NATS_PER_BIT, abs=1e-4 * len(rows))


def test_the_rule_is_tuned_once_on_the_validation_split_and_saved_in_the_run(
    trained: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_tuning, "_MIN_CHARACTERS", 10)
    file, saved = trained / "best.safetensors", trained / dynamic_tuning.RULE_FILE
    before = file.read_bytes()
    first = charrnn("evaluate", "--dynamic", "--json")
    assert first.exit_code == 0, first.stderr
    assert "Tuning" in first.stderr
    entry = json.loads(saved.read_text())[file.name]
    assert entry["characters"] == model_file.read_header(file).corpus.validation
    assert min(each["bits_per_character"] for each in entry["tried"]) in [
        each["bits_per_character"] for each in entry["tried"] if each["rate"] == entry["rate"]
    ]
    assert json.loads(first.stdout)["dynamic_rate"] == entry["rate"]
    again = charrnn("evaluate", "--dynamic", "--json")
    assert "Tuning" not in again.stderr
    assert again.stdout == first.stdout
    assert f"rate {entry['rate']:g}" in charrnn("sample", "-n", "3", "--adapt", "text.txt").stderr
    for garbled in ("", "[]", "{", json.dumps({file.name: {**entry, "sha256": "0"}}), "[" * 100_000):
        saved.write_text(garbled)
        anew = charrnn("evaluate", "--dynamic", "--json")
        assert "Tuning" in anew.stderr
        assert anew.stdout == first.stdout
    assert file.read_bytes() == before


def test_without_the_training_text_the_default_rate_is_used_and_reported(
    trained: Path, here: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_tuning, "_MIN_CHARACTERS", 10)
    (here / "elsewhere").mkdir()
    copied = here / "elsewhere" / "model.safetensors"
    shutil.copy(trained / "best.safetensors", copied)
    result = charrnn("evaluate", "-m", str(copied), "--dynamic", "--json", "-", stdin=OTHER)
    assert "Tuning" in result.stderr  # its training text is still there
    assert [path.name for path in copied.parent.iterdir()] == [copied.name]  # not a run folder: no file is added
    (here / "text.txt").unlink()
    result = charrnn("evaluate", "-m", str(copied), "--dynamic", "--json", "-", stdin=OTHER)
    assert result.exit_code == 0, result.stderr
    assert "default" in result.stderr
    assert json.loads(result.stdout)["dynamic_rate"] == UpdateRule.rate


def test_the_validation_split_never_tunes_the_rate_that_it_is_scored_with(
    here: Path, charrnn: Charrnn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_tuning, "_MIN_CHARACTERS", 10)
    charrnn("train", "text.txt", "-q", *settings("train.steps=10", "data.split=[0.8,0.2,0]"))
    result = charrnn("evaluate", "--dynamic", "--json")
    assert result.exit_code == 0, result.stderr
    assert "Tuning" not in result.stderr
    assert "must not choose" in result.stderr
    assert json.loads(result.stdout)["dynamic_rate"] == UpdateRule.rate


def test_dynamic_evaluation_has_no_settings_in_the_configuration() -> None:
    assert "dynamic" not in json.dumps(Config().model_dump(mode="json"))


def test_dynamic_evaluation_and_adapting_need_a_network(runs: dict[str, Path], here: Path, charrnn: Charrnn) -> None:
    for arguments in (["evaluate", "--dynamic", "text.txt"], ["sample", "--adapt", "text.txt"]):
        result = charrnn(*arguments, "-m", str(runs["ngram"]))
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"Error: {arguments[1]} needs a recurrent network; this model is none: ngram of order" in result.stderr
