'use strict';
// View 4, reach: how far back a model uses its text (Khandelwal et al. 2018), and how far back its gradient flows.

app.views.add((() => {
  const NOTHING = 0.01;                 // bits/char: less cannot be told from the noise of some hundred positions
  const FLOOR = 0.001;                  // bits/char: where the axis ends
  const DECADES = 10;                   // of gradient norms that the axis shows at most
  const STEPS = [1, 2, 5, 10];          // times a power of ten: where an axis may end
  const RECURRENT = ['rnn', 'gru', 'lstm'];
  const { number } = charts;

  const characters = (n) => n === 1 ? 'character' : `${n} characters`;

  // What the numbers say

  /** Return the first distance from which on nothing more is lost, null if something still is at the greatest. */
  function enough(distances, lost) {
    return distances[lost.findLastIndex((bits) => bits >= NOTHING) + 1] ?? null;
  }

  function truncation({ distances, truncated }) {
    const last = truncated.findLastIndex((bits) => bits >= NOTHING);
    if (last === -1) return `loses nothing even when it sees only the last ${characters(distances[0])}`;
    const loses = `loses ${truncated[last].toFixed(2)} bits/char when it sees only the last `
      + `${characters(distances[last])}`;
    if (last + 1 < distances.length) return `${loses}; from ${distances[last + 1]} on nothing (less than ${NOTHING})`;
    return `still ${loses}: it remembers further back than was measured`;
  }

  function shuffling({ distances, shuffled }) {
    const order = enough(distances, shuffled);
    if (order === null) return `Order still matters further back than ${characters(distances[distances.length - 1])}.`;
    if (order === distances[0]) return 'In which order characters came does not matter to it.';
    return `Order matters within the last ${characters(order)}: to shuffle those further back loses nothing.`;
  }

  /** Return the distance at which norms have fallen to 1/100, read between two measured ones on log axes, or null. */
  function hundredth(distances, norms) {
    const limit = norms[0] / 100;
    const i = norms.findIndex((norm) => norm <= limit);
    if (i <= 0) return null;
    const share = norms[i] > 0 ? Math.log(norms[i - 1] / limit) / Math.log(norms[i - 1] / norms[i]) : 1;
    return Math.round(distances[i - 1] * (distances[i] / distances[i - 1]) ** share);
  }

  function fall(distances, norms) {
    const at = hundredth(distances, norms);
    const end = distances[distances.length - 1];
    const ratio = norms[norms.length - 1] / norms[0];
    if (at !== null) return `falls to 1/100 at a distance of ${at}`;
    return ratio > 1 ? `grows to ${number(ratio)} times its first value at a distance of ${end}`
      : `still has ${number(ratio)} of its first value at a distance of ${end}`;
  }

  function gradientSentence({ distances, gradient }) {
    if (!gradient && RECURRENT.includes(app.data.model.cell)) return '';
    if (!gradient) return 'It has no gradient: it is not a recurrent network.';
    if (gradient.hidden[0] === null) return 'For its gradient the text is too short.';
    const hidden = `Its gradient by the hidden state ${fall(distances, gradient.hidden)}`;
    return gradient.cell ? `${hidden}; that by the cell state ${fall(distances, gradient.cell)}.` : `${hidden}.`;
  }

  /** Say where the model predicts better without its distant past. */
  function gain({ distances, truncated }) {
    const least = Math.min(...truncated);
    if (least > -NOTHING) return '';
    const at = distances[truncated.indexOf(least)];
    return ` With the last ${characters(at)} alone it predicts better, by ${(-least).toFixed(2)} bits/char.`;
  }

  const finding = (table) =>
    charts.finding(`This model ${truncation(table)}.${gain(table)} ${shuffling(table)} ${gradientSentence(table)}`);

  /** Return a line of a table that compares models. */
  function summary(table) {
    const { distances, truncated, shuffled, gradient } = table;
    const last = distances[distances.length - 1];
    const known = (lost) => String(enough(distances, lost) ?? `> ${last}`);
    const fallen = (norms) => norms && norms[0] !== null ? String(hundredth(distances, norms) ?? `> ${last}`) : '–';
    return [table.bits.toFixed(2), known(truncated), known(shuffled), fallen(gradient?.hidden), fallen(gradient?.cell)];
  }

  function comparison(tables) {
    const columns = ['model', 'bits/char', 'sees back', 'order matters within', 'h at 1/100', 'c at 1/100'];
    const head = app.element('tr', {}, ...columns.map((words) => app.element('th', { scope: 'col' }, words)));
    const rows = tables.map((table, i) => app.element('tr', {},
      app.element('th', { scope: 'row' }, app.element('span', { class: `named ${charts.colour(i + 1)}` }, table.model)),
      ...summary(table).map((words) => app.element('td', {}, words))));
    return app.element('div', { class: 'numbers' },
      app.element('div', { class: 'scroll', tabindex: '0', role: 'group', 'aria-label': 'The models compared' },
        app.element('table', {}, app.element('thead', {}, head), app.element('tbody', {}, ...rows))),
      charts.aside(`Sees back: more characters than these gain less than ${NOTHING} bits/char. Order matters within: `
        + 'to shuffle those further back loses less than that. h and c at 1/100: the distance at which the gradient by '
        + 'the hidden state and by the cell state has fallen to 1/100.'));
  }

  // Charts

  /** Return every distance of any model. */
  const allDistances = (tables) => [...new Set(tables.flatMap((table) => table.distances))].sort((a, b) => a - b);

  /** Return a model's values at these distances, null where it has none. */
  const aligned = (at, { distances }, values) => at.map((distance) => values[distances.indexOf(distance)] ?? null);

  function lossCharts(tables) {
    const at = allDistances(tables);
    const most = Math.max(NOTHING, ...tables.flatMap((table) => [...table.truncated, ...table.shuffled]));
    const plot = (title, series) => charts.lines({ title, series, name: (i) => `k = ${at[i]}`,
      x: { label: 'k', kind: 'log2', at },
      y: { label: 'bits/char lost', kind: 'log10', floor: FLOOR, high: charts.roundUp(most, STEPS) } });
    if (tables.length > 1) {
      const lines = (kind) => tables.map((table, i) =>
        ({ name: table.model, colour: i + 1, values: aligned(at, table, table[kind]) }));
      return [plot('Lost when only the last k characters are seen', lines('truncated')),
        plot('Lost when those further back than k are shuffled', lines('shuffled'))];
    }
    const [table] = tables;
    return [plot('What the model loses without the distant past', [
      { name: 'only the last k are seen', colour: 1, values: aligned(at, table, table.truncated) },
      { name: 'further back is shuffled', colour: 2, values: aligned(at, table, table.shuffled) }])];
  }

  /** Return the lines of a signal: of one model all layers and each layer, of several models all layers of each. */
  function gradientLines(tables, several, at, signal) {
    const [{ gradient }] = tables;
    const line = (table, name, colour, values, dashed = false) =>
      ({ name, colour, dashed, values: values && aligned(at, table, values) });
    const lines = several || gradient.layers.length < 2
      ? tables.map((table) => line(table, table.model, table.colour, table.gradient[signal]))
      : [line(tables[0], 'all layers', 1, gradient[signal]),
        ...gradient.layers.map((one) => line(tables[0], `layer ${one.layer}`, one.layer + 2, one[signal], true))];
    return lines.filter((one) => one.values);
  }

  function gradientCharts(tables) {
    const recurrent = tables.map((table, i) => ({ ...table, colour: i + 1 }))
      .filter(({ gradient }) => gradient && gradient.hidden[0] !== null);
    if (!recurrent.length) return [];
    const at = allDistances(recurrent);
    const signals = [['hidden', 'Gradient by the hidden state h'], ['cell', 'Gradient by the cell state c']]
      .map(([signal, title]) => ({ title, series: gradientLines(recurrent, tables.length > 1, at, signal) }))
      .filter(({ series }) => series.length);
    const norms = signals.flatMap(({ series }) => series).flatMap((one) => one.values).filter((norm) => norm > 0);
    const [least, most] = [Math.min(...norms), Math.max(...norms)].map(Math.log10);
    const floor = 10 ** Math.max(Math.floor(least), Math.ceil(most) - DECADES);
    return signals.map(({ title, series }) => charts.lines({ title, series, name: (i) => `${characters(at[i])} back`,
      x: { label: 'characters back', kind: 'log2', at },
      y: { label: 'norm, nats', kind: 'log10', floor, high: charts.roundUp(10 ** most, STEPS) } }));
  }

  // The view

  function mount(section) {
    const tables = app.data.tables.reach;
    const grid = (figures) => app.element('div', { class: figures.length > 1 ? 'charts' : 'charts wide' }, ...figures);
    const gradients = gradientCharts(tables);
    const [{ bits, positions }] = tables;
    const whole = tables.length > 1 ? '' : ` With its whole past the model needs ${bits.toFixed(2)} bits/char there.`;
    const half = app.data.model.bidirectional ? ' Of a bidirectional model this is the half that reads forwards.' : '';
    section.append(
      tables.length > 1 ? comparison(tables) : finding(tables[0]),
      grid(lossCharts(tables)),
      charts.aside(`Measured at ${charts.count(positions)} positions.${whole} Shuffled: before the last k `
        + 'characters it reads some from further back, in random order (Khandelwal et al. 2018).' + half));
    if (!gradients.length) return;
    section.append(grid(gradients), charts.aside('How strongly the loss at a character changes with the state so many '
      + 'characters before: the mean norm of the gradient. On these axes a power law is a straight line; what vanishes '
      + 'exponentially bends down ever more steeply.'));
  }

  return {
    id: 'reach', title: 'Reach', mount,
    unavailable: ({ tables }) =>
      tables.reach?.length ? null : charts.missing('How far back the model remembers has', '--reach'),
  };
})());
