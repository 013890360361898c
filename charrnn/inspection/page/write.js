'use strict';
// View 8: the model writes, coloured by a unit, and if one likes with a unit held.

app.views.add((() => {
  const SPEEDS = [['4', '4 a second'], ['15', '15 a second'], ['60', '60 a second'], ['200', '200 a second'],
    ['Infinity', 'as fast as possible']];
  const FRAME = 12; // ms of a frame that may be spent on writing
  const LONGEST = 20000; // characters on the page at most
  const LENGTH = 500;
  const NEXT = 6; // characters that are offered while it pauses
  let parts = null;
  let writer = null; // from the first character to Clear
  let letters = []; // the spans of the prime that the writer has not read yet
  let playing = false;
  let credit = 0; // characters that are due, at a speed
  let last = 0; // when the last frame was, ms
  let end = 0; // how many characters are to be written
  let largest = 1e-9; // value of the signal, for colours that are relative to it

  const model = () => app.data.model;
  const boundary = () => Array.from(app.data.vocabulary.boundary, app.label).join('');
  const hasDocuments = () => app.data.vocabulary.boundary !== '\n';

  // What the controls say

  const number = (box, otherwise) => {
    const value = box.valueAsNumber;
    return Number.isNaN(value) ? otherwise : Math.max(Number(box.min), Math.min(Number(box.max), value));
  };
  const length = () => number(parts.length, LENGTH);
  const sampling = () => ({ greedy: parts.greedy.checked, temperature: number(parts.temperature, 1),
    minP: number(parts.minP, 0) });

  /** Return which unit is held, null for none. */
  function hold() {
    if (!parts.held?.checked) return null;
    return { layer: Number(parts.holdLayer.value), unit: number(parts.holdUnit, 0), value: number(parts.holdValue, 0) };
  }

  /** Return the signal that colours what is written: that of view 2, in the half that writes. */
  const signal = () => ({ ...signals.current, direction: 'forward' });

  // Writing

  /** Begin anew, with the prime on the paper. */
  function begin() {
    const prime = parts.prime.value;
    writer = new Writer(app.network, prime);
    parts.paper.replaceChildren();
    letters = Array.from(prime, (character) => put(character, 'prime'));
    end = length();
  }

  function put(character, kind) {
    const span = text.letter(character, parts.paper.childElementCount);
    if (kind) span.classList.add(kind);
    parts.paper.append(span);
    return span;
  }

  /** Colour a character by the signal, as it is after reading it. */
  function tint(span) {
    const value = writer.value(signal());
    if (signals.relative(signal())) largest = Math.max(largest, Math.abs(value));
    span.style.backgroundColor = signals.colour(signal(), value, largest);
  }

  /** Read a character of the prime, or write one: the given one, or one that is chosen. Return whether to go on. */
  function advance(token = null) {
    if (writer.pending.length > 0) {
      writer.read(hold());
      // the first one that is read is the boundary, which is not on the paper
      if (letters.length > writer.pending.length) tint(letters.shift());
      return true;
    }
    const character = writer.write(token ?? writer.choose(sampling()), hold());
    if (character !== null) tint(put(character));
    if (parts.whole?.checked && writer.ended) {
      for (const _ of writer.boundary) parts.paper.lastElementChild.remove();
      end = writer.written;
    }
    return writer.written < end && parts.paper.childElementCount < LONGEST;
  }

  /** Write for a part of a frame, as fast as the speed allows. */
  function frame(now) {
    if (!playing) return;
    const speed = Number(parts.speed.value), until = performance.now() + FRAME;
    // a frame that came late is not made up for
    const due = Math.max(0, now - last) / 1000 * speed; // NaN where there is no limit
    credit = speed === Infinity ? speed : Math.min(credit + due, Math.max(1, speed / 10));
    last = now;
    while (playing && performance.now() < until && (writer.pending.length > 0 || credit >= 1)) {
      if (writer.pending.length === 0) credit -= 1;
      if (!advance()) setPlaying(false);
    }
    show();
    if (playing) requestAnimationFrame(frame);
  }

  function setPlaying(on) {
    playing = on;
    app.run.paused = on; // what one waits for comes first
  }

  function play() {
    if (playing) setPlaying(false);
    else {
      if (writer === null) begin();
      if (writer.written >= end) end = writer.written + length();
      setPlaying(parts.paper.childElementCount < LONGEST);
      [credit, last] = [1, performance.now()];
      requestAnimationFrame(frame);
    }
    show();
  }

  /** Write one character, and pause. */
  function step(token = null) {
    setPlaying(false);
    if (writer === null) begin();
    end = Math.max(end, writer.written + 1);
    while (writer.pending.length > 0) advance();
    advance(token);
    show();
  }

  function clear() {
    setPlaying(false);
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
    parts.play.textContent = playing ? 'Pause' : count ? 'Go on' : 'Write';
    parts.status.textContent = count ? `${app.count(count)} characters written` : 'Space starts and pauses.';
    parts.copied.textContent = '';
    if (writer) paper.scrollTop = paper.scrollHeight;
    parts.meaning.textContent = `${signals.capital(signals.name(signal()))}; ${signals.meaning(signal())}.`;
    if (!playing) offer();
  }

  /** Offer the likeliest characters that may come next. */
  function offer() {
    if (writer === null || writer.pending.length > 0) {
      parts.next.replaceChildren(app.element('p', { class: 'aside' }, 'While the model pauses, what it expects next '
        + 'stands here. A character that you pick is written.'));
      return;
    }
    const likeliest = writer.likeliest(NEXT, sampling().temperature);
    parts.next.replaceChildren(text.bars(likeliest, null, ({ token }) => {
      step(token);
      parts.next.querySelector('button')?.focus();
    }));
  }

  // Controls

  const title = (words, kind) => app.element('h3', { class: kind }, words);
  const labelled = (words, box) => app.element('label', { class: 'choice' }, words, box);
  const numberBox = (min, max, value, label) =>
    app.element('input', { type: 'number', inputmode: 'numeric', min, max, value, 'aria-label': label });

  /** Return a slider, and the label that holds it and shows its value. */
  function slider(words, min, max, step_, value) {
    const box = app.element('input', { type: 'range', min, max, step: step_, value }), shown = app.element('output');
    const tell = () => { shown.textContent = Number(box.value).toFixed(2).replace('-', '−'); };
    box.addEventListener('input', tell);
    tell();
    return [box, app.element('label', { class: 'slider' }, app.element('span', {}, words), box, shown)];
  }

  function check(words) {
    const box = app.element('input', { type: 'checkbox' });
    return [box, app.element('label', { class: 'check' }, box, ` ${words}`)];
  }

  function samplingControls() {
    const [temperature, temperatureLabel] = slider('temperature', 0.1, 2, 0.05, 1);
    const [minP, minPLabel] = slider('min-p', 0, 0.5, 0.01, 0.02);
    const [greedy, greedyLabel] = check('Always the likeliest (greedy)');
    Object.assign(parts, { temperature, minP, greedy });
    greedy.addEventListener('change', () => { temperature.disabled = minP.disabled = greedy.checked; });
    temperature.addEventListener('change', show);
    return [title('Sampling', 'first'), temperatureLabel, minPLabel, greedyLabel, app.element('p', { class: 'hint' },
      'min-p 0.02: only characters at least 0.02 times as likely as the likeliest.')];
  }

  function lengthControls() {
    parts.speed = signals.choice('Speed', SPEEDS);
    parts.speed.value = '60';
    parts.length = numberBox(1, LONGEST, LENGTH);
    const controls = app.element('div', { class: 'picker' }, parts.speed, labelled('stop after ', parts.length));
    if (!hasDocuments()) return [title('Speed and length'), controls];
    const [whole, label] = check(`Stop at the end of a document (${boundary()})`);
    parts.whole = whole;
    return [title('Speed and length'), controls, label];
  }

  function colourControls() {
    const list = signals.found().filter(({ direction }) => direction === 'forward');
    const names = list.map((unit, index) => [String(index), `${unit.feature}: ${signals.name(unit)}`]);
    const box = signals.choice('Units most worth looking at', [['', 'Units most worth looking at …'], ...names]);
    const tell = () => {
      const at = list.findIndex((unit) => signals.same(unit, signals.current));
      box.value = at < 0 ? '' : String(at);
    };
    box.addEventListener('change', () => { if (box.value !== '') signals.choose(list[box.value]); });
    signals.listen(tell);
    tell();
    return [title('Colour'), ...(list.length ? [box] : []), signals.picker(['forward'])];
  }

  /** Make the controls that hold a unit; a hidden Markov model has none that could be held. */
  function holdControls() {
    if (model().cell === 'hmm') return [];
    const name = model().cell === 'lstm' ? 'c' : 'h', most = name === 'c' ? 5 : 1;
    const [held, heldLabel] = check(`Hold ${name} of one unit`);
    const [value, valueLabel] = slider('held at', -most, most, 0.05, most / 2);
    const layer = signals.choice('Layer of the held unit', signals.layers());
    const unit = numberBox(0, model().hidden_size - 1, 0, 'Held unit');
    Object.assign(parts, { held, holdValue: value, holdLayer: layer, holdUnit: unit });
    layer.hidden = model().num_layers < 2;
    const take = () => {
      layer.value = signals.current.layer;
      unit.value = signals.current.unit;
    };
    take();
    const details = app.element('div', { class: 'picker', hidden: '' }, layer, labelled('unit ', unit),
      app.button('that of the colours', take), valueLabel);
    held.addEventListener('change', () => { details.hidden = !held.checked; });
    return [title('Hold a unit'), heldLabel, details];
  }

  function mount(section) {
    signals.begin();
    const start = hasDocuments() ? `the beginning of a document, after ${boundary()}` : 'the beginning of a line';
    const status = () => app.element('span', { class: 'choice', role: 'status' });
    parts = { status: status(), copied: status(), meaning: app.element('p', { class: 'hint' }),
      play: app.button('Write', play, { class: 'main', id: 'play' }), next: app.element('div', { class: 'next' }) };
    parts.prime = app.element('textarea', { id: 'prime', rows: 2, placeholder: `Empty: ${start}`, spellcheck: 'false',
      autocapitalize: 'off', autocomplete: 'off' });
    parts.prime.addEventListener('input', clear);
    parts.paper = app.element('div', { class: 'text paper', tabindex: '0', role: 'log', 'aria-live': 'off',
      'aria-label': 'What the model writes', 'data-first': '',
      lang: text.language(Array.from(app.data.vocabulary.characters.slice(0, 3000))) });
    const panel = app.element('aside', { class: 'panel' }, ...samplingControls(), ...lengthControls(),
      ...colourControls(), ...holdControls());
    const buttons = app.element('div', { class: 'bar-of-controls' }, parts.play, app.button('Step', () => step()),
      app.button('Clear', clear), app.button('Copy', copy), parts.status, parts.copied);
    section.append(app.element('div', { class: 'beside' }, app.element('div', {},
      app.element('label', { class: 'choice', for: 'prime' }, 'Prime: what stands before'), parts.prime, buttons,
      parts.paper, parts.meaning, title('Next'), parts.next), panel));
    section.addEventListener('keydown', (event) => {
      const busy = event.target.closest('button, input, textarea, select');
      if (event.key !== ' ' || busy || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      play();
    });
    signals.listen(() => { if (!section.hidden) show(); });
  }

  return {
    id: 'write', title: 'Write', mount, withoutText: true, shown: show, hidden: () => setPlaying(false),
    lead: 'The model runs here, in this page: it continues a prime one character at a time, each drawn from what it '
      + 'predicts. What it writes is coloured by a unit, as it is after reading each character.',
    unavailable: ({ model: { name } }) => (app.network ? null
      : `${name} is an n-gram model, whose counts are not in this page. charrnn sample writes with it.`),
  };
})());
