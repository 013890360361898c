'use strict';
// View 8: the model writes, coloured by a unit, and if one likes with a unit held.

app.views.add((() => {
  const SPEEDS = [[4, '4 a second'], [15, '15 a second'], [60, '60 a second'], [200, '200 a second'], [Infinity, 'as fast as possible']];
  const FRAME = 12; // ms of a frame that may be spent on writing
  const LONGEST = 20000; // characters on the page at most
  let parts = null;
  let writer = null; // from the first character to Clear
  let playing = false;
  let credit = 0; // characters that are due, at a speed
  let last = 0; // when the last frame was
  let end = 0; // how many characters to write until a stop

  const model = () => app.data.model;
  const document_ = () => app.data.vocabulary.boundary;
  const number = (box, low, high, otherwise) => {
    const value = box.valueAsNumber;
    return Number.isNaN(value) ? otherwise : Math.max(low, Math.min(high, value));
  };

  // What the controls say

  const settings = () => ({ greedy: parts.greedy.checked, temperature: number(parts.temperature, 0.05, 3, 1), minP: number(parts.minP, 0, 1, 0.02) });
  const heldAt = () => ({ layer: Number(parts.holdLayer.value), unit: number(parts.holdUnit, 0, model().hidden_size - 1, 0), value: number(parts.holdValue, -9, 9, 0) });
  const hold = () => (parts.held?.checked ? heldAt() : null);

  /** Return the unit that colours what is written: that of view 2, unless it reads backwards. */
  const signal = () => ({ ...units.current, direction: 'forward' });

  // Writing

  function begin() {
    writer = new Writer(app.network, parts.prime.value);
    parts.paper.replaceChildren();
    const prime = Array.from(parts.prime.value);
    parts.spans = prime.map((character) => put(character, 'prime'));
    parts.read = -1; // the first token read is the boundary's
    end = number(parts.length, 1, LONGEST, 500);
  }

  function put(character, name) {
    const span = text.letter(character, parts.paper.childElementCount);
    if (name) span.classList.add(name);
    parts.paper.append(span);
    return span;
  }

  /** Colour a character by the unit, as it was after reading it. */
  function tint(span) {
    const value = writer.value(signal());
    span.style.backgroundColor = units.colour(signal(), value, units.bounded(signal().state) ? 1 : (parts.largest = Math.max(parts.largest ?? 1e-9, Math.abs(value))));
  }

  /** Read a character of the prime or write one; return whether there is more to do. */
  function advance(token = null) {
    const held = hold();
    if (writer.read(held)) {
      const span = parts.spans[parts.read++];
      if (span) tint(span);
      return true;
    }
    const character = writer.write(token ?? writer.choose(settings()), held);
    if (character !== null) tint(put(character));
    if (parts.whole?.checked && writer.ended) {
      for (let i = 0; i < document_().length; i++) parts.paper.lastElementChild.remove();
      writer.ended_ = true;
      return false;
    }
    return writer.written < end && parts.paper.childElementCount < LONGEST;
  }

  function frame(now) {
    if (!playing) return;
    const speed = Number(parts.speed.value), until = performance.now() + FRAME;
    // a frame that came late is not made up for
    credit = speed === Infinity ? Infinity : Math.min(credit + (Math.max(0, now - last) / 1000) * speed, Math.max(1, speed / 10));
    last = now;
    while (playing && performance.now() < until && (writer.pending.length > 0 || credit >= 1)) {
      if (writer.pending.length === 0) credit -= 1;
      if (!advance()) stop();
    }
    show();
    if (playing) requestAnimationFrame(frame);
  }

  function play() {
    if (playing) {
      stop();
      return;
    }
    if (writer === null) begin();
    else if (writer.written >= end || writer.ended_) end = writer.written + number(parts.length, 1, LONGEST, 500);
    if (parts.paper.childElementCount >= LONGEST) return;
    writer.ended_ = false;
    [playing, credit, last] = [true, 1, performance.now()];
    show();
    requestAnimationFrame(frame);
  }

  function stop() {
    playing = false;
    show();
  }

  /** Write one character: the given one, or one that is chosen. */
  function step(token = null) {
    stop();
    if (writer === null) begin();
    end = Math.max(end, writer.written + 1);
    while (writer.pending.length > 0) advance();
    advance(token);
    show();
  }

  function clear() {
    playing = false;
    writer = null;
    parts.paper.replaceChildren();
    show();
  }

  /** Copy the prime and what was written. */
  async function copy() {
    const words = Array.from(parts.paper.children, (span) => span.textContent).join('');
    try {
      await navigator.clipboard.writeText(words);
      parts.copied.textContent = 'Copied.';
    } catch {
      // where a page may not use the clipboard, what is selected can still be copied by hand
      getSelection().selectAllChildren(parts.paper);
      parts.copied.textContent = 'Selected: copy it with the keyboard.';
    }
  }

  // What is shown

  function show() {
    const { paper } = parts, count = writer?.written ?? 0;
    parts.play.textContent = playing ? 'Pause' : writer && count ? 'Go on' : 'Write';
    parts.play.setAttribute('aria-pressed', String(playing));
    parts.status.textContent = count ? `${app.count(count)} characters written` : 'Space starts and pauses.';
    paper.classList.toggle('empty', paper.childElementCount === 0);
    if (playing || count) paper.scrollTop = paper.scrollHeight;
    parts.meaning.textContent = `${units.capital(units.name(signal()))}. ${units.capital(units.meaning(signal()))}.`;
    if (!playing) expect();
  }

  /** Show which characters may come next; one can be picked. */
  function expect() {
    if (writer === null || writer.pending.length > 0) {
      parts.next.replaceChildren(app.element('p', { class: 'aside' }, 'Here stands what the model expects next, while it pauses. A character that you pick is written.'));
      return;
    }
    parts.next.replaceChildren(text.bars(writer.likeliest(6, settings().temperature), null, ({ token }) => {
      step(token);
      parts.next.querySelector('button')?.focus();
    }));
  }

  // Controls

  function slider(label, attributes, value, digits) {
    const box = app.element('input', { type: 'range', ...attributes, value }), out = app.element('output', {}, '');
    const tell = () => { out.textContent = Number(box.value).toFixed(digits).replace('-', '−'); };
    box.addEventListener('input', tell);
    tell();
    return [box, app.element('label', { class: 'slider' }, app.element('span', {}, label), box, out)];
  }

  function check(label, checked = false) {
    const box = app.element('input', { type: 'checkbox', checked: checked ? '' : null });
    return [box, app.element('label', { class: 'check' }, box, ` ${label}`)];
  }

  /** Make the controls that hold a unit; a hidden Markov model has none that could be held. */
  function holding() {
    if (model().cell === 'hmm') return [];
    const name = model().cell === 'lstm' ? 'c' : 'h', most = name === 'c' ? 5 : 1;
    const [held, heldLabel] = check(`Hold ${name} of one unit`);
    const [value, valueLabel] = slider('value', { min: -most, max: most, step: 0.05, 'aria-label': 'Value of the held unit' }, most / 2, 2);
    parts.held = held;
    parts.holdValue = value;
    parts.holdLayer = units.choice('Layer of the held unit', Array.from({ length: model().num_layers }, (_, layer) => [layer, `layer ${layer}`]));
    parts.holdLayer.hidden = model().num_layers < 2;
    parts.holdUnit = app.element('input', { type: 'number', min: 0, max: model().hidden_size - 1, 'aria-label': 'Held unit', inputmode: 'numeric' });
    const take = () => {
      parts.holdLayer.value = units.current.layer;
      parts.holdUnit.value = units.current.unit;
    };
    take();
    const details = app.element('div', { class: 'picker', hidden: '' }, parts.holdLayer, app.element('label', { class: 'choice' }, 'unit ', parts.holdUnit),
      app.button('that of the colours', take), valueLabel);
    held.addEventListener('change', () => { details.hidden = !held.checked; });
    return [app.element('h3', {}, 'Hold a unit'), heldLabel, details];
  }

  function colouring() {
    const list = units.found().filter(({ direction }) => direction === 'forward'), choose = units.choice('Units most worth looking at',
      [['', 'Units most worth looking at …'], ...list.map((unit, index) => [index, `${unit.feature}: ${units.name(unit)}`])]);
    choose.addEventListener('change', () => {
      const unit = list[choose.value];
      if (unit) units.choose({ direction: 'forward', layer: unit.layer, state: unit.state, unit: unit.unit });
    });
    const tell = () => {
      const at = list.findIndex((unit) => units.same(unit, units.current));
      choose.value = at < 0 ? '' : String(at);
    };
    units.listen(tell);
    tell();
    return [app.element('h3', {}, 'Colour'), ...(list.length ? [choose] : []), units.picker(['forward'])];
  }

  function controls() {
    const [temperature, temperatureLabel] = slider('temperature', { min: 0.1, max: 2, step: 0.05 }, 1, 2);
    const [minP, minPLabel] = slider('min-p', { min: 0, max: 0.5, step: 0.01 }, 0.02, 2);
    const [greedy, greedyLabel] = check('Always the likeliest (greedy)');
    Object.assign(parts, { temperature, minP, greedy });
    parts.speed = units.choice('Speed', SPEEDS);
    parts.speed.value = '60';
    parts.length = app.element('input', { type: 'number', min: 1, max: LONGEST, value: 500, inputmode: 'numeric' });
    const whole = [];
    if (document_() !== '\n') {
      const [box, label] = check(`Stop at the end of a document (${Array.from(document_(), app.label).join('')})`);
      parts.whole = box;
      whole.push(label);
    }
    greedy.addEventListener('change', () => { temperature.disabled = minP.disabled = greedy.checked; });
    temperature.addEventListener('change', () => { if (!playing) show(); });
    return app.element('aside', { class: 'panel' }, app.element('h3', { class: 'first' }, 'Sampling'), temperatureLabel, minPLabel, greedyLabel,
      app.element('p', { class: 'hint' }, 'min-p 0.02: only characters at least 0.02 times as likely as the likeliest.'),
      app.element('h3', {}, 'Speed and length'), app.element('div', { class: 'picker' }, parts.speed, app.element('label', { class: 'choice' }, 'stop after ', parts.length)), ...whole,
      ...colouring(), ...holding());
  }

  function mount(section) {
    units.begin();
    parts = { read: -1 };
    const start = document_() === '\n' ? 'the beginning of a line' : `the beginning of a document, after ${Array.from(document_(), app.label).join('')}`;
    parts.prime = app.element('textarea', { id: 'prime', rows: 2, placeholder: `Empty: ${start}`, spellcheck: 'false', autocapitalize: 'off', autocomplete: 'off' });
    parts.prime.addEventListener('input', clear);
    parts.paper = app.element('div', { class: 'text paper', tabindex: '0', role: 'log', 'aria-live': 'off', 'aria-label': 'What the model writes', 'data-first': '',
      lang: text.language(Array.from(app.data.vocabulary.characters.slice(0, 3000))) });
    parts.play = app.button('Write', play, { class: 'main', id: 'play' });
    parts.status = app.element('span', { class: 'choice', role: 'status' });
    parts.copied = app.element('span', { class: 'choice', role: 'status' });
    parts.meaning = app.element('p', { class: 'hint' });
    parts.next = app.element('div', { class: 'next' });
    const panel = controls();
    const left = app.element('div', {}, app.element('label', { class: 'choice', for: 'prime' }, 'Prime: what stands before'), parts.prime,
      app.element('div', { class: 'bar-of-controls' }, parts.play, app.button('Step', () => step()), app.button('Clear', clear), app.button('Copy', copy), parts.status, parts.copied),
      parts.paper, parts.meaning, app.element('h3', {}, 'Next'), parts.next);
    section.append(app.element('div', { class: 'beside' }, left, panel));
    section.addEventListener('keydown', (event) => {
      const busy = event.target.closest('button, input, textarea, select');
      if (event.key !== ' ' || busy || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      play();
    });
    units.listen(() => { if (!section.hidden) show(); });
    show();
  }

  return {
    id: 'write', title: 'Write', mount, withoutText: true,
    lead: 'The model runs here, in this page: it continues a prime one character at a time, each drawn from what it predicts. What it writes is '
      + 'coloured by a unit, as it is after reading each character.',
    unavailable: ({ model: { name } }) => (app.network ? null : `${name} is an n-gram model, whose counts are not in this page. charrnn sample writes with it.`),
    hidden: () => stop(),
    shown: () => show(),
  };
})());
