'use strict';
// View 5, saliency: how much each earlier character mattered to the prediction of the selected one: the norm of the
// gradient of its log probability by that character's input vector (Madsen 2019).

app.views.add((() => {
  const AFTER = 60;                     // characters shown behind the selected one
  const WEAK = 0.01;                    // of the strongest: columns end with the furthest that mattered as much
  const FEWEST = 16;                    // columns, if there are as many
  const STRONGEST = 60;                 // percent of colour behind the character that mattered most
  let parts = null;                     // what is drawn into, once the view is mounted
  let drawn = null;                     // the position that is drawn

  // Numbers

  const rows = () => app.data.tables.saliency.rows;

  /** Return the index of the row whose position is nearest to i, by bisection: rows are in the order of the text. */
  function nearest(i) {
    let [low, high] = [0, rows().length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows()[middle].position < i) low = middle + 1;
      else high = middle;
    }
    const before = Math.max(0, low - 1);
    return Math.abs(rows()[before].position - i) < Math.abs(rows()[low].position - i) ? before : low;
  }

  /** Return the norms for the characters first ... position - 1 of a row: the end of its row of the tensor. */
  function norms(index) {
    const { data, shape } = app.tensors.get('saliency');
    const { position, first } = rows()[index];
    const end = (index + 1) * shape[1];
    return data.subarray(end - (position - first), end);
  }

  /** Return within how many characters back half of the sum lies. */
  function half(values) {
    const total = values.reduce((sum, value) => sum + value, 0);
    let [sum, distance] = [0, 0];
    while (sum < total / 2) sum += values[values.length - ++distance];
    return distance;
  }

  // Words

  // isolated, lest a letter of a script that is written from right to left turn the sentence around
  const quoted = (i) => `“\u2068${app.label(app.characters[i])}\u2069”`;
  const named = (i) => `${quoted(i)}, character ${charts.count(i)}`;
  const back = (distance) => distance === 1 ? 'just before' : `${distance} back`;

  function finding(row, values) {
    const opening = `${named(row.position)}, cost ${row.bits.toFixed(2)} bits.`;
    if (!values.some((value) => value > 0)) return `${opening} Nothing that came before it mattered.`;
    const most = [...values.keys()].sort((one, other) => values[other] - values[one]).slice(0, 3)
      .map((i) => `${quoted(row.first + i)} ${back(values.length - i)}`);
    const list = most.length > 1 ? `${most.slice(0, -1).join(', ')} and ${most[most.length - 1]}` : most[0];
    const within = half(values);
    return `${opening} What mattered most: ${list}. Half of all saliency lies `
      + `${within === 1 ? 'in the character just before' : `within the last ${within} characters`}.`;
  }

  // Drawing

  /** Return a character of the text, coloured by its strength from 0 to 1; a newline as its sign and itself. */
  function letter(i, name, strength = 0) {
    const character = app.characters[i];
    const shown = character === ' ' && name !== 'selected' ? ' ' : app.label(character);
    const span = app.element('span', { class: name, 'data-i': String(i) }, shown);
    if (strength > 0) span.style.setProperty('--strength', `${(STRONGEST * strength).toFixed(1)}%`);
    return character === '\n' ? [span, '\n'] : [span];
  }

  /** Return the letters around a position, those from `first` on coloured by their values, if there are any. */
  function text(first, position, values) {
    const most = Math.max(...values);
    const letters = first > 0 ? [app.element('span', { class: 'later' }, '… ')] : [];
    for (let i = first; i < position; i++) letters.push(...letter(i, 'earlier', values[i - first] / most));
    letters.push(...letter(position, 'selected'));
    const end = Math.min(app.characters.length, position + 1 + AFTER);
    for (let i = position + 1; i < end; i++) letters.push(...letter(i, 'later'));
    return letters;
  }

  function columns(row, values) {
    const strong = Math.max(...values) * WEAK;
    const far = Math.min(values.length, Math.max(FEWEST, values.length - values.findIndex((value) => value >= strong)));
    const distances = Array.from({ length: far }, (_, i) => i + 1);
    const note = far < values.length && `Further back each mattered less than 1/${1 / WEAK} of the strongest.`;
    return charts.lines({ title: 'Saliency by distance', note, columns: true,
      x: { label: 'characters back', kind: 'linear', at: distances },
      y: { label: 'norm of the gradient', kind: 'linear' },
      series: [{ name: 'saliency', colour: 1, values: [...values].reverse().slice(0, far) }],
      name: (i) => `${quoted(row.position - distances[i])} ${back(distances[i])}` });
  }

  function drawRow(index) {
    const row = rows()[index];
    const values = norms(index);
    const { chart } = parts;
    const open = chart.querySelector('details')?.open;
    parts.finding.replaceChildren(finding(row, values));
    parts.box.replaceChildren(...text(row.first, row.position, values));
    chart.replaceChildren(...(values.length ? [columns(row, values)] : []));
    if (open && values.length) chart.querySelector('details').open = true;
  }

  /** Say that a character has no row, and lead to the nearest that has one. */
  function drawMissing(i, { position }) {
    const jump = app.element('button', { type: 'button' }, `Go to ${named(position)}`);
    jump.addEventListener('click', () => {
      app.select(position);
      parts.box.focus();
    });
    parts.finding.replaceChildren(`Saliency has been measured for ${charts.count(rows().length)} of the `
      + `${charts.count(app.characters.length)} characters, not for ${named(i)}. `, jump);
    parts.box.replaceChildren(...text(Math.max(0, i - app.data.tables.saliency.window), i, []));
    parts.chart.replaceChildren();
  }

  function draw(i) {
    if (i === drawn) return;
    drawn = i;
    const index = nearest(i);
    if (rows()[index].position === i) drawRow(index);
    else drawMissing(i, rows()[index]);
    const { box } = parts;
    box.scrollTop = Math.max(0, box.querySelector('.selected').offsetTop - 0.7 * box.clientHeight);
  }

  // Selecting

  /** Select the next (1) or the previous (-1) character that has a row. */
  function move(by) {
    const index = nearest(app.selected);
    const beyond = (rows()[index].position - app.selected) * by > 0;
    const row = rows()[beyond ? index : index + by];
    if (row) app.select(row.position);
  }

  function textBox() {
    const box = app.element('div', { class: 'saliency-text', tabindex: '0', role: 'group',
      'aria-label': 'The text up to the selected character; arrow keys select the previous and the next' });
    box.addEventListener('click', (event) => {
      const span = event.target.closest('[data-i]');
      if (span) app.select(Number(span.dataset.i));
    });
    box.addEventListener('keydown', (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      move(by);
    });
    return box;
  }

  function mount(section) {
    parts = { finding: app.element('p', { class: 'finding', 'aria-live': 'polite' }), box: textBox(),
      chart: app.element('div', { class: 'charts wide' }) };
    const buttons = [['← Previous', -1], ['Next →', 1]].map(([words, by]) => {
      const button = app.element('button', { type: 'button' }, words);
      button.addEventListener('click', () => move(by));
      return button;
    });
    const half = app.data.model.bidirectional ? ' Of a bidirectional model this is the half that reads forwards.' : '';
    section.append(parts.finding, app.element('div', { class: 'readout' }, ...buttons), parts.box, parts.chart,
      charts.aside('The stronger its colour, the more a small change of a character\'s input vector changes the log '
        + 'probability of the outlined one, relative to the character that mattered most (Madsen 2019). This shows '
        + 'what the prediction is sensitive to, not why.' + half));
    draw(app.selected);
  }

  return {
    id: 'saliency', title: 'Saliency', mount,
    selected: (i) => parts && draw(i),
    unavailable({ model, tables }) {
      if (['ngram', 'hmm'].includes(model.cell)) {
        return `${model.name} has no input vectors, and so no gradient by them.`;
      }
      return tables.saliency?.rows.length ? null : charts.missing('Saliency has', '--saliency');
    },
  };
})());
