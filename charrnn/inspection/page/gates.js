'use strict';
// View 6, gates: how much of the time each unit's gate is nearly closed or nearly open (Karpathy, Johnson, Li 2015,
// figure 4).

app.views.add((() => {
  const NAMES = { i: 'input gate', f: 'forget gate', o: 'output gate', r: 'reset gate', z: 'update gate' };
  const MOST = 0.9;                     // of the time: such a gate counts as always open or always closed
  const { percent } = charts;

  const sentence = (words) => words[0].toUpperCase() + words.slice(1);

  /** Return the entries {direction, layer, gate, low, high} by layer: [[name, entries], ...]. */
  function byLayer(entries) {
    const both = entries.some((entry) => entry.direction === 'backward');
    const groups = new Map();
    for (const entry of entries) {
      const name = `${both ? `${entry.direction}, ` : ''}layer ${entry.layer}`;
      groups.set(name, [...(groups.get(name) ?? []), entry]);
    }
    return [...groups];
  }

  /** Say how many units keep their past: by the forget gate of an LSTM, by the update gate of a GRU. */
  function finding(groups) {
    const keepers = groups.map(([name, entries]) => [name, entries.find(({ gate }) => gate === 'f' || gate === 'z')]);
    const { gate } = keepers[0][1];
    const number = (shares) => shares.filter((share) => share > MOST).length;
    const each = (shares) => keepers.map(([name, entry]) =>
      `${charts.count(number(entry[shares]))} of ${charts.count(entry[shares].length)} in ${name}`).join(', ');
    const what = gate === 'f' ? 'its cell' : 'its state';
    return `While the ${NAMES[gate]} ${gate} is open, a unit keeps ${what}. Units in which it is open (above 0.9) for `
      + `more than 90% of the time, and so remember for long: ${each('high')}. Units in which it is closed (below 0.1) `
      + `as often, and that see only the present: ${each('low')}.`;
  }

  function panel([name, entries], gates, pick) {
    const marks = entries.flatMap((entry) => entry.low.map((low, unit) => ({ x: low, y: entry.high[unit], entry, unit,
      colour: gates.indexOf(entry.gate) + 1, name: `${sentence(name)}, ${NAMES[entry.gate]}, unit ${unit}` })));
    const columns = ['unit', ...entries.flatMap(({ gate }) => [`${gate} below 0.1`, `${gate} above 0.9`])];
    const cells = () => entries[0].low.map((_, unit) => [String(unit),
      ...entries.flatMap(({ low, high }) => [percent(low[unit]), percent(high[unit])])]);
    return charts.square({ title: sentence(name), marks, pick, columns, cells,
      x: 'time below 0.1', y: 'time above 0.9', diagonal: 'always one or the other' });
  }

  function mount(section) {
    const { layers } = app.data.tables.gates;
    const groups = byLayer(layers);
    const gates = [...new Set(layers.map((entry) => entry.gate))];
    const readout = app.element('div', { class: 'readout', 'aria-live': 'polite' }, charts.aside(
      'Pick a mark (click, tap, or arrow keys and Enter) to look at its unit in the text.'));
    function pick(mark) {
      const { direction, layer, gate } = mark.entry;
      const button = app.element('button', { type: 'button' }, 'Show it in the text');
      button.addEventListener('click', () => app.showUnit({ direction, layer, state: gate, unit: mark.unit }));
      readout.replaceChildren(app.element('p', {}, app.element('strong', {}, mark.name),
        `: below 0.1 for ${percent(mark.x)} of the time, above 0.9 for ${percent(mark.y)}.`), button);
    }
    const entries = gates.map((gate, i) => ({ name: `${NAMES[gate]} ${gate}`, colour: i + 1, dot: true }));
    section.append(
      charts.finding(finding(groups)),
      charts.aside('Each mark is the gate of one unit. At the top left it is always open, at the bottom right always '
        + 'closed, on the diagonal always one or the other, as a switch is; near the origin it is hardly ever either '
        + 'and lets a part through (after figure 4 of Karpathy, Johnson, Li 2015).'),
      app.element('div', { class: 'chart' }, charts.legend(entries)),
      readout,
      app.element('div', { class: 'charts' }, ...groups.map((group) => panel(group, gates, pick))));
  }

  return {
    id: 'gates', title: 'Gates', mount,
    unavailable({ model, tables }) {
      if (!['lstm', 'gru'].includes(model.cell)) {
        return `${model.name} has no gates. LSTM and GRU have them; a plain RNN, an HMM and an n-gram model do not.`;
      }
      return tables.gates ? null : charts.missing('How often the gates are open has', '--gates');
    },
  };
})());
