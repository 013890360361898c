'use strict';
// Where everything stands in the drawing of the unrolled network, for the text, the model and the width of the screen;
// and the numbers of states and gates, as small coloured cells on a canvas.

const unrolling = (() => {
  const LIKELIEST = 4; // predicted characters of a step
  const ROW = 18; // px of a predicted character
  const BOX = 34; // px of a character that is read
  const STRIP = 8; // px of a gate
  const APART = 4; // px between gates
  const UP = 24; // px between a layer and what is above it
  const STATE = 46; // px that the numbers of a state may take in height
  const NORM = 20; // px of a layer norm
  const SUM = 15; // px of the sum of a residual connection

  const model = () => app.data.model;
  const clip = (value, low, high) => Math.max(low, Math.min(high, value));

  /** The states that are drawn, and the gates; from below. */
  const states = () => (model().cell === 'lstm' ? ['c', 'h'] : ['h']);
  const gates = () => app.network.gateNames.filter((name) => 'iforz'.includes(name));

  /** Return the room above a layer for the sum of a residual connection, 0 where there is none. */
  const sumAbove = (layer) => (model().residual && (layer > 0 || app.network.addsInput) ? SUM : 0);

  // A column is {at: the character read, -1 the boundary; half: the network; before, after: its states; ready: whether
  // the run has come by, and back: whether it reads backwards}, or {at, gap: true}

  function forward(at) {
    const { run } = app, ready = run.count > Math.min(at + 1, run.length - 1); // the next character has bits, too
    if (!ready) return { at, half: app.network, ready };
    return { at, half: app.network, ready, before: at < 0 ? run.origin : run.state(at - 1), after: run.state(at) };
  }

  function backward(at) {
    const half = app.run.backward, after = half.state(at);
    return { at, half: half.network, back: true, ready: Boolean(after), after,
      before: at < app.characters.length ? half.state(at + 1) : half.origin };
  }

  /** Return the columns around the selected character, at most so many. Of a bidirectional model the character itself
   *  is a gap: on its left stands the half that reads forwards, on its right the other. */
  function columns(most) {
    const { selected, characters: { length } } = app;
    if (!model().bidirectional) {
      const after = most > 4 ? 2 : 1; // the column of the selected character, and one more where there is room
      const first = clip(selected - most + after, -1, Math.max(-1, length - most));
      return Array.from({ length: Math.min(most, length - first) }, (_, index) => forward(first + index));
    }
    const each = Array.from({ length: Math.floor((most - 1) / 2) }, (_, index) => index);
    const before = each.map((index) => selected - each.length + index).filter((at) => at >= -1);
    const behind = each.map((index) => selected + 1 + index).filter((at) => at <= length);
    return [...before.map(forward), { gap: true, at: selected }, ...behind.map(backward)];
  }

  /** Say whether the selected character was asked for in a column. */
  const isAsked = (one) => (model().bidirectional ? Boolean(one.gap) : one.at === app.selected - 1);

  // Places

  /** Return how H numbers are folded into a width: px wide and high of a cell, cells across and down, and how many
   *  numbers share a cell. */
  function folded(H, width) {
    if (H * 9 <= width) return { wide: Math.floor(width / H), high: 16, across: H, down: 1, group: 1 };
    const cell = clip(Math.floor(Math.sqrt((width * STATE) / H)), 2, 9), across = Math.floor(width / cell);
    const group = Math.ceil(H / (across * Math.floor(STATE / cell)));
    return { wide: cell, high: cell, across, down: Math.ceil(Math.ceil(H / group) / across), group };
  }

  /** Return the columns and where they stand: x(index), `block` wide, `pitch` apart; and the y of all rows. */
  function layout(width) {
    const most = clip(Math.floor(width / 128), 3, 9), odd = model().bidirectional && most % 2 === 0;
    const shown = columns(odd ? most - 1 : most), pitch = Math.min(150, width / shown.length);
    const fold = folded(model().hidden_size, Math.floor(pitch - clip(pitch * 0.22, 20, 30)));
    const block = fold.across * fold.wide, state = fold.down * fold.high, last = model().num_layers - 1;
    const height = states().length * (state + 5) + gates().length * (STRIP + APART) + (model().layer_norm ? NORM : 0);
    const predicted = 8 + (LIKELIEST + 1) * ROW + 6; // where the predictions end
    const layers = [];
    let y = predicted + (model().bidirectional ? 64 : 0) + UP + sumAbove(last);
    for (let layer = last; layer >= 0; layer--) {
      layers[layer] = { top: y, height };
      y += height + UP + (model().time_skip ? 10 : 0) + (layer > 0 ? sumAbove(layer - 1) : 0);
    }
    const left = (width - pitch * shown.length) / 2 + (pitch - block) / 2;
    return { width, shown, pitch, block, fold, state, predicted, layers, input: y, height: y + BOX + 24,
      x: (index) => left + index * pitch, middle: (index) => left + index * pitch + block / 2 };
  }

  /** Return where the states and gates of a layer stand: h above c, then the gates. */
  function rows(place, layer) {
    const found = {};
    let y = place.layers[layer].top + (model().layer_norm ? NORM : 0);
    for (const name of [...states()].reverse()) {
      found[name] = { y, height: place.state };
      y += place.state + 5;
    }
    for (const name of gates()) {
      found[name] = { y, height: STRIP };
      y += STRIP + APART;
    }
    return found;
  }

  // Numbers on a canvas

  const cached = new WeakMap(); // gates by the state before: they cost as much as a step

  /** Return the gates of the step of a column, null where there are none. */
  function gatesOf(one) {
    if (!gates().length || !one.before) return null;
    if (!cached.has(one.before)) cached.set(one.before, one.half.gates(app.tokens[one.at] ?? one.half.boundaryToken, one.before));
    return cached.get(one.before);
  }

  /** Return a function from a value, -1 to 1, to a colour of the scheme in use; of few strengths, which is faster. */
  function palette(style) {
    const steps = 40;
    const shades = (name) => {
      const rgb = style.getPropertyValue(`--${name}-rgb`).trim().split(/\s+/).join(', ');
      return Array.from({ length: steps + 1 }, (_, step) => `rgba(${rgb}, ${step / steps})`);
    };
    const red = shades('red'), blue = shades('blue');
    return (value) => (value < 0 ? red : blue)[Math.round(steps * Math.min(1, Math.abs(value) || 0))];
  }

  /** Return what brings the numbers of a state to -1 ... 1, as view 2 does. */
  function scaled(name, shown) {
    if (name === 'c') return Math.tanh;
    if (signals.bounded(name)) return (value) => value;
    const all = shown.filter(({ after }) => after).flatMap(({ after }) => after.layers.map(({ h }) => h));
    const most = all.reduce((largest, h) => h.reduce((a, b) => Math.max(a, Math.abs(b)), largest), 1e-9);
    return (value) => value / most;
  }

  function mean(values, from, to) {
    let sum = 0;
    for (let index = from; index < to; index++) sum += values[index];
    return sum / (to - from);
  }

  /** Draw a state, folded, each cell the mean of its numbers. */
  function paintState(context, values, x, y, { wide, high, across, group }, colour) {
    for (let from = 0, cell = 0; from < values.length; from += group, cell++) {
      context.fillStyle = colour(mean(values, from, Math.min(values.length, from + group)));
      context.fillRect(x + (cell % across) * wide, y + Math.floor(cell / across) * high, wide, high);
    }
  }

  /** Draw a gate in one row; each cell is a mean where there are more numbers than room. */
  function paintStrip(context, values, x, y, width, colour) {
    const cells = Math.min(values.length, Math.floor(width / 2)), wide = width / cells;
    for (let cell = 0; cell < cells; cell++) {
      const from = Math.floor((cell * values.length) / cells), to = Math.floor(((cell + 1) * values.length) / cells);
      context.fillStyle = colour(mean(values, from, to));
      context.fillRect(x + cell * wide, y, wide + 0.5, STRIP); // a hair wider, lest gaps shine through
    }
  }

  /** Draw the numbers of all columns, and shade the one where the selected character was asked for. */
  function paint(canvas, place) {
    const ratio = devicePixelRatio || 1, context = canvas.getContext('2d');
    const style = getComputedStyle(document.documentElement);
    canvas.width = place.width * ratio;
    canvas.height = place.height * ratio;
    canvas.style.width = `${place.width}px`;
    canvas.style.height = `${place.height}px`;
    context.scale(ratio, ratio);
    const colour = palette(style), asked = place.shown.findIndex(isAsked);
    const scales = Object.fromEntries(states().map((name) => [name, scaled(name, place.shown)]));
    if (asked >= 0) {
      context.fillStyle = style.getPropertyValue('--panel');
      context.fillRect(place.x(asked) - 11, 0, place.block + 22, place.height);
    }
    place.shown.forEach((one, index) => {
      const values = gatesOf(one), x = place.x(index);
      one.after?.layers.forEach((state, layer) => {
        const at = rows(place, layer);
        for (const name of states()) {
          paintState(context, state[name], x, at[name].y, place.fold, (value) => colour(scales[name](value)));
        }
        for (const name of values ? gates() : []) {
          paintStrip(context, values[layer][name], x, at[name].y, place.block, colour);
        }
      });
    });
  }

  return { BOX, LIKELIEST, ROW, STRIP, UP, clip, gates, gatesOf, isAsked, layout, paint, rows, states, sumAbove };
})();
