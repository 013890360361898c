'use strict';
// View 3: the network unrolled around the selected character, drawn with this model's numbers. An SVG over the canvas
// of unrolling.js has the boxes, arrows and characters, and areas that one points at for their equation.

app.views.add((() => {
  const { BOX, LIKELIEST, ROW, STRIP, UP, clip, gates, gatesOf, isAsked, layout, rows, states, sumAbove } = unrolling;
  let parts = null;
  let place = null; // where everything stands that was drawn last
  let areas = []; // its areas, from which `chosen` is one in `column`
  let chosen = null; // {kind, layer, gate}
  let column = null;
  let waiting = false; // for the next frame, in which all that changed is drawn at once

  const model = () => app.data.model;
  const topLayer = () => model().num_layers - 1;

  // Pieces of a drawing

  const arrow = (d, kind = 'arrow') => app.svg('path', { d, class: kind, 'marker-end': 'url(#head)' });
  const line = (d) => app.svg('path', { d, class: 'arrow' });
  const words = (x, y, content, kind = '', anchor = 'middle') =>
    app.svg('text', { x, y, class: kind, 'text-anchor': anchor }, content);
  const inText = (at) => at >= 0 && at < app.characters.length;
  const label = (at) => (inText(at) ? app.label(app.characters[at]) : at < 0 ? 'start' : 'end');

  /** Return an area of a column that stands for a part of the network. */
  function area(index, kind, layer, [x, y, width, height], gate) {
    const node = app.svg('rect', { x, y, width, height, rx: 3, class: 'part' });
    node.piece = { kind, layer, gate };
    node.column = index;
    areas.push(node);
    return node;
  }

  const isPiece = (piece) => ({ piece: { kind, layer, gate } }) =>
    kind === piece.kind && layer === piece.layer && gate === piece.gate;

  /** Draw the likeliest characters after a column, and the one that came. */
  function predictions(index, target, likeliest) {
    const x = place.x(index) - 4, width = place.block + 8, right = app.characters[target], list = [...likeliest];
    if (right !== undefined && !list.some(({ character }) => character === right)) {
      const bits = model().bidirectional ? app.run.backward.bits[target] : app.run.bits(target);
      list.push({ character: right, probability: 2 ** -bits });
    }
    const top = place.predicted - list.length * ROW;
    const nodes = list.flatMap(({ character, probability }, row) => {
      const y = top + row * ROW, kind = character === right ? ' right' : '';
      const long = Math.max(1, (width - 62) * (probability / list[0].probability));
      return [words(x + 9, y + 13, app.label(character), `letter${kind}`),
        app.svg('rect', { x: x + 20, y: y + 4, width: long, height: ROW - 8, rx: 2, class: `bar${kind}` }),
        words(x + width, y + 13, app.percent(probability), `number${kind}`, 'end')];
    });
    return [...nodes, area(index, 'prediction', -1, [x - 2, top - 1, width + 4, list.length * ROW + 3])];
  }

  /** Return the y from which an arrow goes up from a layer, or from the characters for -1. */
  const above = (layer) => (layer < 0 ? place.input : place.layers[layer].top - sumAbove(layer)) - 3;

  /** Draw a character that was read, and its number in the text. */
  function character(one, index) {
    const middle = place.middle(index), x = middle - BOX / 2, y = place.input, content = label(one.at);
    const kind = one.at === app.selected ? 'box selected' : 'box';
    return [app.svg('rect', { x, y, width: BOX, height: BOX, rx: 6, class: kind }),
      words(middle, y + 23, content, content.length > 2 ? 'small' : 'letter'),
      words(middle, y + BOX + 16, inText(one.at) ? app.count(one.at) : '', 'small'),
      area(index, 'input', -1, [x, y, BOX, BOX])];
  }

  /** Draw the arrow of a state to the next step: on the left in the half that reads backwards. */
  function recurrence(one, index, layer, y) {
    const wide = place.pitch - place.block, outermost = one.back ? place.shown.length - 1 : 0;
    if (index === outermost) return [];
    const x = place.x(index) + (one.back ? place.block : -wide); // where the space between two steps begins
    return [arrow(one.back ? `M${x + wide - 3} ${y}H${x + 5}` : `M${x + 3} ${y}H${x + wide - 5}`),
      area(index, 'recurrence', layer, [x + 2, y - 9, wide - 4, 18])];
  }

  /** Draw the way around a layer that is added to its output. */
  function residual(index, layer) {
    if (!sumAbove(layer)) return [];
    const { top, height } = place.layers[layer], middle = place.middle(index), side = place.x(index) + place.block + 6;
    const plus = top - 9;
    return [line(`M${middle} ${top + height + 13}H${side}V${plus}H${middle + 6}`), line(`M${middle} ${top}V${plus}`),
      app.svg('circle', { cx: middle, cy: plus, r: 6, class: 'box' }), line(`M${middle - 3} ${plus}h6m-3 -3v6`),
      area(index, 'residual', layer, [side - 4, top, 8, height])];
  }

  /** Draw the way from the hidden state of K steps before, where both are shown. */
  function skip(one, index, layer) {
    const from = index + (one.back ? 1 : -1) * model().time_skip, other = place.shown[from];
    if (!model().time_skip || !other || other.gap || Boolean(other.back) !== Boolean(one.back)) return [];
    const { top, height } = place.layers[layer], base = top + height, low = base + 14;
    const start = place.x(from) + place.block * 0.75, end = place.x(index) + place.block * 0.25;
    return [arrow(`M${start} ${base}Q${start} ${low} ${(start + end) / 2} ${low}T${end} ${base + 2}`, 'skip'),
      area(index, 'skip', layer, [end - 10, base + 1, 14, 10])];
  }

  /** Draw a layer in a column: frames for the numbers of the canvas, and the arrows. */
  function layerOf(one, index, layer) {
    const { top, height } = place.layers[layer], at = rows(place, layer);
    const x = place.x(index), middle = place.middle(index), wide = place.block;
    const first = index === 0 || (one.back && place.shown[index - 1].gap);
    const nodes = [arrow(`M${middle} ${above(layer - 1) + 1}V${top + height + 3}`)];
    for (const name of states()) {
      const { y, height: high } = at[name];
      nodes.push(app.svg('rect', { x: x - 0.5, y: y - 0.5, width: wide + 1, height: high + 1, class: 'frame' }),
        area(index, name, layer, [x - 2, y - 2, wide + 4, high + 4]), ...recurrence(one, index, layer, y + high / 2));
      if (first) nodes.push(words(x - 5, y + high / 2 + 4, name, 'small', 'end'));
    }
    for (const name of gates()) {
      nodes.push(area(index, 'gate', layer, [x - 2, at[name].y - 1, wide + 4, STRIP + 2], name));
      if (first) nodes.push(words(x - 5, at[name].y + 8, name, 'small', 'end'));
    }
    if (model().layer_norm) {
      nodes.push(app.svg('rect', { x: middle - 22, y: top, width: 44, height: 15, rx: 7, class: 'box' }),
        words(middle, top + 11, 'norm', 'small'), area(index, 'norm', layer, [middle - 22, top, 44, 15]));
    }
    return [...nodes, ...residual(index, layer), ...skip(one, index, layer)];
  }

  /** Draw the column of a character: from below what is read, the layers, what is predicted. */
  function step(one, index) {
    const layers = model().num_layers, nodes = character(one, index);
    for (let layer = 0; layer < layers; layer++) nodes.push(...layerOf(one, index, layer));
    if (model().bidirectional || !one.ready) return nodes; // the joint head predicts, see gap()
    const probabilities = app.network.probabilities(app.network.logits(one.after));
    return [...nodes, arrow(`M${place.middle(index)} ${above(topLayer())}V${place.predicted + 6}`),
      ...predictions(index, one.at + 1, Run.likeliest(probabilities, app.run.vocabulary, LIKELIEST))];
  }

  /** Draw the gap of a bidirectional model: what is asked for, which neither half has read, and the joint head. */
  function gap(one, index) {
    const middle = place.middle(index), y = place.predicted + UP, top = above(topLayer()), { run } = app;
    const from = (other, side) => (!place.shown[other] ? []
      : [arrow(`M${place.middle(other)} ${top}V${y + 15}H${middle + side * 40}`)]);
    const nodes = [
      app.svg('rect', { x: middle - BOX / 2, y: place.input, width: BOX, height: BOX, rx: 6, class: 'box gap' }),
      words(middle, place.input + 23, '?', 'letter'), words(middle, place.input + BOX + 16, 'not read', 'small'),
      app.svg('rect', { x: middle - 34, y, width: 68, height: 30, rx: 6, class: 'box' }),
      words(middle, y + 19, 'joint', 'name'),
      area(index, 'joint', -1, [middle - 34, y, 68, 30]), arrow(`M${middle} ${y - 3}V${place.predicted + 6}`),
      ...from(index - 1, -1), ...from(index + 1, 1)];
    const before = run.state(one.at - 1);
    if (!before || !run.backward.state(one.at + 1)) return nodes;
    const probabilities = app.network.probabilities(run.backward.joint(one.at, before));
    return [...nodes, ...predictions(index, one.at, Run.likeliest(probabilities, run.vocabulary, LIKELIEST))];
  }

  function draw() {
    if (!waiting) requestAnimationFrame(drawNow);
    waiting = true;
  }

  function drawNow() {
    waiting = false;
    const width = Math.floor(parts.stage.clientWidth);
    if (width === 0) return;
    place = layout(width);
    areas = [];
    unrolling.paint(parts.canvas, place);
    const shape = { viewBox: '0 0 8 8', refX: 6, refY: 4, markerWidth: 7, markerHeight: 7, orient: 'auto' };
    const head = app.svg('marker', { id: 'head', ...shape }, app.svg('path', { d: 'M0 0L8 4L0 8z', class: 'tip' }));
    const drawn = place.shown.flatMap((one, index) => (one.gap ? gap(one, index) : step(one, index)));
    parts.svg.replaceChildren(app.svg('defs', {}, head), ...drawn);
    parts.svg.setAttribute('width', width);
    parts.svg.setAttribute('height', place.height);
    const asked = place.shown.findIndex(isAsked);
    column = asked >= 0 ? asked : place.shown.length - 1;
    explain();
  }

  // The panel

  /** Say the equation of the chosen part, and what its numbers are at its step. */
  function explain() {
    const here = areas.filter((node) => node.column === column);
    const node = here.find(isPiece(chosen)) ?? areas.find(isPiece(chosen)) ?? here[0];
    for (const one of areas) one.classList.toggle('chosen', one === node);
    const one = place.shown[node.column], half = model().bidirectional && !one.gap;
    const said = equations.describe(node.piece, `“\u2068${label(one.at)}\u2069”`, one.back);
    const title = `${said.title}${half ? `, ${one.back ? 'backward' : 'forward'} half` : ''}`;
    parts.panel.replaceChildren(app.element('h3', {}, title), ...said.lines.map(equations.formula),
      equations.sentence(said.words), app.element('p', { class: 'aside' }, numbers(node.piece, one)));
  }

  /** Say in which range the numbers of a state or gate are at a step. */
  function numbers({ kind, layer, gate }, one) {
    const state = states().includes(kind) && one.after?.layers[layer][kind];
    const values = kind === 'gate' ? gatesOf(one)?.[layer][gate] : state;
    if (!values) return '';
    const size = values.reduce((sum, value) => sum + Math.abs(value), 0) / values.length, { group } = place.fold;
    const [low, high, mean] = [Math.min(...values), Math.max(...values), size]
      .map((value) => value.toFixed(2).replace('-', '−'));
    return `At this step: from ${low} to ${high}, mean magnitude ${mean}.`
      + (group > 1 && kind !== 'gate' ? ` Each cell of the drawing is the mean of ${group} units.` : '');
  }

  // Pointing and keys

  function point(event) {
    const node = event.target;
    if (node.piece === undefined) return;
    chosen = node.piece;
    column = node.column;
    const { at } = place.shown[column];
    if (event.type === 'click' && chosen.kind === 'input' && inText(at)) app.select(at);
    else explain();
  }

  /** Left and right select a character, up and down a part of its column. */
  function press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key], up = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (by) app.select(app.selected + by);
    else if (up) {
      const here = areas.filter((node) => node.column === column);
      here.sort((one, other) => one.y.baseVal.value - other.y.baseVal.value);
      // arrows of c and of h to the next step are the same part
      const different = here.filter((node, index) => here.findIndex(isPiece(node.piece)) === index);
      chosen = different[clip(different.findIndex(isPiece(chosen)) + up, 0, different.length - 1)].piece;
      explain();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function mount(section) {
    parts = { canvas: app.element('canvas', { 'aria-hidden': 'true' }), svg: app.svg('svg', { 'aria-hidden': 'true' }),
      panel: app.element('aside', { class: 'equation', 'aria-live': 'polite' }),
      where: app.element('p', { class: 'choice' }) };
    const name = 'The unrolled network; left and right select a character, up and down a part';
    const stage = { class: 'stage', tabindex: '0', role: 'group', 'data-first': '', 'aria-label': name };
    parts.stage = app.element('div', stage, parts.canvas, parts.svg);
    parts.stage.addEventListener('pointerover', (event) => { if (event.pointerType === 'mouse') point(event); });
    parts.stage.addEventListener('click', point);
    parts.stage.addEventListener('keydown', press);
    chosen = model().bidirectional ? { kind: 'joint', layer: -1 } : { kind: 'h', layer: topLayer() };
    if (model().bidirectional) {
      section.append(app.element('p', { class: 'lead' }, 'This model reads from both ends. One half stops before the '
        + 'gap, the other behind it; the joint head predicts the character in the gap, which neither half has read.'));
    }
    const move = (where, by) => app.button(where, () => app.select(app.selected + by));
    const controls = [move('← Previous', -1), move('Next →', 1), parts.where];
    section.append(app.element('div', { class: 'bar-of-controls' }, ...controls), parts.stage, parts.panel,
      app.element('p', { class: 'hint' },
        'Point at a part, or tap it, for its equation. ← → select a character, ↑ ↓ another part.'));
    new ResizeObserver(draw).observe(parts.stage);
    document.addEventListener('scheme', draw);
  }

  return {
    id: 'unrolled', title: 'Unrolled', mount,
    lead: 'The same network at each step, with its numbers: a character goes in below, states go on to the next step '
      + 'and up, a prediction comes out above. Red is negative, blue positive; the selected character was asked for '
      + 'in the shaded column.',
    unavailable: ({ model: { name } }) => (app.network ? null
      : `${name} is an n-gram model. It looks up what followed the last characters, and has no state to unroll.`),
    selected(i) {
      const from = Math.max(0, i - 24), before = app.characters.slice(from, i).map(app.label).join('');
      parts.where.replaceChildren(`${from ? '…' : ''}${before}`, app.element('b', {}, app.label(app.characters[i])));
      draw();
    },
    progress() {
      if (place === null || place.shown.some((one) => !one.gap && !one.ready)) draw();
    },
  };
})());
