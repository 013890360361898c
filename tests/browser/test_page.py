"""A page is one file that asks for nothing, runs its model as the command line does, and shows any text as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from charrnn.checkpoints import inference, model_file
from charrnn.inspection import page
from charrnn.inspection.page import PageModel
from charrnn.models.numpy_model import NumpyHMM, NumpyModel
from tests.conftest import Charrnn, close

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser.conftest import OpenPage

FIXTURES = Path(__file__).parent.parent / "fixtures" / "0.1.0"
HOSTILE = (
    "</script><script>document.title = 'taken'</script>",
    "<!-- <script> -->",
    "<img src=x onerror=alert(1)>&amp;&lt;",
    "{{scripts}} {{weights}} ${1} \\u003c \\",
    "\u2028\u2029\r\n\r\t\0\x07\x7f\x85",
    "\u202eright to left\u202c \u2066isolated\u2069 שלום \u200f",
    "👩\u200d👩\u200d👧 😀 \U0010ffff \ufeff \ufffe",
    "\u0301\u0301 alone, and e\u0301",
    "'\"`",
)
# the network of the page, and what the page stores
NETWORK = """
const read = (id) => document.getElementById(id).textContent;
const data = JSON.parse(read('data'));
const network = Network.of(data, await weights.unpack(data.tensors, read('weights')));
"""
LOGITS = (
    "async (text) => {"
    + NETWORK
    + """
  let state = network.start();
  return [network.boundaryToken, ...network.encode(text)].map((token) => {
    state = network.step(token, state);
    return Array.from(network.logits(state));
  });
}"""
)
GREEDY = (
    "async ([prime, length]) => {"
    + NETWORK
    + """
  const characters = Array.from(data.vocabulary.characters);
  let state = network.start(), written = prime;
  for (const token of [network.boundaryToken, ...network.encode(prime)]) state = network.step(token, state);
  for (let index = 0; index < length; index++) {
    const logits = network.logits(state), token = logits.indexOf(logits.reduce((a, b) => Math.max(a, b)));
    written += characters[token];
    state = network.step(token, state);
  }
  return written;
}"""
)


def exported(charrnn: Charrnn, model: Path, folder: Path) -> tuple[Path, Path]:
    """Export a model as a file in fp16 and as a page."""
    half, html = folder / "small.safetensors", folder / "page.html"
    result = charrnn("export", "--half", str(half), "--html", str(html), "-m", str(model))
    assert result.exit_code == 0, result.stderr
    return half, html


@pytest.mark.parametrize("kind", ["lstm", "gru-tied", "bidirectional", "hmm", "rnn-skip", "own"])
def test_a_page_predicts_as_the_file_in_fp16(kind: str, charrnn: Charrnn, tmp_path: Path, open_page: OpenPage) -> None:
    half, html = exported(charrnn, FIXTURES / kind, tmp_path)
    model, vocabulary = inference.load(half)
    assert isinstance(model, NumpyModel | NumpyHMM)
    text = (FIXTURES / "text.txt").read_text("utf-8")[:100] + "\u0416"
    tokens = np.concatenate((vocabulary.boundary_tokens, vocabulary.encode(text).astype(np.int64)))
    features, _ = model.read(tokens[None], model.initial_state(1))
    expected = model.logits(features)[0, len(vocabulary.boundary_tokens) - 1 :]
    close(open_page(html).evaluate(LOGITS, text), expected, 1e-4)


@pytest.mark.parametrize("prime", ["", "the quick "])
def test_a_page_writes_what_sample_writes(
    prime: str, either: str, charrnn: Charrnn, tmp_path: Path, open_page: OpenPage
) -> None:
    half, html = exported(charrnn, Path(either), tmp_path)
    expected = charrnn("sample", "--greedy", "-n", "200", *["-p", prime] * bool(prime), "-m", str(half))
    assert open_page(html).evaluate(GREEDY, [prime, 200]) + "\n" == expected.stdout


def hostile_page(text: str, title: str) -> str:
    header, contents = model_file.read_arrays(FIXTURES / "lstm" / "best.safetensors")
    model = PageModel(text, text, header, {name: contents.arrays[name] for name in contents.weights})
    return page.build(title, model, text=text, tables={"errors": {"classes": [{"class": text}]}})


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_any_text_comes_back_as_it_was(text: str, open_page: OpenPage) -> None:
    tab = open_page(hostile_page(text, "a title"))
    found = json.loads(tab.evaluate("document.getElementById('data').textContent"))
    assert found["text"] == found["model"]["name"] == found["tables"]["errors"]["classes"][0]["class"] == text
    assert tab.title() == "a title"


@pytest.mark.parametrize("title", ["<b>&amp;", "</title><script>1</script>", "\"'"])
def test_a_title_is_a_text(title: str, open_page: OpenPage) -> None:
    assert open_page(hostile_page("", title)).title() == title


def test_the_policy_lets_nothing_in_or_out(charrnn: Charrnn, tmp_path: Path, browser: Browser) -> None:
    """Whatever came into a page by mistake could neither load nor send anything."""
    _, html = exported(charrnn, FIXTURES / "lstm", tmp_path)
    tab = browser.new_page()
    tab.goto(html.as_uri())
    refused = tab.evaluate("""async () => {
      const address = 'http://127.0.0.1:9/', refused = [];
      document.addEventListener('securitypolicyviolation', (event) => refused.push(event.effectiveDirective));
      const add = (tag, settings) => document.body.appendChild(Object.assign(document.createElement(tag), settings));
      add('img', {src: address});
      add('script', {src: address});
      add('iframe', {src: address});
      add('link', {rel: 'stylesheet', href: address});
      add('base', {href: address});
      add('form', {action: address, method: 'post'}).submit();
      await fetch(address).catch(() => null);
      try { new Worker(URL.createObjectURL(new Blob(['1']))); } catch { /* refused */ }
      for (let wait = 0; refused.length < 8 && wait < 500; wait++) {
        await new Promise((resolve) => { setTimeout(resolve, 10); });
      }
      return refused.sort();
    }""")
    wanted = "base-uri connect-src form-action frame-src img-src script-src-elem style-src-elem worker-src"
    assert refused == wanted.split()
    tab.close()
