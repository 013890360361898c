"""The model in JavaScript equals the NumPy one: states, logits, gates, every cell, every option.
Sizes are those of tests/models/test_char_rnn: E=4 embedding, H=5 hidden, V=7 vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from charrnn.checkpoints import half
from charrnn.data.vocabulary import Vocabulary
from charrnn.inspection import page
from charrnn.models import cells, likelihood, numpy_model
from charrnn.models.architecture import Architecture
from charrnn.models.cells import StepState, softmax
from charrnn.models.numpy_model import NumpyHMM, NumpyModel
from tests.conftest import close
from tests.models.test_char_rnn import V
from tests.models.test_numpy_model import MODELS, every_model, made

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

TOKENS = [0, 3, 7, 1, 1, 6, 5, 2]  # 7 is the escape
VOCABULARY = Vocabulary("\nbcdefg", 100, 3, boundary="\nc")
RUN = """
({model, vocabulary, list, values, tokens, hold}) => {
  const tensors = new Map();
  let first = 0;
  for (const {name, shape} of list) {
    const count = shape.reduce((a, b) => a * b, 1);
    tensors.set(name, {shape, data: Float32Array.from(values.slice(first, first + count))});
    first += count;
  }
  const network = Network.of({model, vocabulary}, tensors);
  const numbers = (array) => array === null ? null : Array.from(array);
  const read = (half, order) => {
    let state = half.start();
    const steps = [];
    for (const token of [half.boundaryToken, ...order]) {
      const before = state, copied = JSON.stringify(before.layers);
      state = half.step(token, before, hold);
      const gates = half.gates(token, before);
      steps.push({
        h: state.layers.map(({h}) => numbers(h)),
        c: state.layers.map(({c}) => numbers(c)),
        features: numbers(state.features),
        logits: numbers(half.logits(state)),
        gates: gates.map((one) => half.gateNames.map((name) => numbers(one[name]))),
        single: gates.map((one, layer) => half.gateNames.map((name) =>
          Array.from(one[name], (_, unit) => half.gate(layer, name, unit, token, before)))),
        untouched: JSON.stringify(before.layers) === copied,
      });
    }
    return steps;
  };
  const forward = read(network, tokens);
  const logits = Float32Array.from(forward.at(-1).logits);
  const every = [...Array(network.size + 1).keys()];
  if (network.backward === null) return {forward, backward: null, joint: null,
    nats: every.map((token) => network.nats(logits, token)),
    probabilities: [1, 0.5, 1e-200].map((temperature) => numbers(network.probabilities(logits, temperature)))};
  const backward = read(network.backward, tokens.slice().reverse());
  const features = (steps) => steps.map((step) => Float32Array.from(step.features));
  const before = features(forward), after = features(backward).reverse();
  return {forward, backward, joint: tokens.map((_, i) => numbers(network.joint(before[i], after[i + 1])))};
}
"""
Step = dict[str, Any]
Hold = dict[str, float]
CAUSAL = [model for model in MODELS if not model[2]["bidirectional"]]
every_causal_model = pytest.mark.parametrize(("cell", "activation", "options"), CAUSAL, ids=str)


@pytest.fixture(scope="module")
def tab(browser: Browser) -> Iterator[Page]:
    """Open an empty page that has the model's scripts."""
    opened = browser.new_page()
    for name in ("cells", "weights", "network"):
        opened.add_script_tag(content=page.read(f"{name}.js"))
    yield opened
    opened.close()


def run(tab: Page, settings: dict[str, Any], weights: dict[str, npt.NDArray[Any]], hold: Hold | None = None) -> Any:
    """Let the page read TOKENS after a boundary."""
    return tab.evaluate(
        RUN,
        {
            "model": settings,
            "vocabulary": page.vocabulary_fields(VOCABULARY),
            "list": [{"name": name, "shape": array.shape} for name, array in weights.items()],
            "values": np.concatenate([array.ravel() for array in weights.values()]).tolist(),
            "tokens": TOKENS,
            "hold": hold,
        },
    )


def read(model: NumpyModel | NumpyHMM, boundary: list[int], tokens: list[int]) -> tuple[list[Step], Any]:
    """Read tokens after a boundary with the NumPy model, step by step."""
    state = model.initial_state(1)
    if boundary[:-1]:
        _, state = model.read(np.array([boundary[:-1]]), state)
    steps = []
    for token in [boundary[-1], *tokens]:
        features, state = model.read(np.array([[token]]), state)
        steps.append({"state": state, "features": features[0, 0], "logits": model.logits(features)[0, 0]})
    return steps, state


def same(found: list[Step], expected: list[Step]) -> None:
    """Compare what both read, step by step."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["untouched"]
        close(ours["features"], theirs["features"], 1e-4)
        close(ours["logits"], theirs["logits"], 1e-4)
        for layer, state in enumerate(theirs["state"].layers):
            close(ours["h"][layer], state.hidden[0], 1e-4)
            assert (ours["c"][layer] is None) == (state.cell is None)
            if state.cell is not None:
                close(ours["c"][layer], state.cell[0], 1e-4)


def of(cell: str, activation: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Make the settings of a model, and weights that are numbers of fp16."""
    model = made(cell, activation, options)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return model.config.model_dump(), {name: half.astype(np.float32) for name, half in half.rounded(state).items()}


@every_model
def test_the_page_computes_what_numpy_does(cell: str, activation: str, options: dict[str, Any], tab: Page) -> None:
    settings, weights = of(cell, activation, options)
    model = numpy_model.build(Architecture.of(settings), weights)
    boundary = VOCABULARY.boundary_tokens.tolist()
    found, (forward, _) = run(tab, settings, weights), read(model, boundary, TOKENS)
    same(found["forward"], forward)
    heads = model.bidirectional_heads
    assert (heads is not None) == (found["backward"] is not None)
    if heads is not None:
        assert isinstance(heads.backward, NumpyModel)
        backward, _ = read(heads.backward, boundary[::-1], TOKENS[::-1])
        same(found["backward"], backward)
        for index, logits in enumerate(found["joint"]):
            before, after = forward[index]["features"], backward[len(TOKENS) - index - 1]["features"]
            close(logits, heads.joint_logits(before, after, 1), 1e-4)


@every_causal_model
def test_gates_are_those_of_the_cells_equation(
    cell: str, activation: str, options: dict[str, Any], tab: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, weights = of(cell, activation, options)
    taken, advance, values = [], cells.advance, cells.CELLS[cell].gate_values

    def watched(cell: str, x: Any, r: Any, state: StepState, **more: Any) -> StepState:
        taken.append([] if values is None else [gate[0] for gate in values(x, r)])
        return advance(cell, x, r, state, **more)

    monkeypatch.setattr(cells, "advance", watched)
    boundary = VOCABULARY.boundary_tokens.tolist()
    read(numpy_model.build(Architecture.of(settings), weights), boundary, TOKENS)
    depth = settings["num_layers"]
    expected = [taken[first : first + depth] for first in range(depth * (len(boundary) - 1), len(taken), depth)]
    for step, gates in zip(run(tab, settings, weights)["forward"], expected, strict=True):
        close(step["gates"], gates, 1e-4)
        close(step["single"], gates, 1e-4)


@every_causal_model
def test_a_held_unit_keeps_its_value_and_all_above_follow(
    cell: str, activation: str, options: dict[str, Any], tab: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an LSTM c is held, and h is o tanh(c); of other cells h is held."""
    settings, weights = of(cell, activation, options)
    layer, unit, value, advance = settings["num_layers"] - 1, 3, 0.75, cells.advance
    steps = iter(range(10**6))

    def held(cell: str, x: Any, r: Any, state: StepState, *, leak: float | None, **more: Any) -> StepState:
        new, boundary_steps = advance(cell, x, r, state, leak=leak, **more), settings["num_layers"]
        step = next(steps)
        if step % settings["num_layers"] != layer or step < boundary_steps:
            return new
        h, c = new.hidden.copy(), None if new.cell is None else new.cell.copy()
        if c is None:
            h[0, unit] = value
        else:
            c[0, unit] = value
            h[0, unit] = cells.lstm_gates(x, r)[3][0, unit] * np.tanh(value)
            if leak is not None:
                h[0, unit] = (1 - leak) * state.hidden[0, unit] + leak * h[0, unit]
        past = None if new.past is None else np.concatenate((new.past[:, :-1], h[:, None]), 1)
        return StepState(h, c, past)

    monkeypatch.setattr(cells, "advance", held)
    model = numpy_model.build(Architecture.of(settings), weights)
    expected, _ = read(model, VOCABULARY.boundary_tokens.tolist(), TOKENS)
    found = run(tab, settings, weights, {"layer": layer, "unit": unit, "value": value})["forward"]
    same(found, expected)
    assert {step["c" if cell == "lstm" else "h"][layer][unit] for step in found} == {value}


def test_a_hidden_markov_model_has_its_posterior_as_state(tab: Page) -> None:
    states = 5
    numbers = np.random.default_rng(1)
    # so far apart that many characters have no more probability than what is spread evenly
    drawn = {"transition": numbers.normal(0, 2, (states, states)), "emission": numbers.normal(0, 20, (V, states))}
    weights = {name: array.astype(np.float32) for name, array in half.rounded(drawn).items()}
    found = run(tab, {"cell": "hmm", "hidden_size": states}, weights)["forward"]
    expected, _ = read(NumpyHMM(weights), VOCABULARY.boundary_tokens.tolist(), TOKENS)
    for step in expected:
        step["state"] = step["state"]._replace(layers=(StepState(np.exp(step["state"].layers[0].hidden)),))
    same(found, expected)
    assert all(step["gates"] == [[]] for step in found)


def test_probabilities_leave_the_escape_its_share(tab: Page) -> None:
    settings, weights = of(*CAUSAL[0])
    found = run(tab, settings, weights)
    logits = np.array(found["forward"][-1]["logits"])
    escape = VOCABULARY.escape_probability
    for temperature, shares in zip((1.0, 0.5, 1e-200), found["probabilities"], strict=True):
        close(shares[:V], (1 - escape) * softmax(logits, temperature), 1e-9)
        close(shares[V], escape, 1e-12)
    every = np.arange(V + 1)
    close(found["nats"], likelihood.target_nats(VOCABULARY, np.tile(logits, (V + 1, 1)), every), 1e-6)


def test_every_number_of_fp16_is_read_from_a_page(tab: Page) -> None:
    every = np.arange(1 << 16, dtype="<u2").view("<f2")
    finite = every[np.isfinite(every)]
    found = tab.evaluate(
        "async (text) => Array.from((await weights.unpack([{name: 'a', shape: [2, 3]}, {name: 'b', shape: [63482]}],"
        " text)).get('b').data)",
        page.packed({"a": finite[:6], "b": finite[6:]}),
    )
    assert found == finite[6:].tolist()


@pytest.mark.parametrize("text", ["b\ncz", "😀b", "\ud83d", "e\u0301\u200f\0", ""], ids=ascii)
def test_a_text_becomes_one_token_a_character(text: str, tab: Page) -> None:
    found = tab.evaluate(
        "([vocabulary, text]) => Array.from(new Network(vocabulary).encode(text))",
        [page.vocabulary_fields(VOCABULARY), text],
    )
    assert found == [VOCABULARY.characters.find(character) % (V + 1) for character in text]
