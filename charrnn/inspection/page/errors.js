'use strict';
// View 7, errors: where the bits go, by class of character, and which of them an oracle would have spared the model
// (Karpathy, Johnson, Li 2015).

app.views.add((() => {
  const { aside, count, finding, percent } = charts;
  const sum = (list, field) => list.reduce((total, one) => total + one[field], 0);
  const perCharacter = ({ bits, characters }) => (bits / characters).toFixed(2);

  // By class

  function classFinding(table) {
    const excess = (one) => one.bits / table.bits - one.characters / table.characters;
    const [hardest] = [...table.classes].sort((one, other) => excess(other) - excess(one));
    return finding(`The model needs ${perCharacter(table)} bits/char for these `
      + `${count(table.characters)} characters. Furthest above its share is the class `,
      app.element('strong', {}, hardest.class), `, with ${percent(hardest.bits / table.bits)} of the bits for `
      + `${percent(hardest.characters / table.characters)} of the characters.`);
  }

  function classCharts(table) {
    const classes = table.classes.filter((one) => one.characters).sort((one, other) => other.bits - one.bits);
    const shares = (one) => [one.bits / table.bits, one.characters / table.characters];
    const columns = ['class', 'characters', 'share of bits', 'share of characters', 'bits/char'];
    const cells = () => classes.map((one) =>
      [one.class, count(one.characters), ...shares(one).map(percent), perCharacter(one)]);
    const legend = ['share of bits', 'share of characters'].map((name, i) => ({ name, colour: i + 1, block: true }));
    const share = (value, i) => ({ value, colour: i + 1, text: percent(value) });
    const each = (one) => ({ value: one.bits / one.characters, colour: 1, text: perCharacter(one) });
    return [
      charts.bars({ title: 'Where the bits go', legend, columns, cells,
        rows: classes.map((one) => ({ name: one.class, bars: shares(one).map(share) })) }),
      charts.bars({ title: 'Bits/char within each class', columns, cells,
        rule: { value: table.bits / table.characters, name: `all: ${perCharacter(table)}` },
        rows: classes.map((one) => ({ name: one.class, bars: [each(one)] })) })];
  }

  // By oracle: each explains a part of what those before it have left; the last entry, "none", is what remains.

  const oracleName = (oracle) => oracle === 'none' ? 'none of these' : oracle;

  function oracleFinding({ oracles, characters, bits }) {
    const missed = { bits: sum(oracles, 'bits'), characters: sum(oracles, 'characters') };
    const orders = oracles.filter(({ oracle }) => oracle.startsWith('order'));
    const copy = oracles.filter(({ oracle }) => oracle.startsWith('copy'));
    const share = (list) => percent(sum(list, 'bits') / missed.bits);
    const none = oracles.filter(({ oracle }) => oracle === 'none');
    const spared = orders.length ? `n-grams of order 1 to ${orders.length} of its training text would have spared it `
      + `${share(orders)}, and a copy of the last 500 characters ${share(copy)} more`
      : `a copy of the last 500 characters would have spared it ${share(copy)}`;
    return finding(`To ${count(missed.characters)} characters, ${percent(missed.characters / characters)} of all, `
      + `the model gave a probability of less than one half. They cost ${percent(missed.bits / bits)} of the bits. `
      + `Of these, ${spared}; ${share(none)} no such memory explains.`);
  }

  function oracleChart({ oracles }) {
    const missed = sum(oracles, 'bits');
    let left = missed;
    const rows = oracles.map(({ oracle, bits }) => {
      left -= bits;
      const bar = { start: Math.max(0, left) / missed, value: bits / missed, text: percent(bits / missed) };
      return { name: oracleName(oracle), bars: [{ ...bar, colour: oracle === 'none' ? 0 : 1 }] };
    });
    return charts.bars({ title: 'Bits of the missed characters that an oracle would have spared', rows, high: 1,
      track: true,
      columns: ['oracle', 'characters', 'bits', 'share of bits'],
      cells: () => oracles.map(({ oracle, characters, bits }) =>
        [oracleName(oracle), count(characters), count(Math.round(bits)), percent(bits / missed)]) });
  }

  // The view

  function mount(section) {
    const table = app.data.tables.errors;
    section.append(classFinding(table), app.element('div', { class: 'charts' }, ...classCharts(table)));
    if (!table.oracles?.length || sum(table.oracles, 'bits') === 0) return;
    section.append(oracleFinding(table), app.element('div', { class: 'charts wide' }, oracleChart(table)),
      aside('From above, each oracle explains a part of what those before it have left. That of order n knows a '
        + 'character if the n-gram model of the training text gives it a probability above one half; the copy, if the '
        + 'longest match in the last 500 characters went on with it (Karpathy, Johnson, Li 2015).'));
  }

  return {
    id: 'errors', title: 'Errors', mount,
    unavailable: ({ tables }) => tables.errors?.characters ? null : charts.missing('Where the bits go has', '--errors'),
  };
})());
