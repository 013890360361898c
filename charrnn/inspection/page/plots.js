'use strict';
// The kinds of plot: lines or columns over an axis, points in a square, horizontal bars.

// Lines, or columns, over shared x values.
//   x: {label, kind: 'linear' | 'log2', at: [...]}
//   y: {label, kind: 'linear' | 'log10', floor, high}    floor: what is smaller has no place on the log axis;
//                                                         without it, what is not above 0
//   series: [{name, colour: 1 ..., dashed, values}]      as many values as x.at, null for a missing one
//   name(i): what the tooltip calls reading i; note: a sentence below
// Values without a place on a log axis are rings in a strip below it, where height means nothing.
charts.lines = ({ title, note, x, y, series, columns = false, name }) => {
  const { number, width, scale, ticks, text, segment, colour } = charts;
  const nameOf = name ?? ((i) => `${x.label}: ${number(x.at[i])}`);
  const several = series.length > 1;
  const values = series.flatMap((one) => one.values).filter((value) => value !== null);
  const log = y.kind === 'log10';
  const placed = (value) => !log || (value > 0 && value >= (y.floor ?? 0));
  const above = values.filter(placed);
  const most = Math.max(...above, 0);
  const steps = log ? [1, 2, 5, 10] : [1, 1.2, 1.6, 2, 2.5, 3, 4, 5, 6, 8, 10];
  const high = y.high ?? (most > 0 ? charts.roundUp(most, steps) : 1);
  const least = () => y.floor ?? (above.length ? 10 ** Math.floor(Math.log10(Math.min(...above))) : high / 10);
  const low = log ? least() : Math.min(0, ...values);
  const domain = [low, high > low ? high : 10 * low];
  const lane = series.length > 2 ? 9 : 11;              // px: of the strip below the axis, one lane a line
  const strip = values.length > above.length ? lane * series.length + 4 : 0;
  const stripName = y.floor ? `< ${charts.power(y.floor)}` : '≤ 0';

  // Where things are at this width: the inner box, the two axes, and whether lines are named at their ends.
  function layout(across) {
    const yTicks = ticks(y.kind, domain, 6);
    const format = log ? charts.power : number;
    const gutter = Math.max(...yTicks.map((value) => width(format(value))), strip ? width(stripName) : 0) + 14;
    const widest = Math.max(...series.map((one) => width(one.name)));
    const direct = several && across >= 560 && widest <= 0.3 * across;
    const height = Math.round(Math.max(230, Math.min(320, 0.5 * across)));
    const box = { left: gutter, right: across - (direct ? widest + 18 : 12), top: 28, base: height - 46 };
    const beyond = columns ? 0.6 : 0;
    const ends = [x.at[0] - beyond, x.at[x.at.length - 1] + beyond];
    const placeX = scale(x.kind, ends, [box.left + 8, box.right - 8]);
    const placeY = scale(y.kind, domain, [box.base - (strip && strip + 6), box.top]);
    const room = (box.right - box.left) / 24;           // labels of three digits
    const xTicks = x.kind === 'log2' ? ticks('log2', ends, room)
      : ticks('linear', ends, room / 2).filter((value) => value >= x.at[0]);
    return { height, box, direct, placeX, zero: placeY(log ? low : 0),
      placeY: (value, index) => placed(value) ? placeY(value) : box.base - 2 - lane * (series.length - index - 0.5),
      x: { label: x.label, ticks: xTicks, place: placeX, format: number },
      y: { label: y.label, ticks: yTicks, place: placeY, format } };
  }

  function drawColumns(one, at) {
    const thick = Math.max(1, 0.78 * (at.placeX(1) - at.placeX(0)));
    return one.values.map((value, i) => value !== null && app.svg('rect', { class: 'block', 'data-x': x.at[i],
      x: at.placeX(x.at[i]) - thick / 2, width: thick,
      y: Math.min(at.placeY(value), at.zero), height: Math.abs(at.zero - at.placeY(value)) }));
  }

  // A line breaks where it leaves the axis.
  function drawLine(one, at, index) {
    const points = x.at.map((value, i) => one.values[i] !== null
      && { sure: placed(one.values[i]), at: [at.placeX(value), at.placeY(one.values[i], index)] });
    const steps = points.map((point, i) => {
      const before = points[i - 1];
      if (!point || !before?.sure) return null;
      return segment(...before.at, ...point.at, `line${one.dashed ? ' dashed' : ''}${point.sure ? '' : ' unsure'}`);
    });
    const dots = points.map((point, i) => point && app.svg('circle', { class: point.sure ? 'dot' : 'ring',
      cx: point.at[0], cy: point.at[1], r: 3.5, 'data-x': x.at[i] }));
    return [...steps, ...dots];
  }

  function endNames(at) {
    const last = (one) => one.values.filter((value) => value !== null).pop();
    const names = series.map((one, index) => ({ one, y: at.placeY(last(one), index) }));
    return charts.apart(names, at.box.top, at.box.base).map((name) => app.svg('g', { class: colour(name.one.colour) },
      text(at.box.right + 8, name.y + 4, name.one.name, 'start', 'direct')));
  }

  function draw(across) {
    const at = layout(across);
    const { box } = at;
    const cursor = app.svg('g', {});
    const below = strip ? [
      app.svg('rect', { x: box.left, y: box.base - strip, width: box.right - box.left, height: strip, class: 'strip' }),
      text(box.left - 8, box.base - strip / 2 + 4, stripName, 'end')] : [];
    const lines = series.map((one, index) => app.svg('g', { class: colour(one.colour), 'data-series': one.name },
      ...(columns ? drawColumns : drawLine)(one, at, index).filter(Boolean)));
    const node = app.svg('svg', { viewBox: `0 0 ${across} ${at.height}`, height: at.height, 'aria-hidden': 'true' },
      ...below, ...charts.axes(box, at.x, at.y), cursor, ...lines, ...(at.direct ? endNames(at) : []));

    function read(i) {
      if (i === null) return cursor.replaceChildren();
      const across = at.placeX(x.at[i]);
      cursor.replaceChildren(segment(across, box.top - 4, across, box.base, 'rule'));
      const lines = series.filter((one) => one.values[i] !== null).map((one) => ({ ...one,
        colour: several ? one.colour : 0, text: `${several ? one.name : y.label}: ${number(one.values[i])}` }));
      return { x: across, y: box.top + 40, title: nameOf(i), lines };
    }
    const away = (i, px) => Math.abs(at.placeX(x.at[i]) - px);
    const nearest = (px) => x.at.reduce((best, _, i) => away(i, px) < away(best, px) ? i : best, 0);
    return { node, read, nearest };
  }

  const cells = () => x.at.map((value, i) => [number(value),
    ...series.map((one) => one.values[i] === null ? '' : number(one.values[i]))]);
  return charts.figure(title, several && charts.legend(series),
    charts.readable({ label: `${title}: ${y.label} by ${x.label}`, readings: x.at.length, draw }),
    charts.table([x.label, ...series.map((one) => several ? one.name : y.label)], cells), note && charts.aside(note));
};

// Points with both coordinates from 0 to 1.
//   x, y: labels; marks: [{x, y, colour, name, ...}]; diagonal: what the line means where x + y = 1
//   pick(mark): called on click, tap and Enter; columns, cells: the table of the numbers
charts.square = ({ title, x, y, marks, diagonal, pick, columns, cells }) => {
  const { percent, scale, text, segment, colour } = charts;
  const TOUCH = 24;                     // px around a mark in which a finger finds it
  const MANY = 500;                     // marks: more are drawn smaller
  const order = [...marks].sort((one, other) => (one.x - one.y) - (other.x - other.y));         // from top left

  function draw(across) {
    const side = Math.min(across - 64, 380);
    const box = { left: 44, right: 44 + side, top: 28, base: 28 + side };
    const placeX = scale('linear', [-0.02, 1.02], [box.left, box.right]);
    const placeY = scale('linear', [-0.02, 1.02], [box.base, box.top]);
    const axis = { ticks: [0, 0.25, 0.5, 0.75, 1], format: percent };
    const cursor = app.svg('g', {});
    const height = box.base + 46;
    const node = app.svg('svg', { viewBox: `0 0 ${across} ${height}`, height, 'aria-hidden': 'true' },
      ...charts.axes(box, { ...axis, label: x, place: placeX }, { ...axis, label: y, place: placeY }),
      segment(placeX(0), placeY(1), placeX(1), placeY(0), 'diagonal'),
      ...order.map((mark) => app.svg('circle', { class: `mark ${colour(mark.colour)}`,
        cx: placeX(mark.x).toFixed(1), cy: placeY(mark.y).toFixed(1), r: marks.length > MANY ? 3 : 4 })),
      text(placeX(0.5) + 6, placeY(0.5) - 6, diagonal, 'start', 'note'), cursor);

    function nearest(px, py) {
      let best = null;
      let least = TOUCH ** 2;
      order.forEach((mark, i) => {
        const away = (placeX(mark.x) - px) ** 2 + (placeY(mark.y) - py) ** 2;
        if (away < least) [best, least] = [i, away];
      });
      return best;
    }
    function read(i) {
      if (i === null) return cursor.replaceChildren();
      const mark = order[i];
      const at = { cx: placeX(mark.x), cy: placeY(mark.y), r: 6 };
      cursor.replaceChildren(app.svg('circle', { ...at, class: `halo ${colour(mark.colour)}` }));
      return { x: at.cx, y: at.cy, title: mark.name,
        lines: [{ text: `${x}: ${percent(mark.x)}` }, { text: `${y}: ${percent(mark.y)}` }] };
    }
    return { node, nearest, read };
  }

  return charts.figure(title, charts.readable({ label: title, readings: marks.length, draw,
    pick: (i) => pick(order[i]) }), charts.table(columns, cells));
};

// Horizontal bars from start (else 0) to start + value.
//   rows: [{name, bars: [{value, start, colour, text}]}]; high: the end of the axis, else the greatest; track: show it
//   rule: {value, name} a vertical line to compare with; columns, cells: the table of the numbers
charts.bars = ({ title, legend, rows, high, track = false, rule, columns, cells }) => {
  const { width, scale, text, segment, colour } = charts;
  const [THICK, GAP, PADDING] = [13, 3, 12];            // px: a bar, between two of a row, between rows
  const bars = rows.flatMap((row) => row.bars);
  const most = high ?? Math.max(...bars.map((bar) => (bar.start ?? 0) + bar.value));
  const names = Math.max(...rows.map((row) => width(row.name)));
  const words = Math.max(...bars.map((bar) => width(bar.text)));
  const box = app.element('div', { class: 'plot' });

  charts.atEachWidth(box, (across) => {
    const beside = names <= 0.45 * across;              // else a name stands above its bars
    const left = beside ? names + 12 : 0;
    const place = scale('linear', [0, most], [left, across - words - 10]);
    const blocks = [];
    const labels = [];
    const first = rule ? 22 : 4;
    let top = first;
    for (const row of rows) {
      if (!beside) top += 17;
      const middle = top + (row.bars.length * (THICK + GAP) - GAP) / 2 + 4;
      labels.push(beside ? text(left - 10, middle, row.name, 'end') : text(0, top - 6, row.name));
      for (const bar of row.bars) {
        const start = place(bar.start ?? 0);
        const end = Math.max(start + 1, place((bar.start ?? 0) + bar.value));
        const size = { y: top, height: THICK };
        if (track) blocks.push(app.svg('rect', { ...size, x: left, width: place(most) - left, class: 'strip' }));
        blocks.push(app.svg('g', { class: colour(bar.colour), 'data-row': row.name },
          app.svg('rect', { ...size, x: start, width: end - start, class: 'block' })));
        labels.push(text(end + 6, top + 11, bar.text, 'start', 'number'));
        top += THICK + GAP;
      }
      top += PADDING - GAP;
    }
    const line = rule ? [segment(place(rule.value), first - 4, place(rule.value), top - 4, 'rule'),
      text(place(rule.value), 12, rule.name, 'middle', 'note')] : [];
    box.replaceChildren(app.svg('svg', { viewBox: `0 0 ${across} ${top}`, height: top, 'aria-hidden': 'true' },
      ...blocks, segment(left, first - 4, left, top - 4, 'axis'), ...line, ...labels));
  });
  return charts.figure(title, legend && charts.legend(legend), box, charts.table(columns, cells));
};
