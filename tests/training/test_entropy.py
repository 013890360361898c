"""Claims about sources whose entropy is known: no cell comes far above it, and none below (that would be a leak)."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from charrnn.checkpoints import model_file, training_corpus
from charrnn.config import loading
from charrnn.data.batches import ContiguousBatches
from charrnn.data.loader import load_batch
from charrnn.data.vocabulary import Vocabulary
from charrnn.evaluation import scoring
from charrnn.generation.filters import Filters
from charrnn.generation.infill import Gapped, fill
from charrnn.generation.sampling import MIN_P, TEMPERATURE, Sampler
from charrnn.models import losses
from charrnn.models.bidirectional import LOOKAHEAD, BidirectionalRNN
from charrnn.models.factory import Causal
from charrnn.models.losses import target_nats
from charrnn.models.torch_model import TorchModel
from charrnn.scores import NATS_PER_BIT
from charrnn.training import loop, new_run, training_step

CELLS = ("rnn", "gru", "lstm")
DATA = Path(__file__).parent.parent.parent / "data"
SYMBOLS = "\nabcd"


def markov_source(seed: int) -> np.ndarray:
    """Draw P(next | last two) (5, 5, 5) of a second-order source over SYMBOLS."""
    return np.random.default_rng(seed).dirichlet(np.full(5, 0.4), size=(5, 5))


def draw(source: np.ndarray, length: int, seed: int) -> tuple[str, np.ndarray]:
    """Draw a text that follows two newlines; return it and each character's true bits (length)."""
    uniform = np.random.default_rng(seed).random(length)
    cumulative = source.cumsum(-1)
    before, last, drawn, bits = 0, 0, [], []
    for share in uniform:
        chosen = min(int((cumulative[before, last] < share).sum()), 4)
        bits.append(-math.log2(source[before, last, chosen]))
        before, last = last, chosen
        drawn.append(SYMBOLS[chosen])
    return "".join(drawn), np.array(bits)


def learn(folder: str, text: str, *settings: str) -> training_step.Training:
    common = [
        "train.seed=1",
        "train.precision=fp32",
        "train.kernel=torch",
        "train.patience=null",
        "model.dropout=0",
        "model.num_layers=1",
    ]
    options = loading.load(None, [*common, *settings]).with_values(data={"texts": [text]})
    job = new_run.start(options, Path(folder), torch.device("cpu"))
    for _ in loop.train(job.training, job.run):
        pass
    job.run.release()
    return job.training


@pytest.mark.parametrize("cell", CELLS)
def test_a_markov_source_is_learnt_to_its_entropy_and_not_below(here: Path, cell: str) -> None:
    source = markov_source(5)
    (here / "source.txt").write_text(draw(source, 120_000, 1)[0])
    training = learn(
        "run",
        "source.txt",
        f"model.cell={cell}",
        "model.hidden_size=32",
        "model.embedding_size=8",
        "train.batch_size=16",
        "train.sequence_length=32",
        "train.steps=900",
        "train.eval_every=900",
        "train.learning_rate=0.01",
        "train.weight_decay=0",
    )
    text, true_bits = draw(source, 20_000, 2)
    vocabulary = training.vocabulary
    blocks = scoring.characters(training.model, vocabulary, vocabulary.encode(text))
    bits = np.concatenate([block.nats for block in blocks]) / NATS_PER_BIT
    # the first character follows one newline for the model but two for the source: it is left out
    difference = (bits - true_bits)[1:]
    error = difference.std() / math.sqrt(len(difference))
    assert difference.mean() > -3 * error  # below the truth is a leak
    assert bits[1:].mean() < 1.03 * true_bits[1:].mean()


@pytest.mark.parametrize("cell", ["lstm", *(pytest.param(cell, marks=pytest.mark.slow) for cell in ("rnn", "gru"))])
def test_counting_digits_is_learnt_except_for_line_starts(here: Path, cell: str) -> None:
    # without gates it takes longer to learn where a line began, and larger steps are unstable
    steps, rate = {"lstm": (1500, 0.01), "gru": (4000, 0.005), "rnn": (6000, 0.005)}[cell]
    training = learn(
        "run",
        str(DATA / "digits.txt"),
        f"model.cell={cell}",
        "model.hidden_size=64",
        "model.embedding_size=16",
        "train.batch_size=16",
        "train.sequence_length=56",
        f"train.steps={steps}",
        f"train.eval_every={steps}",
        f"train.learning_rate={rate}",
        "train.weight_decay=0.01",
    )
    header = model_file.read_header(here / "run" / "last.safetensors")
    text = training_corpus.held_out(header, here / "run" / "last.safetensors")[1].text
    text = text[text.index("\n") + 1 :]
    vocabulary = training.vocabulary
    blocks = scoring.characters(training.model, vocabulary, vocabulary.encode(text))
    bits = np.concatenate([block.nats for block in blocks]) / NATS_PER_BIT
    starts = np.array([index == 0 or text[index - 1] == "\n" for index in range(len(text))])
    assert bits[~starts].mean() < 0.02
    # a line start cannot be predicted: log2(9) bits, up to the sampling error of these lines
    assert bits[starts].mean() > math.log2(9) - 0.1

    filters = Filters(temperature=TEMPERATURE, min_p=MIN_P)
    sampler = Sampler(TorchModel(training.model), vocabulary, [""], 28 * 100, filters, seed=0, indices=[0])
    written = "".join(shown for (shown,) in sampler)
    lines = written.split("\n")[:100]
    assert all((int(one) + 1) % 9 == int(two) for line in lines for one, two in itertools.pairwise(line))
    # ending a line takes the memory of where it began; the first line follows the initial state, which is rare in a
    # contiguous text, and a GRU still errs now and then after twice the steps
    assert sum(len(line) == 27 for line in lines[1:99]) >= (95 if cell == "gru" else 98)


# Both sides


def true_cloze_bits(source: np.ndarray, text: str) -> np.ndarray:
    """Return each character's true bits given all others (length - 4), without the first and last two.

    P(x_t | all others) is in proportion to P(x_t | x_t-2, x_t-1) P(x_t+1 | x_t-1, x_t) P(x_t+2 | x_t, x_t+1).
    """
    symbols = np.array([SYMBOLS.index(character) for character in text])
    first, second, asked, fourth, fifth = (symbols[i : len(symbols) - 4 + i, None] for i in range(5))
    each = np.arange(5)[None]
    odds = source[first, second, each] * source[second, each, fourth] * source[each, fourth, fifth]
    return np.asarray(-np.log2(np.take_along_axis(odds, asked, 1)[:, 0] / odds.sum(1)))


def test_the_true_cloze_bits_are_those_of_the_text_among_all_that_differ_in_one_character() -> None:
    source = markov_source(5)
    text, _ = draw(source, 9, 3)

    def probability(other: str) -> float:
        symbols = [SYMBOLS.index(character) for character in "\n\n" + other]
        return float(math.prod(source[tuple(symbols[i : i + 3])] for i in range(len(other))))

    expected = [
        -math.log2(probability(text) / sum(probability(text[:t] + other + text[t + 1 :]) for other in SYMBOLS))
        for t in range(2, 7)
    ]
    np.testing.assert_allclose(true_cloze_bits(source, text), expected, rtol=1e-9)


def one_sided_bits(model: Causal, vocabulary: Vocabulary, text: str) -> np.ndarray:
    """Return the bits of each character of a text (length) given those before it."""
    blocks = scoring.characters(model, vocabulary, vocabulary.encode(text))
    return np.concatenate([block.nats for block in blocks]) / NATS_PER_BIT


@torch.inference_mode()
def cloze_bits(model: BidirectionalRNN, vocabulary: Vocabulary, text: str) -> np.ndarray:
    """Return the bits of each character of a text (length) given all others; both halves read it in one window."""
    tokens = torch.from_numpy(vocabulary.encode(text).astype(np.int64))[None]
    frame = torch.full((1, 1), int(vocabulary.boundary_tokens[0]))
    before, _ = model.eval().read(torch.cat((frame, tokens[:, :-1]), 1), model.initial_state(1))
    after, _ = model.read_back(torch.cat((tokens[:, 1:], frame), 1), model.backward_stack.initial_state(1))
    nats = target_nats(model.joint_logits(before, after), tokens, vocabulary.known_nats, vocabulary.escape_nats)
    return np.asarray(nats[0].double() / NATS_PER_BIT)


@torch.inference_mode()
def training_bits(model: BidirectionalRNN, vocabulary: Vocabulary, text: str) -> np.ndarray:
    """Return the bits per character of windows as in training (windows, 3): forward, backward, gaps of all widths."""
    start, boundary = np.zeros(1, dtype=np.int64), vocabulary.boundary_tokens.tolist()
    batches = ContiguousBatches(vocabulary.encode(text), start, boundary, 50, 16, 0, False, LOOKAHEAD)
    state, generator, bits = model.eval().initial_state(50), torch.Generator().manual_seed(0), []
    for index in range(batches.windows):
        window = load_batch(batches, 0, index, torch.device("cpu"))
        found, state = losses.compute_losses(
            model, window, state, vocabulary.known_nats, vocabulary.escape_nats, generator
        )
        bits.append([float(term) / NATS_PER_BIT for term in found if term is not None])
    return np.array(bits)


def some_slow(cases: list[tuple[str, int]], fast: set[tuple[str, int]]) -> list[object]:
    return [case if case in fast else pytest.param(*case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    ("cell", "depth"),
    some_slow(list(itertools.product(CELLS, (1, 2, 3))), {("rnn", 1), ("gru", 2), ("lstm", 3)}),
)
def test_random_digits_are_predicted_from_neither_side_nor_from_both(here: Path, cell: str, depth: int) -> None:
    """No head of any depth can do better on a fresh digit than 1 in 10: a stack that saw it would."""

    def digits(length: int, seed: int) -> str:
        return "".join(map(str, np.random.default_rng(seed).integers(0, 10, length).tolist()))

    (here / "digits.txt").write_text(digits(40_000, 1))
    training = learn(
        "run",
        "digits.txt",
        "model.bidirectional=true",
        f"model.cell={cell}",
        f"model.num_layers={depth}",
        "model.hidden_size=24",
        "model.embedding_size=8",
        "train.batch_size=64",
        "train.sequence_length=16",
        "train.steps=120",
        "train.eval_every=120",
        "train.learning_rate=0.02",
    )
    model, vocabulary, fresh = training.model, training.vocabulary, digits(8_000, 2)
    assert isinstance(model, BidirectionalRNN)
    assert len(model.layers) == len(model.backward_stack.layers) == depth
    forward, backward, gap = training_bits(model, vocabulary, fresh).T
    for bits in (
        one_sided_bits(model, vocabulary, fresh),
        one_sided_bits(model.backward_half, vocabulary, fresh[::-1]),
        cloze_bits(model, vocabulary, fresh),
        forward,
        backward,
        gap,
    ):
        error = bits.std() / math.sqrt(len(bits))
        assert bits.mean() > math.log2(10) - 3 * error
        assert bits.mean() < math.log2(10) + 0.1  # and not so bad as to hide a leak


@pytest.mark.parametrize(
    ("cell", "steps"),
    [("lstm", 600), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("rnn", 1200), ("gru", 1000)))],
)
def test_a_markov_source_is_learnt_from_both_sides_to_its_entropy_and_not_below(
    here: Path, cell: str, steps: int
) -> None:
    source = markov_source(5)
    (here / "source.txt").write_text(draw(source, 200_000 if cell == "lstm" else 400_000, 1)[0])
    training = learn(
        "run",
        "source.txt",
        "model.bidirectional=true",
        f"model.cell={cell}",
        "model.hidden_size=32",
        "model.embedding_size=8",
        f"train.batch_size={32 if cell == 'lstm' else 64}",
        "train.sequence_length=48",
        f"train.steps={steps}",
        f"train.eval_every={steps}",
        "train.learning_rate=0.02",
        "train.weight_decay=0",
    )
    text, true_bits = draw(source, 20_000, 2)
    model, vocabulary = training.model, training.vocabulary
    assert isinstance(model, BidirectionalRNN)
    true_cloze = true_cloze_bits(source, text)
    for bits, truth in (
        (one_sided_bits(model, vocabulary, text)[1:], true_bits[1:]),
        (cloze_bits(model, vocabulary, text)[2:-2], true_cloze),
    ):
        difference = bits - truth
        error = difference.std() / math.sqrt(len(difference))
        assert difference.mean() > -3 * error  # below the truth is a leak
        assert bits.mean() < 1.03 * truth.mean()
    # backwards the entropy is the same: a text's probability is the same from either end
    assert one_sided_bits(model.backward_half, vocabulary, text[::-1]).mean() < 1.03 * true_bits.mean()
    # one side alone tells far less
    assert true_cloze.mean() < 0.5 * true_bits.mean()


@pytest.mark.slow
def test_gaps_in_sentences_about_beijing_are_filled_consistently(here: Path) -> None:
    training = learn(
        "run",
        str(DATA / "beijing.txt"),
        "model.bidirectional=true",
        "model.hidden_size=192",
        "model.embedding_size=128",
        "model.dropout=0.3",
        "train.batch_size=16",
        "train.steps=1400",
        "train.eval_every=700",
        "train.learning_rate=0.015",
        "train.weight_decay=0.01",
    )

    def filled(text: str) -> tuple[str, ...]:
        return fill(TorchModel(training.model), training.vocabulary, Gapped.parse(text))[0].gaps

    assert filled("我爱北京＿＿＿") == ("天安门",)
    assert filled("我是中国人，我的母语是＿＿") == ("汉语",)
    # what must agree stands on both sides of a gap, or after it
    assert filled("我是法国人，我的＿＿是＿＿。") == ("母语", "法语")
    assert filled("她是＿＿＿人，她的母语是俄语。") == ("俄罗斯",)
    assert filled("我爱＿＿天安门，也爱＿＿兵马俑。") == ("北京", "西安")
    assert filled("索菲是＿＿人，＿的母语是法语，她正在学汉语。") == ("法国", "她")
