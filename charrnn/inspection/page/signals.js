'use strict';
// Signals: one unit's hidden state h, cell state c, or gate, at every character. How they are named, coloured and
// chosen. A signal is {direction, layer, state, unit}, as in the table of units; views 2 and 8 share the chosen one.

const signals = (() => {
  const STATES = {
    h: 'hidden state', c: 'cell state', i: 'input gate', f: 'forget gate', g: 'candidate', o: 'output gate',
    r: 'reset gate', z: 'update gate', n: 'candidate',
  };
  const FIELDS = ['direction', 'layer', 'state', 'unit'];
  const listeners = [];

  const model = () => app.data.model;
  const capital = (words) => words[0].toUpperCase() + words.slice(1);

  /** Return the states and gates that the units of this model have, by their letters. */
  const states = () => ['h', ...(model().cell === 'lstm' ? ['c'] : []), ...app.network.gateNames];

  /** Say whether a state or gate lies between -1 and 1. */
  const bounded = (state) =>
    state !== 'c' && !(state === 'h' && model().cell === 'rnn' && model().activation !== 'tanh');

  /** Say whether a state or gate is never below 0. */
  const positive = (state) => model().cell === 'hmm' || 'iforz'.includes(state);

  const same = (one, other) => FIELDS.every((field) => one[field] === other[field]);
  const only = (entry) => Object.fromEntries(FIELDS.map((field) => [field, entry[field]]));

  /** Return how a signal is called: "layer 1, unit 137 (c)". */
  function name({ direction, layer, state, unit }) {
    if (model().cell === 'hmm') return `hidden state ${unit}`;
    const half = model().bidirectional ? `${direction}, ` : '';
    return `${half}${model().num_layers > 1 ? `layer ${layer}, ` : ''}unit ${unit} (${state})`;
  }

  // Colours

  /** Return the colour of a signal's value. c has no bounds: its tanh is shown, which is what the output gate lets
   *  through; nor have the states of a ReLU, which are divided by the largest. */
  function colour({ state }, value, largest = 1) {
    if (value === undefined || Number.isNaN(value)) return '';
    return text.signed(state === 'c' ? Math.tanh(value) : bounded(state) ? value : value / largest);
  }

  /** Say whether the colours of a signal depend on the largest of its values. */
  const relative = ({ state }) => state !== 'c' && !bounded(state);

  /** Say what the colours of a signal mean. */
  function meaning({ state }) {
    if (state === 'c') return 'colour: tanh(c), since c has no bounds';
    if (model().cell === 'hmm') return 'colour: the probability of the hidden state, 0 to 1';
    if (!bounded(state)) return 'colour: h, divided by its largest value here';
    return positive(state) ? 'colour: 0, closed, to 1, open' : 'colour: −1 to 1';
  }

  // What was found to follow something: data.tables.units

  const table = () => app.data.tables.units ?? { units: [], features: [] };

  /** Return the units most worth looking at; or all that follow a feature. */
  function found(feature = '') {
    const { units, highlights } = table();
    return feature === '' ? highlights ?? units.slice(0, 12) : units.filter((one) => one.feature === feature);
  }

  /** Say how closely a unit follows its feature, in the half of the text in which it was not searched for. */
  function statistic({ statistic: kind, sign = 1, confirmed }) {
    if (kind === 'auc') return `AUC ${confirmed.toFixed(2)}${sign < 0 ? ', low' : ''}`;
    return `r ${(sign * confirmed).toFixed(2)}`.replace('-', '−');
  }

  // Choosing

  function choose(entry) {
    signals.current = only(entry);
    for (const listen of listeners) listen(signals.current);
  }

  /** Begin with the unit most worth looking at; whichever view is first calls this. */
  function begin() {
    const [best] = found();
    const state = states().includes('c') ? 'c' : 'h';
    signals.current ??= best ? only(best) : { direction: 'forward', layer: model().num_layers - 1, state, unit: 0 };
  }

  /** Return a select of [value, words] pairs. */
  const choice = (label, pairs) => app.element('select', { 'aria-label': label },
    ...pairs.map(([value, words]) => app.element('option', { value }, words)));

  const layers = () => Array.from({ length: model().num_layers }, (_, layer) => [layer, `layer ${layer}`]);

  /** Make the controls that choose any signal of these directions. */
  function picker(directions) {
    const last = model().hidden_size - 1, numbers = { min: 0, max: last, 'aria-label': 'Unit' };
    const direction = choice('Direction', directions.map((one) => [one, one]));
    const layer = choice('Layer', layers());
    const state = choice('State or gate', states().map((one) => [one, `${one}, ${STATES[one]}`]));
    const unit = app.element('input', { type: 'number', inputmode: 'numeric', ...numbers });
    const slider = app.element('input', { type: 'range', ...numbers });
    direction.hidden = directions.length < 2;
    layer.hidden = model().num_layers < 2;
    state.hidden = states().length < 2;

    const read = (number) => choose({ direction: direction.value, layer: Number(layer.value), state: state.value,
      unit: Math.max(0, Math.min(last, Math.round(Number(number)))) });
    for (const box of [direction, layer, state, unit]) box.addEventListener('change', () => read(unit.value));
    slider.addEventListener('input', () => read(slider.value));

    function show(signal) {
      direction.value = signal.direction;
      layer.value = signal.layer;
      state.value = signal.state;
      unit.value = slider.value = signal.unit;
    }
    show(signals.current);
    listeners.push(show);
    const label = app.element('label', { class: 'choice' }, model().cell === 'hmm' ? 'state ' : 'unit ', unit);
    return app.element('div', { class: 'picker' }, direction, layer, state, label, slider);
  }

  return { begin, bounded, capital, choice, choose, colour, found, layers, meaning, name, picker, positive, relative,
    same, statistic, table, current: null, listen: (listener) => listeners.push(listener) };
})();
