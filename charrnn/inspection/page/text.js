'use strict';
// A text whose characters are coloured and selected, and view 1, which colours it by surprise.

const text = (() => {
  const PIECE = 2000; // characters coloured in a frame; a longer text takes several

  // Coloured by two numbers of page.css, so that a change of scheme needs no new painting. The strongest colours are
  // such that the text on them keeps a contrast of 4.5 in both schemes.

  const shade = (name, share) => (share < 0.005 ? '' : `rgb(var(--${name}-rgb) / ${Math.min(1, share).toFixed(3)})`);

  /** Return the colour of a value from -1 (red) to 1 (blue). */
  const signed = (value) => (value < 0 ? shade('red', -value) : shade('blue', value));

  /** Return the language of a text by its script, as far as that decides how characters are drawn. */
  function language(characters) {
    const sample = characters.slice(0, 5000).join('');
    if (/[\u3041-\u30ff]/.test(sample)) return 'ja';
    if (/[\uac00-\ud7a3]/.test(sample)) return 'ko';
    if (!/\p{Script=Han}/u.test(sample)) return 'und';
    const many = (letters) => sample.match(letters)?.length ?? 0;
    return many(/[無為來時國見門風長]/g) > many(/[无为来时国见门风长]/g) ? 'zh-Hant' : 'zh-Hans';
  }

  // What moves others around, or a line; but joiners and variation selectors belong to what they join.
  const DISPLACED = new RegExp('[\\p{Cc}\\p{Cn}\\p{Co}\\p{Zl}\\p{Zp}\\u061c\\u200b\\u200e\\u200f'
    + '\\u202a-\\u202e\\u2060-\\u2069\\ufeff\\ufff9-\\ufffb]', 'u');

  /** Return how a character stands in a text: as itself, unless that would disturb the text. */
  const standing = (character) =>
    character === '\n' || character === '\t' || !DISPLACED.test(character) ? character : app.label(character);

  /** Return the span of a character. A newline has nothing to colour, so page.css puts a space before it. */
  function letter(character, i) {
    const span = app.element('span', character === '\n' ? { class: 'newline' } : {}, standing(character));
    span.i = i;
    return span;
  }

  /** Return spans in lines: a browser draws a line anew at a time, and not a whole text. */
  function inLines(spans, characters) {
    const lines = [];
    let first = 0;
    for (let i = 0; i < spans.length; i++) {
      if (characters[i] === '\n' || i === spans.length - 1) {
        lines.push(app.element('div', {}, ...spans.slice(first, i + 1)));
        first = i + 1;
      }
    }
    return lines;
  }

  /** A text of spans. `moved(i)` is called for a character that one picks with a click, a finger or the arrow keys. */
  class ColouredText {
    constructor(characters, label, moved) {
      this.characters = characters;
      this.spans = characters.map(letter);
      this.node = app.element('div', { class: 'text', tabindex: '0', role: 'group', 'aria-label': label,
        lang: language(characters), 'data-first': '' }, ...inLines(this.spans, characters));
      this.chosen = null;
      this.painted = 0;
      this.waiting = false;
      this.node.addEventListener('click', (event) => {
        if (event.target.i !== undefined && getSelection().isCollapsed) moved(event.target.i);
      });
      this.node.addEventListener('keydown', (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
        const next = this.after(event.key);
        if (next === null) return;
        event.preventDefault();
        moved(Math.max(0, Math.min(characters.length - 1, next)));
        this.reveal();
      });
    }

    /** Return which character a key leads to, from the selected one; null for other keys. */
    after(key) {
      const at = this.chosen ?? 0;
      if (key === 'ArrowLeft') return at - 1;
      if (key === 'ArrowRight') return at + 1;
      if (key === 'Home') return 0;
      if (key === 'End') return this.characters.length - 1;
      return key === 'ArrowUp' || key === 'ArrowDown' ? this.beside(at, key === 'ArrowUp' ? -1 : 1) : null;
    }

    /** Return the character above (-1) or below (1) another, by where they stand. */
    beside(at, by) {
      const own = this.spans[at], middle = own.offsetLeft + own.offsetWidth / 2;
      let best = at, nearest = Infinity, line = null;
      for (let i = at + by; i >= 0 && i < this.spans.length; i += by) {
        const span = this.spans[i];
        if (Math.abs(span.offsetTop - own.offsetTop) < 5) continue;
        line ??= span.offsetTop;
        if (Math.abs(span.offsetTop - line) > 5) break;
        const distance = Math.abs(span.offsetLeft + span.offsetWidth / 2 - middle);
        if (distance < nearest) [nearest, best] = [distance, i];
      }
      return best;
    }

    /** Mark a character, and show it if it cannot be seen. */
    select(i) {
      if (this.chosen !== null) {
        const span = this.spans[this.chosen], character = this.characters[this.chosen];
        span.classList.remove('selected');
        span.textContent = standing(character);
      }
      this.chosen = i;
      const span = this.spans[i], character = this.characters[i];
      if (!span) return;
      span.classList.add('selected');
      if (/[ \t\u00a0\u3000]/.test(character)) span.textContent = app.label(character);
    }

    /** Scroll the text, but not the page, to the selected character. */
    reveal() {
      const span = this.spans[this.chosen], { node } = this;
      if (!span) return;
      const top = span.offsetTop, bottom = top + span.offsetHeight, margin = span.offsetHeight;
      if (top < node.scrollTop + margin) node.scrollTop = top - margin;
      else node.scrollTop = Math.max(node.scrollTop, bottom - node.clientHeight + margin);
    }

    /** Colour the text anew: by colour(i), for the characters below limit(). */
    paint(colour, limit) {
      this.colour = colour;
      this.limit = limit;
      this.painted = 0;
      this.extend();
    }

    /** Colour what has become known since, a piece a frame. */
    extend() {
      if (this.waiting || !this.colour) return;
      this.waiting = true;
      requestAnimationFrame(() => {
        this.waiting = false;
        const end = Math.min(this.limit(), this.painted + PIECE);
        for (; this.painted < end; this.painted++) {
          this.spans[this.painted].style.backgroundColor = this.colour(this.painted);
        }
        if (end < this.limit()) this.extend();
      });
    }
  }

  /** Draw the likeliest characters as bars, the right one marked; one that is not among them stands below, with its
   *  rank. `pick(row)`, where given, makes buttons of them. */
  function bars(likeliest, right = null, pick = null) {
    const most = Math.max(...likeliest.map(({ probability }) => probability));
    const mark = (rank) => app.element('span', { class: 'mark' }, rank ? `✓ rank ${app.count(rank)}` : '✓ it came');
    const row = (one) => {
      const { character, probability, rank } = one, chosen = character === right;
      const name = app.element('span', { class: 'character', lang: language([character]) }, app.label(character));
      const bar = app.element('span', { class: 'bar' });
      bar.style.setProperty('--share', String(probability / most));
      const number = app.element('span', { class: 'number' }, app.percent(probability));
      const parts = [name, bar, number, chosen ? mark(rank) : ''];
      const item = app.element('li', { class: chosen ? 'right' : null });
      if (pick === null) item.append(...parts);
      else {
        const button = app.button('', () => pick(one), { title: `Write ${app.label(character)}` });
        button.append(...parts);
        item.append(button);
      }
      return item;
    };
    return app.element('ol', { class: pick ? 'likeliest offered' : 'likeliest' }, ...likeliest.map(row));
  }

  return { ColouredText, bars, shade, signed, language, letter };
})();

app.views.add((() => {
  const MOST = 8; // bits of the strongest colour
  const SCALE = [0, 1, 2, 3, 4, 5, 6, 7, 8];
  let parts = null;
  let both = false; // bits given the text on both sides, of a bidirectional model

  const colour = (bits) => text.shade('surprise', bits / MOST);
  const bitsOf = (i) => (both ? app.run.backward.bits[i] : app.run.bits(i));
  const known = (i) => (both ? i >= app.run.backward.first : i < app.run.count);

  function legend() {
    const swatches = SCALE.map((bits) => {
      const swatch = app.element('span', {}, bits === MOST ? `${bits}+` : String(bits));
      swatch.style.backgroundColor = colour(bits);
      return swatch;
    });
    return app.element('p', { class: 'scale' }, app.element('span', { class: 'name' }, 'bits'), ...swatches);
  }

  /** Return the likeliest characters of a position, and the right one if it is none of them. */
  function predictions(i) {
    const { run } = app, right = app.characters[i];
    const logits = both ? run.backward.joint(i, run.state(i - 1)) : null;
    const best = both ? Run.likeliest(app.network.probabilities(logits), run.vocabulary, 5) : run.likeliest(i, 5);
    if (best.some(({ character }) => character === right)) return best;
    const rank = both ? run.rankOf(logits, app.tokens[i]) : run.rank(i);
    return [...best, { character: right, probability: 2 ** -bitsOf(i), rank }];
  }

  /** Say what the model thought of the selected character. */
  function describe(i) {
    const character = app.characters[i];
    const where = `Character ${app.count(i)} of ${app.count(app.characters.length)}`;
    const lang = text.language([character]);
    const sign = app.element('span', { class: 'sign', lang, 'aria-hidden': 'true' }, app.label(character));
    const head = app.element('div', { class: 'chosen' }, sign,
      app.element('div', {}, app.element('strong', {}, app.named(character)), app.element('p', {}, where)));
    if (!known(i)) return [head, app.element('p', { class: 'aside' }, 'The model has not read this far yet.')];
    const rows = predictions(i), rank = rows.findIndex((row) => row.character === character);
    const number = rows[rank].rank ?? rank + 1;
    const ranks = Array.from(app.data.vocabulary.characters).length + 1; // the escape has the last
    const unknown = app.network && app.tokens[i] === app.network.escape;
    const facts = app.element('p', { class: 'facts' },
      app.element('span', {}, app.element('b', {}, bitsOf(i).toFixed(2)), ' bits'),
      app.element('span', {}, 'rank ', app.element('b', {}, app.count(number)), ` of ${app.count(ranks)}`));
    const note = unknown ? 'The model does not know this character: it reads it as the escape, whose probability is '
      + 'shared by all unknown ones.' : '';
    return [head, facts, app.element('h3', {}, 'What it expected here'), text.bars(rows, character),
      app.element('p', { class: 'aside' }, note)];
  }

  /** Colour by one side or by both. */
  function paint() {
    const { run } = app;
    parts.text.paint((i) => (known(i) ? colour(bitsOf(i)) : ''), () => (both && !run.complete ? 0 : run.count));
  }

  function sides() {
    const box = app.element('select', {}, app.element('option', { value: 'before' }, 'the text before it'),
      app.element('option', { value: 'both' }, 'the text on both sides'));
    box.addEventListener('change', () => {
      both = box.value === 'both';
      paint();
      draw(app.selected);
    });
    return app.element('label', { class: 'choice' }, 'Predicted from ', box);
  }

  function draw(i) {
    parts.text.select(i);
    parts.panel.replaceChildren(...describe(i));
  }

  function mount(section) {
    const panel = app.element('aside', { class: 'panel', 'aria-live': 'polite' });
    const label = 'The text, coloured by surprise; arrow keys select a character';
    parts = { panel, text: new text.ColouredText(app.characters, label, app.select) };
    const controls = [legend(), ...(app.data.model.bidirectional ? [sides()] : [])];
    const hint = 'Click or tap a character; ← → ↑ ↓ move.';
    const left = app.element('div', {}, app.element('div', { class: 'bar-of-controls' }, ...controls), parts.text.node,
      app.element('p', { class: 'hint' }, hint));
    section.append(app.element('div', { class: 'beside' }, left, panel));
    paint();
  }

  return {
    id: 'surprise', title: 'Surprise', mount,
    lead: 'Each character is coloured by −log₂ of the probability that the model gave it, in bits (Shannon 1951): '
      + 'pale, it saw the character coming; strong, it expected another.',
    unavailable: () => (app.run.length ? null
      : 'The surprise of an n-gram model is computed by charrnn inspect, and is not in this page.'),
    selected: draw,
    progress(count) {
      parts.text.extend();
      if (app.selected === count - 1 || !parts.drawn) draw(app.selected);
      parts.drawn = known(app.selected);
    },
    shown: () => parts.text.reveal(),
  };
})());
