'use strict';
// View 3: the network unrolled around the selected character, drawn with this model's numbers.
// A canvas holds the numbers of states and gates, an SVG over it the boxes, arrows and characters.

app.views.add((() => {
  const LIKELIEST = 4;
  const ROW = 18; // px of a predicted character
  const BOX = 34; // px of a character
  const STRIP = 8; // px of a gate
  const APART = 4; // px between gates
  const UP = 24; // px between a layer and what is above it
  let parts = null;
  let drawing = null; // what was drawn last
  let chosen = { kind: 'h', layer: 0 };
  let column = null; // index of the column that `chosen` is in
  let waiting = false; // for the next frame, in which all that changed is drawn at once
  const cached = new WeakMap(); // gates by the state before: they cost as much as a step

  const model = () => app.data.model;
  const gates = () => app.network.gateNames.filter((name) => 'iforz'.includes(name));
  const states = () => (model().cell === 'lstm' ? ['c', 'h'] : ['h']);
  const { clip, folded, paintState, paintStrip, palette } = strips;

  // What is drawn: columns {at, half, before, after}: `at` is the character read, -1 the boundary

  function columns(count) {
    const { run, characters, selected } = app, length = characters.length;
    if (!model().bidirectional) {
      const more = count > 4 ? 2 : 1; // the column of the selected character, and one more where there is room
      const first = clip(selected - count + more, -1, Math.max(-1, length - count));
      return Array.from({ length: Math.min(count, length - first) }, (_, index) => forward(first + index));
    }
    const each = Math.floor((count - 1) / 2);
    const before = Array.from({ length: each }, (_, index) => selected - each + index).filter((at) => at >= -1);
    const after = Array.from({ length: each }, (_, index) => selected + 1 + index).filter((at) => at <= length);
    return [...before.map(forward), { gap: true, at: selected }, ...after.map(backward)];

    function forward(at) {
      const ready = at < run.count;
      return { at, half: app.network, ready, before: ready ? (at < 0 ? null : run.state(at - 1)) : null, after: ready ? run.state(at) : null };
    }
    function backward(at) {
      const half = run.backward, after = half.state(at);
      return { at, half: half.network, ready: Boolean(after), back: true, before: at < length ? half.state(at + 1) : null, after };
    }
  }

  /** Return the room above a layer for the sum of a residual connection, 0 where there is none. */
  const sumAbove = (layer) => (model().residual && (layer > 0 || app.network.addsInput) ? 15 : 0);

  /** Say whether the selected character was asked for in a column. */
  const isAsked = (one) => (model().bidirectional ? Boolean(one.gap) : one.at === app.selected - 1);

  /** Return where everything stands, for a width: y of the rows from the top, x of the columns. */
  function layout(width) {
    const count = clip(Math.floor(width / 128), 3, 9), shown = columns(model().bidirectional ? count - (1 - count % 2) : count);
    const pitch = Math.min(150, width / shown.length), fold = folded(model().hidden_size, Math.floor(pitch - clip(pitch * 0.22, 20, 30)));
    const block = fold.across * fold.wide, state = fold.down * fold.high;
    const top = 8, predicted = (LIKELIEST + 1) * ROW + 6, layers = [];
    const height = states().length * (state + 5) + gates().length * (STRIP + APART) + (model().layer_norm ? 20 : 0);
    let y = top + predicted + (model().bidirectional ? 64 : 0) + UP + sumAbove(model().num_layers - 1);
    for (let layer = model().num_layers - 1; layer >= 0; layer--) {
      layers[layer] = { top: y, height };
      y += height + UP + (model().time_skip ? 10 : 0) + (layer > 0 ? sumAbove(layer - 1) : 0);
    }
    const left = (width - pitch * shown.length) / 2;
    const x = (index) => left + index * pitch + (pitch - block) / 2;
    return { width, shown, pitch, block, fold, state, top, predicted, layers, input: y, height: y + BOX + 24, x };
  }

  function gatesOf(one) {
    if (!gates().length || !one.before) return null;
    if (!cached.has(one.before)) cached.set(one.before, one.half.gates(app.tokens[one.at], one.before));
    return cached.get(one.before);
  }

  // The canvas

  /** Return what maps a state's numbers to -1 ... 1, as view 2 does. */
  function scaled(name, shown) {
    if (name === 'c') return Math.tanh;
    if (units.bounded(name)) return (value) => value;
    const all = shown.filter(({ after }) => after).flatMap(({ after }) => after.layers.map(({ h }) => h));
    const most = all.reduce((largest, h) => h.reduce((a, b) => Math.max(a, Math.abs(b)), largest), 1e-9);
    return (value) => value / most;
  }

  /** Return where the parts of a layer stand, from its top: states, h above c, then gates. */
  function rows(place, layer) {
    let y = place.layers[layer].top + (model().layer_norm ? 20 : 0);
    const found = {};
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

  function paint(place) {
    const { canvas } = parts, ratio = devicePixelRatio || 1, context = canvas.getContext('2d');
    canvas.width = place.width * ratio;
    canvas.height = place.height * ratio;
    canvas.style.width = `${place.width}px`;
    canvas.style.height = `${place.height}px`;
    context.scale(ratio, ratio);
    const asked = place.shown.findIndex(isAsked);
    if (asked >= 0) {
      context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue('--panel');
      context.fillRect(place.x(asked) - 11, 0, place.block + 22, place.height);
    }
    const colour = palette();
    const scales = Object.fromEntries(states().map((name) => [name, scaled(name, place.shown)]));
    place.shown.forEach((one, index) => {
      if (!one.after) return;
      const x = place.x(index);
      const values = gatesOf(one);
      one.after.layers.forEach((state, layer) => {
        const at = rows(place, layer);
        for (const name of states()) paintState(context, state[name], x, at[name].y, place.fold, colour, scales[name]);
        if (values) for (const name of gates()) paintStrip(context, values[layer][name], x, at[name].y, place.block, STRIP, colour);
      });
    });
  }

  // The drawing over it

  const line = (d, name = 'arrow') => app.svg('path', { d, class: name, 'marker-end': name === 'arrow' ? 'url(#head)' : null });
  const words = (x, y, content, name = '', anchor = 'middle') => app.svg('text', { x, y, class: name, 'text-anchor': anchor }, content);
  const shown = (at) => (at < 0 || at >= app.characters.length ? '⟨start⟩' : app.label(app.characters[at]));

  /** Return a part that can be pointed at. */
  function hot(index, part, x, y, width, height) {
    const node = app.svg('rect', { x, y, width, height, rx: 3, class: 'part', 'data-column': index });
    node.piece = part;
    drawing.hot.push(node);
    return node;
  }

  /** Draw the characters that were likeliest after a column, and the one that came. */
  function predictions(place, index, target, likeliest) {
    const x = place.x(index) - 4, width = place.block + 8, right = app.characters[target];
    const list = [...likeliest];
    if (right !== undefined && !list.some(({ character }) => character === right)) {
      list.push({ character: right, probability: 2 ** -bitsOf(target), rank: true });
    }
    const most = list[0].probability, base = place.top + place.predicted;
    const nodes = list.flatMap(({ character, probability }, row) => {
      const y = base - (list.length - row) * ROW, chosenOne = character === right;
      const name = chosenOne ? 'letter right' : 'letter';
      return [words(x + 9, y + 13, app.label(character), name),
        app.svg('rect', { x: x + 20, y: y + 4, width: Math.max(1, (width - 62) * (probability / most)), height: ROW - 8, rx: 2, class: chosenOne ? 'bar right' : 'bar' }),
        words(x + width, y + 13, app.percent(probability), chosenOne ? 'number right' : 'number', 'end')];
    });
    return [...nodes, hot(index, { kind: 'prediction', layer: -1 }, x - 2, base - list.length * ROW - 1, width + 4, list.length * ROW + 3)];
  }

  const bitsOf = (target) => (model().bidirectional ? app.run.backward.bits[target] : app.run.bits(target));

  /** Draw what one column shows: its character, the boxes of its layers, and the arrows up and to its neighbour. */
  function drawColumn(place, one, index) {
    const x = place.x(index), middle = x + place.block / 2, last = model().num_layers - 1, nodes = [];
    const isChosen = one.at === app.selected;
    nodes.push(app.svg('rect', { x: middle - BOX / 2, y: place.input, width: BOX, height: BOX, rx: 6, class: isChosen ? 'box selected' : 'box' }),
      words(middle, place.input + 23, shown(one.at), shown(one.at).length > 2 ? 'small' : 'letter'),
      hot(index, { kind: 'input', layer: -1 }, middle - BOX / 2, place.input, BOX, BOX));
    if (one.at >= 0 && one.at < app.characters.length) nodes.push(words(middle, place.input + BOX + 16, app.count(one.at), 'small'));
    for (let layer = 0; layer <= last; layer++) nodes.push(...drawLayer(place, one, index, layer));
    return nodes;
  }

  function drawLayer(place, one, index, layer) {
    const x = place.x(index), middle = x + place.block / 2, at = rows(place, layer), { top, height } = place.layers[layer], nodes = [];
    const below = layer === 0 ? place.input : place.layers[layer - 1].top - sumAbove(layer - 1);
    nodes.push(line(`M${middle} ${below - 2}V${top + height + 3}`));
    for (const name of states()) {
      const kind = { kind: name, layer };
      nodes.push(app.svg('rect', { x: x - 0.5, y: at[name].y - 0.5, width: place.block + 1, height: at[name].height + 1, class: 'frame' }),
        hot(index, kind, x - 2, at[name].y - 2, place.block + 4, at[name].height + 4));
      nodes.push(...drawRecurrence(place, one, index, layer, at[name]));
    }
    for (const name of gates()) {
      if (index === 0 || (one.back && place.shown[index - 1].gap)) nodes.push(words(x - 5, at[name].y + 8, name, 'small', 'end'));
      nodes.push(hot(index, { kind: 'gate', gate: name, layer }, x - 2, at[name].y - 1, place.block + 4, STRIP + 2));
    }
    if (index === 0) {
      for (const name of states()) nodes.push(words(x - 5, at[name].y + at[name].height / 2 + 4, name, 'small', 'end'));
    }
    if (model().layer_norm) {
      nodes.push(app.svg('rect', { x: middle - 22, y: top, width: 44, height: 15, rx: 7, class: 'box' }), words(middle, top + 11, 'norm', 'small'),
        hot(index, { kind: 'norm', layer }, middle - 22, top, 44, 15));
    }
    if (sumAbove(layer)) {
      const side = x + place.block + 6, plus = top - 9;
      nodes.push(line(`M${middle} ${top + height + 13}H${side}V${plus}H${middle + 6}`, 'thin'), line(`M${middle} ${top}V${plus}`, 'thin'),
        app.svg('circle', { cx: middle, cy: plus, r: 6, class: 'box' }), line(`M${middle - 3} ${plus}h6m-3 -3v6`, 'thin'), hot(index, { kind: 'residual', layer }, side - 4, top, 8, height));
    }
    nodes.push(...drawSkip(place, one, index, layer));
    return nodes;
  }

  /** Draw the arrow of a state to the next step, which is on the left in the half that reads backwards. */
  function drawRecurrence(place, one, index, layer, at) {
    const y = at.y + at.height / 2, gap = place.pitch - place.block, left = place.x(index) - gap, right = place.x(index);
    if (one.back) {
      if (index === place.shown.length - 1) return [];
      const end = right + place.block;
      return [line(`M${end + gap - 3} ${y}H${end + 5}`), hot(index, { kind: 'recurrence', layer }, end + 2, y - 9, gap - 4, 18)];
    }
    if (index === 0) return [];
    return [line(`M${left + 3} ${y}H${right - 5}`), hot(index, { kind: 'recurrence', layer }, left + 2, y - 9, gap - 4, 18)];
  }

  /** Draw the way from the state of K steps before, where both are shown. */
  function drawSkip(place, one, index, layer) {
    const K = model().time_skip, from = index + (one.back ? K : -K);
    if (!K || !place.shown[from] || Boolean(place.shown[from].back) !== Boolean(one.back)) return [];
    const { top, height } = place.layers[layer], y = top + height + 8, start = place.x(from) + place.block * 0.75, end = place.x(index) + place.block * 0.25;
    return [app.svg('path', { d: `M${start} ${top + height}Q${start} ${y + 6} ${(start + end) / 2} ${y + 6}T${end} ${top + height + 2}`, class: 'skip', 'marker-end': 'url(#head)' }),
      hot(index, { kind: 'skip', layer }, end - 10, top + height + 1, 14, 10)];
  }

  /** Draw the gap of a bidirectional model: what is asked for, which neither half has read, and the joint head. */
  function drawGap(place, one, index) {
    const x = place.x(index), middle = x + place.block / 2, y = place.top + place.predicted + UP, last = model().num_layers - 1, top = place.layers[last].top - sumAbove(last), nodes = [];
    nodes.push(app.svg('rect', { x: middle - BOX / 2, y: place.input, width: BOX, height: BOX, rx: 6, class: 'box gap' }),
      words(middle, place.input + 23, '?', 'letter'), words(middle, place.input + BOX + 16, 'not read', 'small'));
    nodes.push(app.svg('rect', { x: middle - 34, y, width: 68, height: 30, rx: 6, class: 'box' }), words(middle, y + 19, 'joint', 'name'),
      hot(index, { kind: 'joint', layer: -1 }, middle - 34, y, 68, 30), line(`M${middle} ${y - 3}V${y - UP + 6}`));
    if (index > 0) nodes.push(line(`M${place.x(index - 1) + place.block / 2} ${top - 4}V${y + 15}H${middle - 40}`));
    if (place.shown[index + 1]) nodes.push(line(`M${place.x(index + 1) + place.block / 2} ${top - 4}V${y + 15}H${middle + 40}`));
    const { run } = app, state = run.state(one.at - 1);
    if (state && run.backward.state(one.at + 1)) {
      const logits = run.backward.joint(one.at, state);
      nodes.push(...predictions(place, index, one.at, Run.likeliest(app.network.probabilities(logits), run.vocabulary, LIKELIEST)));
    }
    return nodes;
  }

  function draw() {
    if (!waiting) requestAnimationFrame(drawNow);
    waiting = true;
  }

  function drawNow() {
    waiting = false;
    const width = Math.floor(parts.stage.clientWidth);
    if (width === 0) return;
    const place = layout(width);
    drawing = { place, hot: [] };
    paint(place);
    const asked = place.shown.findIndex(isAsked), nodes = [];
    place.shown.forEach((one, index) => {
      if (one.gap) nodes.push(...drawGap(place, one, index));
      else nodes.push(...drawColumn(place, one, index));
      if (one.gap || model().bidirectional || !one.ready) return;
      const middle = place.x(index) + place.block / 2, best = Run.likeliest(app.network.probabilities(app.network.logits(one.after)), app.run.vocabulary, LIKELIEST);
      const last = model().num_layers - 1;
      nodes.push(line(`M${middle} ${place.layers[last].top - sumAbove(last) - 3}V${place.top + place.predicted + 6}`));
      if (app.run.count > one.at + 1 || one.at + 1 >= app.characters.length) nodes.push(...predictions(place, index, one.at + 1, best));
    });
    const head = app.svg('marker', { id: 'head', viewBox: '0 0 8 8', refX: 6, refY: 4, markerWidth: 7, markerHeight: 7, orient: 'auto' },
      app.svg('path', { d: 'M0 0L8 4L0 8z', class: 'tip' }));
    parts.svg.replaceChildren(app.svg('defs', {}, head), ...nodes);
    for (const [name, value] of Object.entries({ width, height: place.height, viewBox: `0 0 ${width} ${place.height}` })) parts.svg.setAttribute(name, value);
    column = asked >= 0 ? asked : place.shown.length - 1;
    explain();
  }

  // The panel

  const sameAs = (one) => (node) => node.piece.kind === one.kind && node.piece.layer === one.layer && node.piece.gate === one.gate;

  /** Say the equation of the chosen part, and what its numbers are at its step. */
  function explain() {
    const here = drawing.hot.filter((node) => Number(node.dataset.column) === column);
    const node = here.find(sameAs(chosen)) ?? drawing.hot.find(sameAs(chosen)) ?? here[0];
    for (const one of drawing.hot) one.classList.toggle('chosen', one === node);
    if (!node) return;
    const one = drawing.place.shown[Number(node.dataset.column)];
    const { title, lines, words: sentence } = equations.describe(node.piece, `“\u2068${shown(one.at)}\u2069”`, one.back);
    const half = model().bidirectional && !one.gap ? `, ${one.back ? 'backward' : 'forward'} half` : '';
    parts.panel.replaceChildren(app.element('h3', {}, `${title}${half}`), ...lines.map(equations.formula), equations.sentence(sentence), ...numbers(node.piece, one));
  }

  function numbers({ kind, layer, gate }, one) {
    if (!one.after || !['h', 'c', 'gate'].includes(kind)) return [];
    const values = kind !== 'gate' ? one.after.layers[layer][kind] : gatesOf(one)?.[layer][gate];
    if (!values) return [];
    const low = Math.min(...values), high = Math.max(...values), each = drawing.place.fold.group;
    const mean = values.reduce((sum, value) => sum + Math.abs(value), 0) / values.length;
    const folds = each > 1 && kind !== 'gate' ? ` Each cell of the drawing is the mean of ${each} units.` : '';
    const round = (value) => value.toFixed(2).replace('-', '−');
    return [app.element('p', { class: 'aside' }, `At this step: from ${round(low)} to ${round(high)}, mean magnitude ${round(mean)}.${folds}`)];
  }

  function point(event, click) {
    const node = event.target.closest('.part');
    if (!node) return;
    chosen = node.piece;
    column = Number(node.dataset.column);
    const one = drawing.place.shown[column];
    if (click && chosen.kind === 'input' && one.at >= 0 && one.at < app.characters.length) app.select(one.at);
    else explain();
  }

  /** Left and right select a character, up and down a part of its column. */
  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], up = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (by) app.select(app.selected + by);
    else if (up) {
      const here = drawing.hot.filter((node) => Number(node.dataset.column) === column)
        .sort((one, other) => one.y.baseVal.value - other.y.baseVal.value);
      // arrows of c and of h to the next step are the same part
      const different = here.filter((node, index) => here.findIndex(sameAs(node.piece)) === index);
      chosen = different[clip(different.findIndex(sameAs(chosen)) + up, 0, different.length - 1)].piece;
      explain();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function mount(section) {
    parts = { canvas: app.element('canvas', { 'aria-hidden': 'true' }), svg: app.svg('svg', { 'aria-hidden': 'true' }),
      panel: app.element('aside', { class: 'equation', 'aria-live': 'polite' }) };
    parts.stage = app.element('div', { class: 'stage', tabindex: '0', role: 'group', 'data-first': '',
      'aria-label': 'The unrolled network; left and right select a character, up and down a part' }, parts.canvas, parts.svg);
    parts.stage.addEventListener('pointerover', (event) => { if (event.pointerType === 'mouse') point(event, false); });
    parts.stage.addEventListener('click', (event) => point(event, true));
    parts.stage.addEventListener('keydown', press);
    const step = (words_, by) => app.button(words_, () => app.select(app.selected + by));
    if (model().bidirectional) {
      section.append(app.element('p', { class: 'lead' }, 'This model reads from both ends. One half stops before the gap, the other behind it; the joint head '
        + 'predicts the character in the gap, which neither half has read.'));
    }
    section.append(app.element('div', { class: 'bar-of-controls' }, step('← Previous', -1), step('Next →', 1), parts.where = app.element('p', { class: 'choice' })),
      parts.stage, parts.panel, app.element('p', { class: 'hint' }, 'Point at a part, or tap it, for its equation. ← → select a character, ↑ ↓ another part.'));
    chosen = model().bidirectional ? { kind: 'joint', layer: -1 } : { kind: 'h', layer: model().num_layers - 1 };
    new ResizeObserver(draw).observe(parts.stage);
    document.addEventListener('scheme', () => { if (!section.hidden) draw(); });
  }

  const lead = 'The same network at each step, with its numbers: a character goes in below, states go on to the right and up, a prediction comes '
    + 'out above. Red is negative, blue positive; the shaded column is where the selected character was asked for.';
  return {
    id: 'unrolled', title: 'Unrolled', mount, lead,
    unavailable: ({ model: { name } }) => (app.network ? null : `${name} is an n-gram model. It looks up what followed the last characters, and has no state to unroll.`),
    selected(i) {
      const before = app.characters.slice(Math.max(0, i - 24), i).map(app.label).join('');
      parts.where.replaceChildren(`…${before}`, app.element('b', {}, app.label(app.characters[i])));
      draw();
    },
    progress(count) {
      const { run } = app;
      if (!parts.done && (count > app.selected + 1 || run.complete)) {
        draw();
        parts.done = run.complete || !run.backward;
      }
    },
    shown: () => draw(),
  };
})());
