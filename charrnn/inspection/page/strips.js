'use strict';
// The numbers of states and gates as small coloured cells on a canvas.

const strips = (() => {
  const STATE = 46; // px that the numbers of a state may take in height
  const clip = (value, low, high) => Math.max(low, Math.min(high, value));

  /** Return how H numbers are folded into a width: {wide and high px of a cell, across, down, group: numbers a cell}. */
  function folded(H, width) {
    if (H * 9 <= width) return { wide: Math.floor(width / H), high: 16, across: H, down: 1, group: 1 };
    const cell = clip(Math.floor(Math.sqrt((width * STATE) / H)), 2, 9), across = Math.floor(width / cell);
    const group = Math.ceil(H / (across * Math.floor(STATE / cell)));
    return { wide: cell, high: cell, across, down: Math.ceil(Math.ceil(H / group) / across), group };
  }

  /** Return a function from a value, -1 to 1, to a colour of the scheme in use; of few strengths, which is faster. */
  function palette() {
    const style = getComputedStyle(document.documentElement), steps = 40;
    const shades = (name) => {
      const rgb = style.getPropertyValue(`--${name}-rgb`).trim().split(/\s+/).join(', ');
      return Array.from({ length: steps + 1 }, (_, step) => `rgba(${rgb}, ${step / steps})`);
    };
    const red = shades('red'), blue = shades('blue');
    return (value) => (value < 0 ? red : blue)[Math.round(steps * Math.min(1, Math.abs(value) || 0))];
  }

  /** Draw a state, folded, each cell the mean of its numbers. `scale` brings a number to -1 ... 1. */
  function paintState(context, values, x, y, fold, colour, scale) {
    for (let at = 0, cell = 0; at < values.length; at += fold.group, cell++) {
      let sum = 0;
      const end = Math.min(values.length, at + fold.group);
      for (let unit = at; unit < end; unit++) sum += values[unit];
      context.fillStyle = colour(scale(sum / (end - at)));
      context.fillRect(x + (cell % fold.across) * fold.wide, y + Math.floor(cell / fold.across) * fold.high, fold.wide, fold.high);
    }
  }

  /** Draw a gate in one row; each cell is a mean where there are more numbers than room. */
  function paintStrip(context, values, x, y, width, height, colour) {
    const cells = Math.min(values.length, Math.floor(width / 2)), wide = width / cells;
    for (let cell = 0; cell < cells; cell++) {
      const from = Math.floor((cell * values.length) / cells), to = Math.max(from + 1, Math.floor(((cell + 1) * values.length) / cells));
      let sum = 0;
      for (let unit = from; unit < to; unit++) sum += values[unit];
      context.fillStyle = colour(sum / (to - from));
      context.fillRect(x + cell * wide, y, wide + 0.5, height);
    }
  }

  return { clip, folded, paintState, paintStrip, palette };
})();
