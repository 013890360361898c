'use strict';
// What every chart is made of: numbers as text, scales, axes, legends, tables, and a plot that one reads by pointer,
// finger or keys. A chart is drawn anew at each width, so its text keeps its size on a phone. Colours are the page's
// --series-1 to --series-6: an element of class series-N hands its own down as --colour.

const charts = (() => {
  const TEXT = 12;                      // px: font size, as in charts.css
  const LETTER = 6.6;                   // px: mean width of a digit or Latin letter at that size
  const COLOURS = 6;

  // Numbers as text

  const SUPERSCRIPTS = { '-': '⁻', 0: '⁰', 1: '¹', 2: '²', 3: '³', 4: '⁴', 5: '⁵', 6: '⁶', 7: '⁷', 8: '⁸', 9: '⁹' };
  const superscript = (integer) => [...String(integer)].map((digit) => SUPERSCRIPTS[digit]).join('');

  /** Return a number with three significant digits: 0.0512, 1230, 2.1 × 10⁻⁶. */
  function number(value) {
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 1e6)) {
      const [digits, exponent] = value.toExponential(1).split('e');
      return `${digits.replace('-', '−')} × 10${superscript(Number(exponent))}`;
    }
    return String(Number(value.toPrecision(3))).replace('-', '−');
  }

  /** Return a power of ten: 0.001 to 1000 in full, others as 10⁻⁶. */
  function power(value) {
    const exponent = Math.round(Math.log10(value));
    return Math.abs(exponent) <= 3 ? String(Number((10 ** exponent).toPrecision(1))) : `10${superscript(exponent)}`;
  }

  /** Return a share in percent; a small one is never 0%, nor a great one 100%. */
  function percent(share) {
    if (share > 0 && share < 0.005) return '< 1%';
    if (share < 1 && share >= 0.995) return '> 99%';
    return `${Math.round(100 * share)}%`;
  }

  const count = (integer) => integer.toLocaleString('en');

  /** Estimate how wide a text is, in px: there is no layout to ask before it is drawn. */
  const width = (words) => [...words].reduce((sum, one) => sum + (one.codePointAt(0) < 0x1100 ? LETTER : TEXT), 0);

  // Scales

  const FORWARD = { linear: (value) => value, log2: Math.log2, log10: Math.log10 };

  /** Return the function that places a value of low ... high between two px. */
  function scale(kind, [low, high], [from, to]) {
    const [first, last] = [low, high].map(FORWARD[kind]);
    return (value) => from + (FORWARD[kind](value) - first) / (last - first || 1) * (to - from);
  }

  /** Return about `most` round values of low ... high: powers of 2 or 10 on a log axis, else multiples of 1, 2 or 5. */
  function ticks(kind, [low, high], most) {
    if (kind === 'linear') {
      const rough = (high - low) / most || 1;
      const unit = 10 ** Math.floor(Math.log10(rough));
      const step = unit * [1, 2, 5, 10].find((times) => times * unit >= rough * 0.999);
      const first = Math.ceil(low / step - 1e-9);
      const length = Math.floor(high / step + 1e-9) - first + 1;
      return Array.from({ length }, (_, i) => Number(((first + i) * step).toPrecision(12)));
    }
    const base = kind === 'log2' ? 2 : 10;
    const first = Math.ceil(FORWARD[kind](low) - 1e-9);
    const length = Math.floor(FORWARD[kind](high) + 1e-9) - first + 1;
    const every = Math.max(1, Math.ceil(length / most));
    return Array.from({ length }, (_, i) => first + i).filter((i) => i % every === 0).map((i) => base ** i);
  }

  /** Return the smallest of these multiples of a power of ten that is not below the value. */
  function roundUp(value, multiples) {
    const unit = 10 ** Math.floor(Math.log10(value));
    return multiples.map((times) => times * unit).find((high) => high >= value * (1 - 1e-9));
  }

  // Pieces of a drawing

  const colour = (index) => `series-${index && (index - 1) % COLOURS + 1}`;             // 0 is grey
  const text = (x, y, words, anchor = 'start', name = '') =>
    app.svg('text', { x, y, 'text-anchor': anchor, class: name }, words);
  const segment = (x1, y1, x2, y2, name) => app.svg('line', { x1, y1, x2, y2, class: name });

  function swatch({ colour: index, dot, block, dashed }) {
    const sign = dot ? app.svg('circle', { cx: 9, cy: 6, r: 4.5, class: 'dot' })
      : block ? app.svg('rect', { x: 3, y: 1, width: 11, height: 10, rx: 2, class: 'block' })
        : segment(0, 6, 18, 6, dashed ? 'line dashed' : 'line');
    const size = { width: 18, height: 12, viewBox: '0 0 18 12' };
    return app.svg('svg', { ...size, class: colour(index), 'aria-hidden': 'true' }, sign);
  }

  const legend = (entries) => app.element('ul', { class: 'legend' },
    ...entries.map((entry) => app.element('li', {}, swatch(entry), app.element('span', {}, entry.name))));

  /** Draw grid lines, ticks and names of two axes {label, ticks, place, format} around a box. */
  function axes(box, x, y) {
    const rows = y.ticks.flatMap((value) => [
      segment(box.left, y.place(value), box.right, y.place(value), 'grid'),
      text(box.left - 8, y.place(value) + 4, y.format(value), 'end')]);
    const columns = x.ticks.flatMap((value) => [
      segment(x.place(value), box.base, x.place(value), box.base + 5, 'tick'),
      text(x.place(value), box.base + 18, x.format(value), 'middle')]);
    return [...rows, ...columns, segment(box.left, box.base, box.right, box.base, 'axis'),
      text(0, 12, `↑ ${y.label}`), text(box.right, box.base + 37, `${x.label} →`, 'end')];
  }

  /** Move labels {y} up or down until none touches the next, within top ... bottom; return them by height. */
  function apart(labels, top, bottom) {
    const line = TEXT + 3;
    labels.sort((one, other) => one.y - other.y);
    labels.forEach((label, i) => { label.y = Math.max(label.y, i ? labels[i - 1].y + line : top); });
    let limit = bottom;
    for (const label of [...labels].reverse()) {
      label.y = Math.min(label.y, limit);
      limit = label.y - line;
    }
    return labels;
  }

  // Words around charts

  const finding = (...words) => app.element('p', { class: 'finding' }, ...words);
  const aside = (...words) => app.element('p', { class: 'aside' }, ...words);

  /** Return the sentence of a view whose table is not in the page. */
  const missing = (what, option) => `${what} not been measured for this page: charrnn inspect TEXT -m MODEL `
    + `-o page.html does it, charrnn inspect ${option} prints it.`;

  // Figures

  /** Fold the numbers of a chart away in a table that is made when it is first opened: rows() -> [[text, ...], ...]. */
  function table(columns, rows) {
    const head = app.element('tr', {}, ...columns.map((words) => app.element('th', { scope: 'col' }, words)));
    const body = app.element('tbody', {});
    const cell = (words, i) => i ? app.element('td', {}, words) : app.element('th', { scope: 'row' }, words);
    const scroll = { class: 'scroll', tabindex: '0', role: 'group', 'aria-label': 'Table of the numbers' };
    const details = app.element('details', { class: 'numbers' }, app.element('summary', {}, 'Numbers'),
      app.element('div', scroll, app.element('table', {}, app.element('thead', {}, head), body)));
    const fill = () => body.append(...rows().map((row) => app.element('tr', {}, ...row.map(cell))));
    details.addEventListener('toggle', fill, { once: true });
    return details;
  }

  const figure = (title, ...parts) => app.element('figure', { class: 'chart' },
    app.element('figcaption', {}, title), ...parts.filter(Boolean));

  /** Call draw(width in px) once the element has a width, and whenever that changes. */
  function atEachWidth(box, draw) {
    let last = 0;
    new ResizeObserver(() => {
      const now = Math.floor(box.clientWidth);
      if (now > 0 && now !== last) draw(last = now);
    }).observe(box);
  }

  /** Show beside a point of a plot what is read there: {x, y, title, lines: [{text, colour}]}. */
  function showTip(tip, { x, y, title, lines }) {
    tip.replaceChildren(app.element('strong', {}, title),
      ...lines.map((line) => app.element('div', {}, ...(line.colour ? [swatch(line)] : []), line.text)));
    tip.hidden = false;
    const room = tip.parentNode.clientWidth - tip.offsetWidth;
    const left = x + 14 <= room ? x + 14 : x - 14 - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, left))}px`;
    tip.style.top = `${Math.max(0, y - tip.offsetHeight / 2)}px`;
  }

  /**
   * Make a plot of numbered readings: pointer, finger or arrow keys go from one to another; click, tap, Enter pick(i).
   * draw(width) -> {node, nearest(x, y) -> i or null, read(i)}: read marks i in the drawing, returns what a tip shows.
   */
  function readable({ label, readings, draw, pick = null }) {
    const tip = app.element('div', { class: 'tooltip' });
    const canvas = app.element('div', {});
    const plot = app.element('div', { class: 'plot', tabindex: '0', role: 'slider', 'aria-label': label,
      'aria-valuemin': '0', 'aria-valuemax': String(readings - 1) }, canvas, tip);
    let drawn = null;
    let index = null;

    function show(i) {
      index = i;
      const reading = drawn.read(i);
      showTip(tip, reading);
      plot.setAttribute('aria-valuenow', String(i));
      plot.setAttribute('aria-valuetext', [reading.title, ...reading.lines.map((line) => line.text)].join(', '));
    }
    function hide() {
      index = null;
      tip.hidden = true;
      plot.setAttribute('aria-valuenow', '0');
      plot.setAttribute('aria-valuetext', 'arrow keys read the values');
      drawn?.read(null);
    }
    function point(event) {
      const corner = plot.getBoundingClientRect();
      const found = drawn.nearest(event.clientX - corner.left, event.clientY - corner.top);
      if (found === null) hide();
      else if (found !== index) show(found);
      return found;
    }
    function press(event) {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10 }[event.key];
      const end = { Home: 0, End: readings - 1 }[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (end !== undefined) show(end);
      else if (step) show(index === null ? 0 : Math.max(0, Math.min(readings - 1, index + step)));
      else if (event.key === 'Enter' && pick && index !== null) pick(index);
      else if (event.key === 'Escape' && index !== null) hide();
      else return;
      event.preventDefault();
      event.stopPropagation();          // the page's own arrow keys select characters
    }

    hide();
    plot.addEventListener('pointermove', point);
    plot.addEventListener('click', (event) => {
      const found = point(event);
      if (found !== null && pick) pick(found);
    });
    plot.addEventListener('pointerleave', (event) => {
      if (event.pointerType === 'mouse' && document.activeElement !== plot) hide();
    });
    plot.addEventListener('blur', hide);
    plot.addEventListener('keydown', press);
    atEachWidth(plot, (now) => {
      drawn = draw(now);
      canvas.replaceChildren(drawn.node);
      if (index !== null) show(index);
    });
    return plot;
  }

  return { number, power, percent, count, width, scale, ticks, roundUp, colour, text, segment, legend, axes, apart,
    finding, aside, missing, table, figure, atEachWidth, readable };
})();
