'use strict';
// View 2: the text coloured by a unit, with a list of the units most worth looking at.

app.views.add((() => {
  const AROUND = 40; // characters of the plot on each side at most
  const HOW = 'AUC (the area under the ROC curve; 0.5 is chance) and Pearson’s r are those of the half of the text in '
    + 'which the unit was not searched for. “Low”: the unit is low where the feature holds.';
  const NONE = 'No unit follows one of the features that charrnn knows more closely than chance. ';
  const UNMEASURED = 'What units follow has not been measured for this page. ';
  const ANY = 'Any unit can be looked at all the same.';
  let parts = null;
  let listed = []; // the units of the list

  const { choose, name } = signals;
  const decimals = (value, digits) => value.toFixed(digits).replace('-', '−');

  // The text

  function paint() {
    const signal = signals.current, { direction, layer, state, unit } = signal, { run } = app;
    let largest = 1e-9;
    if (signals.relative(signal)) {
      for (const value of run.signal(direction, layer, state, unit)) largest = Math.max(largest, Math.abs(value) || 0);
    }
    const limit = () => (direction === 'backward' && !run.complete ? 0 : run.count);
    parts.text.paint((i) => signals.colour(signal, run.value(signal, i), largest), limit);
    parts.meaning.textContent = signals.meaning(signal);
  }

  // The list

  function item(unit, index) {
    const node = app.element('li', { role: 'option', id: `unit-${index}`, 'aria-selected': 'false' },
      app.element('span', {}, unit.feature), app.element('span', { class: 'number' }, signals.statistic(unit)),
      app.element('span', { class: 'place' }, name(unit)));
    node.addEventListener('click', () => choose(unit));
    return node;
  }

  function fill(feature) {
    listed = signals.found(feature);
    parts.list.replaceChildren(...listed.map(item));
    mark();
  }

  const position = () => listed.findIndex((unit) => signals.same(unit, signals.current));

  /** Mark the unit that is shown, in the list, and say what it follows. */
  function mark() {
    const at = position(), { list } = parts, node = list.children[at];
    [...list.children].forEach((one) => one.setAttribute('aria-selected', String(one === node)));
    if (node) {
      list.setAttribute('aria-activedescendant', node.id);
      const below = node.offsetTop + node.offsetHeight - list.clientHeight;
      list.scrollTop = Math.max(below, Math.min(list.scrollTop, node.offsetTop));
    }
    const { units, features } = signals.table();
    const follows = units.filter((unit) => signals.same(unit, signals.current));
    const what = follows.map((unit) => `${unit.feature} (${signals.statistic(unit)})`).join(', ');
    parts.title.replaceChildren(app.element('strong', {}, signals.capital(name(signals.current))),
      follows.length ? ` follows: ${what}.` : '');
    const described = follows.length === 1 && features.find(({ feature }) => feature === follows[0].feature);
    parts.description.textContent = described ? described.description : '';
  }

  /** Walk through the list (up, down), or through the units of a layer (page up, page down). */
  function walk(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowUp: -1, ArrowDown: 1 }[event.key], page = { PageUp: -1, PageDown: 1 }[event.key];
    const { current } = signals, count = app.data.model.hidden_size, at = position();
    if (by && listed.length) choose(listed[at < 0 ? 0 : (at + by + listed.length) % listed.length]);
    else if (page) choose({ ...current, unit: (current.unit + page + count) % count });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Make the list, and above it a choice of what is listed; a sentence where there is nothing to list. */
  function listBox() {
    const { features, units } = signals.table();
    parts.list = app.element('ol', { class: 'found', role: 'listbox', tabindex: '0',
      'aria-label': 'Units that follow something' });
    if (!units.length) return [app.element('p', { class: 'aside' }, (app.data.tables.units ? NONE : UNMEASURED) + ANY)];
    const counts = features.map(({ feature }) => [feature, signals.found(feature).length]).filter(([, count]) => count);
    const filter = signals.choice('Which units', [['', 'Most worth looking at'],
      ...counts.map(([feature, count]) => [feature, `${feature} (${count})`])]);
    filter.addEventListener('change', () => fill(filter.value));
    parts.list.addEventListener('keydown', walk);
    return [filter, parts.list];
  }

  // The plot

  /** Return the characters that have room in a width, and the scales of the plot. */
  function frame(width, signal) {
    const wide = text.language(app.characters) === 'und' ? 9 : 14, left = 34, top = 10, base = 96; // px
    const around = Math.min(AROUND, Math.floor((width - left - 8) / wide / 2)), shown = 2 * around + 1;
    const from = Math.max(0, Math.min(app.selected - around, app.characters.length - shown));
    const to = Math.min(app.characters.length, from + shown), step = (width - left - 8) / shown;
    const values = Array.from({ length: to - from }, (_, at) => app.run.value(signal, from + at));
    const high = signals.bounded(signal.state) ? 1 : Math.max(1, ...values.map((value) => Math.abs(value ?? 0)));
    const low = signals.positive(signal.state) ? 0 : -high;
    const x = (at) => left + (at + 0.5) * step, y = (value) => base - (value - low) / (high - low) * (base - top);
    return { width, left, top, base, from, to, step, values, low, high, x, y };
  }

  /** Draw the characters below the plot; spaces are left out, but not the selected one. */
  function letters({ from, values, x, base }) {
    return values.map((_, at) => {
      const character = app.characters[from + at], chosen = from + at === app.selected;
      const kind = chosen ? 'letter chosen' : 'letter';
      const attributes = { x: x(at), y: base + 20, 'text-anchor': 'middle', class: kind };
      return app.svg('text', attributes, character === ' ' && !chosen ? '' : app.label(character));
    });
  }

  function grid({ width, left, low, high, y }) {
    return [...new Set([low, 0, high])].flatMap((value) => [
      app.svg('line', { x1: left, x2: width, y1: y(value), y2: y(value), class: 'grid' }),
      app.svg('text', { x: left - 6, y: y(value) + 4, 'text-anchor': 'end' },
        String(Number(value.toFixed(1))).replace('-', '−'))]);
  }

  /** Draw the signal around the selected character. */
  function plot() {
    const width = Math.floor(parts.plot.clientWidth), signal = signals.current;
    if (width === 0) return;
    const drawn = frame(width, signal), { left, top, base, from, to, step, values, x, y } = drawn;
    const at = app.selected - from, value = values[at];
    const move = (i) => (i > 0 && values[i - 1] !== undefined ? 'L' : 'M');
    const path = values.map((one, i) => (one === undefined ? '' : `${move(i)}${x(i).toFixed(1)} ${y(one).toFixed(1)}`));
    const cursor = value === undefined ? [] : [
      app.svg('line', { x1: x(at), x2: x(at), y1: top, y2: base, class: 'cursor' }),
      app.svg('circle', { cx: x(at), cy: y(value), r: 4, class: 'point' })];
    const label = `${name(signal)}, around the selected character`;
    const node = app.svg('svg', { width, height: base + 28, role: 'img', 'aria-label': label },
      ...grid(drawn), ...cursor, app.svg('path', { d: path.join(''), class: 'line' }), ...letters(drawn));
    node.addEventListener('click', (event) => {
      const place = Math.floor((event.clientX - node.getBoundingClientRect().left - left) / step);
      if (place >= 0 && from + place < to) app.select(from + place);
    });
    parts.plot.replaceChildren(node);
    // isolated, lest a letter of a script that is written from right to left turn the sentence around
    const character = app.element('b', {}, `\u2068${app.label(app.characters[app.selected])}\u2069`);
    parts.value.replaceChildren('At ', character, `, character ${app.count(app.selected)}: `,
      app.element('b', {}, value === undefined ? 'not read yet' : decimals(value, 3)));
  }

  // The view

  function show() {
    paint();
    mark();
    plot();
  }

  function scale() {
    return app.element('p', { class: 'scale' }, ...[-1, -0.5, 0, 0.5, 1].map((value) => {
      const swatch = app.element('span', {}, String(value).replace('-', '−'));
      swatch.style.backgroundColor = text.signed(value);
      return swatch;
    }));
  }

  function mount(section) {
    signals.begin();
    const paragraph = (kind) => app.element('p', { class: kind });
    const label = 'The text, coloured by a unit; left and right select a character, up and down another unit';
    parts = { text: new text.ColouredText(app.characters, label, app.select), title: paragraph('unit'),
      description: paragraph('aside'), meaning: paragraph('aside'), value: paragraph('value'),
      plot: app.element('div', { class: 'plot-of-unit' }) };
    // before the text's own keys, which would go up and down a line
    parts.text.node.addEventListener('keydown', walk, { capture: true });
    const reading = app.element('div', {},
      app.element('div', { class: 'unit-head', 'aria-live': 'polite' }, parts.title, parts.description),
      app.element('div', { class: 'bar-of-controls' }, scale(), parts.meaning),
      parts.text.node, parts.value, parts.plot,
      app.element('p', { class: 'hint' },
        '← → select a character, ↑ ↓ walk through the list, Page Up and Page Down through all units.'));
    const list = app.element('aside', { class: 'panel' }, ...listBox());
    const any = app.element('aside', { class: 'panel' }, app.element('h3', {}, 'Any unit'),
      signals.picker(app.network.backward ? ['forward', 'backward'] : ['forward']),
      app.element('p', { class: 'hint' }, signals.table().units.length ? HOW : ''));
    section.append(app.element('div', { class: 'beside units' }, reading, list, any));
    fill('');
    signals.listen(() => { if (!section.hidden) show(); });
    new ResizeObserver(plot).observe(parts.plot);
  }

  app.showUnit = (unit) => {
    app.show('units');
    choose(unit);
    parts.text.node.focus();
  };

  return {
    id: 'units', title: 'Units', mount,
    lead: 'The text, coloured by one number of the network’s memory: red is negative, blue positive (Karpathy, Johnson '
      + 'and Li 2015). Some units can be read: they follow quotation marks, the end of a line, the depth of brackets.',
    unavailable: ({ model }) => (app.network ? null
      : `${model.name} is an n-gram model. It counts what followed what, and has no units.`),
    selected(i) {
      parts.text.select(i);
      plot();
    },
    progress() {
      const { current } = signals;
      if (app.run.complete && (signals.relative(current) || current.direction === 'backward')) paint();
      else parts.text.extend();
      if (app.selected >= app.run.count - 200) plot();
    },
    shown() {
      show();
      parts.text.reveal();
    },
  };
})());
