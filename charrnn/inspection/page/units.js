'use strict';
// Units: choosing a signal, a unit's h, c or gate; its colours; and view 2, which colours the text by it.

const units = (() => {
  const STATES = { h: 'hidden state', c: 'cell state', i: 'input gate', f: 'forget gate', g: 'candidate', o: 'output gate',
    r: 'reset gate', z: 'update gate', n: 'candidate' };
  const listeners = [];

  const capital = (words) => words[0].toUpperCase() + words.slice(1);
  const model = () => app.data.model;
  const bounded = (state) => state !== 'c' && !(state === 'h' && model().cell === 'rnn' && model().activation !== 'tanh');

  /** Return the states and gates that the units of this model have, by their letters. */
  const states = () => ['h', ...(model().cell === 'lstm' ? ['c'] : []), ...(app.network.gateNames ?? [])];

  const same = (one, other) => ['direction', 'layer', 'state', 'unit'].every((name) => one[name] === other[name]);

  /** Return how a signal is called: "layer 1, unit 137 (c)". */
  function name({ direction, layer, state, unit }) {
    if (model().cell === 'hmm') return `hidden state ${unit}`;
    const place = model().num_layers > 1 ? `layer ${layer}, ` : '';
    return `${model().bidirectional ? `${direction}, ` : ''}${place}unit ${unit} (${state})`;
  }

  /** Return the colour of a signal's value. c has no bounds: its tanh is shown, as the output gate lets it through;
   *  nor have the states of a ReLU, which are divided by the largest. */
  function colour({ state }, value, largest = 1) {
    if (value === undefined || Number.isNaN(value)) return '';
    return text.signed(state === 'c' ? Math.tanh(value) : bounded(state) ? value : value / largest);
  }

  /** Say what the colours of a signal mean. */
  function meaning({ state }) {
    if (state === 'c') return 'colour: tanh(c), since c has no bounds';
    if (model().cell === 'hmm') return 'colour: the probability of the hidden state, 0 to 1';
    if (!bounded(state)) return 'colour: h divided by its largest value here';
    return state === 'h' || state === 'g' || state === 'n' ? 'colour: −1 to 1' : 'colour: 0, closed, to 1, open';
  }

  function choose(signal) {
    units.current = signal;
    for (const listen of listeners) listen(signal);
  }

  /** Return a select of [value, words] pairs. */
  const choice = (label, pairs) => app.element('select', { 'aria-label': label },
    ...pairs.map(([value, words]) => app.element('option', { value }, words)));

  /** Make the controls that choose any signal; `directions` are those that may be chosen. */
  function picker(directions) {
    const range = (count) => Array.from({ length: count }, (_, index) => [index, `layer ${index}`]);
    const last = model().hidden_size - 1;
    const direction = choice('Direction', directions.map((one) => [one, one]));
    const layer = choice('Layer', range(model().num_layers));
    const state = choice('State or gate', states().map((one) => [one, `${one}, ${STATES[one]}`]));
    const unit = app.element('input', { type: 'number', min: 0, max: last, 'aria-label': 'Unit', inputmode: 'numeric' });
    const slider = app.element('input', { type: 'range', min: 0, max: last, 'aria-label': 'Unit' });
    direction.hidden = directions.length < 2;
    layer.hidden = model().num_layers < 2;
    state.hidden = states().length < 2;
    const read = (number) => choose({ direction: direction.value, layer: Number(layer.value), state: state.value,
      unit: Math.max(0, Math.min(last, Math.round(Number(number)))) });
    for (const box of [direction, layer, state]) box.addEventListener('change', () => read(unit.value));
    unit.addEventListener('change', () => read(unit.value));
    slider.addEventListener('input', () => read(slider.value));
    const node = app.element('div', { class: 'picker' }, direction, layer, state,
      app.element('label', { class: 'choice' }, model().cell === 'hmm' ? 'state ' : 'unit ', unit), slider);
    const show = (signal) => {
      direction.value = signal.direction;
      layer.value = signal.layer;
      state.value = signal.state;
      unit.value = slider.value = signal.unit;
    };
    show(units.current);
    listeners.push(show);
    return node;
  }

  // What was found to follow something: data.tables.units

  const table = () => app.data.tables.units ?? { units: [], features: [] };

  /** Return the units most worth looking at; of a feature, all that follow it. */
  function found(feature = null) {
    const { units: all, highlights } = table();
    if (feature === null) return highlights ?? all.slice(0, 12);
    return all.filter((one) => one.feature === feature);
  }

  /** Say how closely a unit follows its feature, in the half of the text in which it was not searched for. */
  function statistic({ statistic: kind, sign = 1, confirmed }) {
    if (kind === 'auc') return `AUC ${confirmed.toFixed(2)}${sign < 0 ? ', low' : ''}`;
    return `r ${(sign * confirmed).toFixed(2)}`.replace('-', '−');
  }

  /** Return the unit to begin with. */
  const first = () => {
    const [best] = found();
    return best ? { direction: best.direction, layer: best.layer, state: best.state, unit: best.unit }
      : { direction: 'forward', layer: model().num_layers - 1, state: states().includes('c') ? 'c' : 'h', unit: 0 };
  };

  /** Begin with a signal; once, by whichever view is first. */
  const begin = () => { units.current ??= first(); };

  return { begin, bounded, capital, choice, choose, colour, found, listen: (listener) => listeners.push(listener), meaning,
    name, picker, same, statistic, table, current: null };
})();

app.views.add((() => {
  const AROUND = 40; // characters of the plot on each side at most
  const HOW = 'AUC (the area under the ROC curve; 0.5 is chance) and Pearson’s r are those of the half of the text in which the '
    + 'unit was not searched for. “Low”: the unit is low where the feature holds.';
  let parts = null;
  let largest = 1;
  let listed = [];

  const { choose, name, same } = units;
  const signalOf = ({ direction, layer, state, unit }) => ({ direction, layer, state, unit });

  // The text

  function paint() {
    const signal = units.current, { run } = app;
    if (!units.bounded(signal.state) && signal.state !== 'c') {
      const { direction, layer, state, unit } = signal;
      largest = run.signal(direction, layer, state, unit).reduce((most, value) => Math.max(most, Math.abs(value) || 0), 1e-9);
    }
    const back = signal.direction === 'backward';
    parts.text.paint((i) => units.colour(signal, run.value(signal, i), largest), () => (back && !run.complete ? 0 : run.count));
    parts.meaning.textContent = units.meaning(signal);
  }

  // The list

  function item(unit) {
    const place = app.element('span', { class: 'place' }, name(unit));
    const node = app.element('li', { role: 'option', 'aria-selected': 'false' },
      app.element('span', {}, unit.feature), app.element('span', { class: 'number' }, units.statistic(unit)), place);
    node.addEventListener('click', () => choose(signalOf(unit)));
    return node;
  }

  function fill(feature) {
    listed = units.found(feature === '' ? null : feature);
    parts.list.replaceChildren(...listed.map(item));
    mark();
  }

  const index = () => listed.findIndex((unit) => same(unit, units.current));

  /** Mark the unit that is shown, and say what it follows. */
  function mark() {
    const at = index();
    [...parts.list.children].forEach((node, i) => node.setAttribute('aria-selected', String(i === at)));
    const node = parts.list.children[at], { list } = parts;
    if (node) {
      if (node.offsetTop < list.scrollTop) list.scrollTop = node.offsetTop;
      const below = node.offsetTop + node.offsetHeight - list.clientHeight;
      if (below > list.scrollTop) list.scrollTop = below;
    }
    const follows = units.table().units.filter((unit) => same(unit, units.current));
    const { features } = units.table();
    const description = (unit) => features.find(({ feature }) => feature === unit.feature)?.description ?? '';
    parts.title.replaceChildren(app.element('strong', {}, units.capital(name(units.current))),
      ...(follows.length ? [` follows: ${follows.map((unit) => `${unit.feature} (${units.statistic(unit)})`).join(', ')}.`] : []));
    parts.description.textContent = follows.length === 1 ? description(follows[0]) : '';
  }

  /** Walk through the list (up, down), or through the units of a layer (page up, page down). */
  function walk(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key], page = { PageUp: -1, PageDown: 1 }[event.key];
    const { current } = units, count = app.data.model.hidden_size;
    if (by && listed.length) {
      const at = index();
      choose(signalOf(listed[at < 0 ? 0 : (at + by + listed.length) % listed.length]));
    } else if (page) choose({ ...current, unit: (current.unit + page + count) % count });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function listBox() {
    const { features, units: all } = units.table();
    parts.list = app.element('ol', { class: 'found', role: 'listbox', tabindex: '0', 'aria-label': 'Units most worth looking at' });
    if (!all.length) {
      const words = app.data.tables.units ? 'No unit of this model follows one of the features that charrnn knows more closely than chance. Any '
        + 'unit can be looked at all the same.'
        : 'What units follow has not been measured for this page. Any unit can be looked at all the same.';
      return [app.element('p', { class: 'aside' }, words)];
    }
    const followed = features.map(({ feature }) => [feature, all.filter((unit) => unit.feature === feature).length]).filter(([, count]) => count);
    const filter = units.choice('Which units', [['', 'Most worth looking at'], ...followed.map(([feature, count]) => [feature, `${feature} (${count})`])]);
    filter.addEventListener('change', () => fill(filter.value));
    parts.list.addEventListener('keydown', walk);
    return [filter, parts.list];
  }

  // The plot

  /** Draw the signal around the selected character, whose number stands beside it. */
  function plot() {
    const width = Math.floor(parts.plot.clientWidth), { run } = app, signal = units.current;
    if (width === 0) return;
    const wide = text.language(app.characters) === 'und' ? 9 : 14; // px of a character
    const around = Math.min(AROUND, Math.floor((width - 42) / wide / 2)), shown = 2 * around + 1;
    const from = Math.max(0, Math.min(app.selected - around, app.characters.length - shown));
    const to = Math.min(app.characters.length, from + shown);
    const values = Array.from({ length: to - from }, (_, at) => run.value(signal, from + at));
    const there = values.filter((value) => value !== undefined);
    const closed = units.bounded(signal.state) && (app.data.model.cell === 'hmm' || !['h', 'g', 'n'].includes(signal.state));
    const extent = units.bounded(signal.state) ? 1 : Math.max(1, ...there.map(Math.abs));
    const low = closed ? 0 : -extent, left = 34, top = 10, base = 96, step = (width - left - 8) / Math.max(1, shown);
    const x = (at) => left + (at + 0.5) * step, y = (value) => base - (value - low) / (extent - low) * (base - top);
    const path = values.map((value, at) => value === undefined ? '' : `${at && values[at - 1] !== undefined ? 'L' : 'M'}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join('');
    const ticks = [...new Set([low, 0, extent])].flatMap((value) => [
      app.svg('line', { x1: left, x2: width, y1: y(value), y2: y(value), class: 'grid' }),
      app.svg('text', { x: left - 6, y: y(value) + 4, 'text-anchor': 'end' }, String(Number(value.toFixed(1))).replace('-', '−'))]);
    const letters = values.map((_, at) => app.svg('text', { x: x(at), y: base + 20, 'text-anchor': 'middle',
      class: from + at === app.selected ? 'letter chosen' : 'letter' }, app.characters[from + at] === ' ' && from + at !== app.selected ? '' : app.label(app.characters[from + at])));
    const at = app.selected - from, value = values[at];
    const cursor = value === undefined ? [] : [app.svg('line', { x1: x(at), x2: x(at), y1: top, y2: base, class: 'cursor' }),
      app.svg('circle', { cx: x(at), cy: y(value), r: 4, class: 'point' })];
    const node = app.svg('svg', { width, height: base + 28, role: 'img',
      'aria-label': `${name(signal)} around the selected character: ${value?.toFixed(2)}` }, ...ticks, ...cursor, app.svg('path', { d: path, class: 'line' }), ...letters);
    node.addEventListener('click', (event) => {
      const place = Math.floor((event.clientX - node.getBoundingClientRect().left - left) / step);
      if (place >= 0 && from + place < to) app.select(from + place);
    });
    parts.plot.replaceChildren(node);
    const character = app.element('b', {}, `\u2068${app.label(app.characters[app.selected])}\u2069`);
    parts.value.replaceChildren('At ', character, `, character ${app.count(app.selected)}: `,
      app.element('b', {}, value === undefined ? 'not read yet' : value.toFixed(3).replace('-', '−')));
  }

  // The view

  function show() {
    paint();
    mark();
    plot();
  }

  function mount(section) {
    units.begin();
    const p = (name) => app.element('p', { class: name });
    const coloured = new text.ColouredText(app.characters, 'The text, coloured by a unit; left and right select a character, '
      + 'up and down another unit', app.select);
    parts = { text: coloured, title: p('unit'), description: p('aside'), meaning: p('aside'), value: p('value'),
      plot: app.element('div', { class: 'plot-of-unit' }) };
    const box = app.element('aside', { class: 'panel' }, ...listBox());
    const any = app.element('aside', { class: 'panel' }, app.element('h3', {}, 'Any unit'),
      units.picker(app.network.backward ? ['forward', 'backward'] : ['forward']), app.element('p', { class: 'hint' }, units.table().units.length ? HOW : ''));
    // before the text's own keys, which would go up and down a line
    coloured.node.addEventListener('keydown', walk, { capture: true });
    const scale = app.element('p', { class: 'scale' }, ...[-1, -0.5, 0, 0.5, 1].map((value) => {
      const swatch = app.element('span', {}, String(value).replace('-', '−'));
      swatch.style.backgroundColor = text.signed(value);
      return swatch;
    }));
    const left = app.element('div', {}, app.element('div', { class: 'unit-head', 'aria-live': 'polite' }, parts.title, parts.description),
      app.element('div', { class: 'bar-of-controls' }, scale, parts.meaning), coloured.node, parts.value, parts.plot,
      app.element('p', { class: 'hint' }, '← → select a character, ↑ ↓ walk through the list, Page Up and Page Down through all units.'));
    section.append(app.element('div', { class: 'beside units' }, left, box, any));
    if (listed !== null && units.table().units.length) fill('');
    else mark();
    units.listen(() => { if (!section.hidden) show(); });
    new ResizeObserver(plot).observe(parts.plot);
    coloured.select(app.selected);
  }

  app.showUnit = (unit) => {
    units.current = signalOf(unit);
    app.show('units');
    choose(signalOf(unit));
    parts.text.node.focus();
  };

  return {
    id: 'units', title: 'Units', mount,
    lead: 'The text, coloured by one number of the network’s memory: red is negative, blue positive (Karpathy, Johnson and '
      + 'Li 2015). Some units can be read: they follow quotation marks, the end of a line, the depth of brackets.',
    unavailable: ({ model }) => (app.network ? null : `${model.name} is an n-gram model. It counts what followed what, and has no units.`),
    selected(i) {
      parts.text.select(i);
      plot();
    },
    progress() {
      if (app.run.complete && !units.bounded(units.current.state)) paint();
      else parts.text.extend();
      if (app.selected >= app.run.count - 200) plot();
    },
    shown() {
      show();
      parts.text.reveal();
    },
  };
})());
