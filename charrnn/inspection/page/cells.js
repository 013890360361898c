'use strict';
// The equations of one time step, as in charrnn/models/cells.py, for one text.
// Shapes: I inputs, H hidden, G gates of a cell, one after the other in arrays of G H numbers.

const cells = (() => {
  /** Add W x to `out` (rows), for W (rows, columns) stored row by row. Four rows at a time, so that each number of x
   *  is loaded once for four products. */
  function addProduct(weight, x, out) {
    const columns = x.length, rows = out.length, whole = rows - rows % 4;
    for (let row = 0; row < whole; row += 4) {
      const a = row * columns, b = a + columns, c = b + columns, d = c + columns;
      let p = 0, q = 0, r = 0, s = 0;
      for (let k = 0; k < columns; k++) {
        const value = x[k];
        p += weight[a + k] * value;
        q += weight[b + k] * value;
        r += weight[c + k] * value;
        s += weight[d + k] * value;
      }
      out[row] += p;
      out[row + 1] += q;
      out[row + 2] += r;
      out[row + 3] += s;
    }
    for (let row = whole; row < rows; row++) out[row] += rowProduct(weight, row, x);
    return out;
  }

  /** Compute one row of W x. */
  function rowProduct(weight, row, x) {
    const first = row * x.length;
    let sum = 0;
    for (let k = 0; k < x.length; k++) sum += weight[first + k] * x[k];
    return sum;
  }

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));

  const activations = {
    tanh: Math.tanh,
    relu: (x) => Math.max(x, 0),
    leaky_relu: (x) => (x > 0 ? x : 0.01 * x),
  };

  // Each cell: `gates` G; `gateNames` of those that have a name; whether it has a cell state besides the hidden one;
  // `gate(name, x, r)`, the value of a gate from its own numbers of x = W_ih input + biases and r = W_hh h (for n of a
  // GRU there is a third one, the value of its reset gate); and `step(x, r, h, c)`, which returns the next {h, c}.
  const records = {
    /** The plain recurrence (Elman 1990):
     *    h' = f(x + r)                     f is tanh, ReLU or leaky ReLU
     */
    rnn: {
      gates: 1,
      gateNames: [],
      step(x, r, state, activation) {
        const f = activations[activation];
        return { h: x.map((value, unit) => f(value + r[unit])), c: null };
      },
    },

    /** The long short-term memory (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000):
     *    i, f, o = sigmoid(x + r)          input, forget and output gate
     *    g = tanh(x + r)                   candidate
     *    c' = f c + i g
     *    h' = o tanh(c')
     */
    lstm: {
      gates: 4,
      gateNames: ['i', 'f', 'g', 'o'],
      gate: (name, x, r) => (name === 'g' ? Math.tanh(x + r) : sigmoid(x + r)),
      step(x, r, state, activation, held) {
        const size = state.h.length, h = new Float32Array(size), c = new Float32Array(size);
        for (let unit = 0; unit < size; unit++) {
          const F = unit + size, G = F + size, O = G + size;
          const i = sigmoid(x[unit] + r[unit]);
          const f = sigmoid(x[F] + r[F]);
          const g = Math.tanh(x[G] + r[G]);
          const o = sigmoid(x[O] + r[O]);
          c[unit] = unit === held.unit ? held.value : f * state.c[unit] + i * g;
          h[unit] = o * Math.tanh(c[unit]);
        }
        return { h, c };
      },
    },

    /** The gated recurrent unit (Cho et al. 2014):
     *    r = sigmoid(x_r + r_r)            reset gate, after the product, as in cuDNN
     *    z = sigmoid(x_z + r_z)            update gate
     *    n = tanh(x_n + r r_n)             candidate
     *    h' = (1 - z) n + z h
     */
    gru: {
      gates: 3,
      gateNames: ['r', 'z', 'n'],
      gate: (name, x, r, reset) => (name === 'n' ? Math.tanh(x + reset * r) : sigmoid(x + r)),
      step(x, r, state) {
        const size = state.h.length, h = new Float32Array(size);
        for (let unit = 0; unit < size; unit++) {
          const Z = unit + size, N = Z + size;
          const reset = sigmoid(x[unit] + r[unit]);
          const z = sigmoid(x[Z] + r[Z]);
          const n = Math.tanh(x[N] + reset * r[N]);
          h[unit] = (1 - z) * n + z * state.h[unit];
        }
        return { h, c: null };
      },
    },
  };

  /** Normalise x to mean 0 and variance 1, then scale and shift it (Ba et al. 2016). */
  function layerNorm(x, weight, bias) {
    let mean = 0, variance = 0;
    for (const value of x) mean += value / x.length;
    for (const value of x) variance += (value - mean) ** 2 / x.length;
    const deviation = Math.sqrt(variance + 1e-5);
    return x.map((value, unit) => ((value - mean) / deviation) * weight[unit] + bias[unit]);
  }

  const NONE = { unit: -1, value: 0 };

  /** One layer: W_ih (G H, I), W_hh and U of a time skip (G H, H), the biases, and its step.
   *
   *  Its state is {h, c, past}: the hidden state (H); the cell state (H) or null; and with a time skip the K hidden
   *  states before, oldest first. */
  class Layer {
    constructor(model, tensors, prefix, norm) {
      const tensor = (name) => tensors.get(prefix + name)?.data ?? null;
      this.model = model;
      this.cell = records[model.cell];
      this.size = model.hidden_size;
      this.inputWeight = tensor('kernel.weight_ih_l0');
      this.stateWeight = tensor('kernel.weight_hh_l0');
      this.skipWeight = tensor('skip_weight');
      this.norm = model.layer_norm ? [tensors.get(norm + 'weight').data, tensors.get(norm + 'bias').data] : null;
      // Both biases are added to x, but those of a GRU's candidate stay apart: its reset gate scales one of them.
      this.bias = tensor('kernel.bias_ih_l0').slice();
      this.stateBias = tensor('kernel.bias_hh_l0').slice();
      const apart = model.cell === 'gru' ? 2 * this.size : this.bias.length;
      for (let row = 0; row < apart; row++) {
        this.bias[row] += this.stateBias[row];
        this.stateBias[row] = 0;
      }
    }

    start() {
      const past = this.model.time_skip === null ? null : Array(this.model.time_skip).fill(new Float32Array(this.size));
      return { h: new Float32Array(this.size), c: this.cell === records.lstm ? new Float32Array(this.size) : null, past };
    }

    /** Compute x = W_ih input + biases (G H). */
    project(input) {
      return addProduct(this.inputWeight, input, this.bias.slice());
    }

    /** Return x (G H) from a projected input, with a time skip x + U h(t-K) (Lin et al. 1996); and r = W_hh h (G H). */
    sums(projected, state) {
      const x = this.skipWeight === null ? projected : addProduct(this.skipWeight, state.past[0], projected.slice());
      return [x, addProduct(this.stateWeight, state.h, this.stateBias.slice())];
    }

    /** Take a step. A leak keeps part of the hidden state (Jaeger et al. 2007): h' = (1 - leak) h + leak h_new.
     *  `hold` fixes one unit: its c in an LSTM, which h follows, else its h. */
    step(projected, state, hold) {
      const { leak } = this.model, held = hold ?? NONE;
      const next = this.cell.step(...this.sums(projected, state), state, this.model.activation, held);
      if (leak !== null) next.h = next.h.map((value, unit) => (1 - leak) * state.h[unit] + leak * value);
      if (next.c === null && held.unit >= 0) next.h[held.unit] = held.value;
      next.past = state.past === null ? null : [...state.past.slice(1), next.h];
      return next;
    }

    /** Return the output of a step for the layer above, from its hidden state. */
    output(h) {
      return this.norm === null ? h : layerNorm(h, ...this.norm);
    }

    /** Compute the value of every gate at a step, by name (H each). */
    gates(projected, state) {
      const [x, r] = this.sums(projected, state);
      const values = {};
      this.cell.gateNames.forEach((name, index) => {
        const first = index * this.size;
        values[name] = Float32Array.from({ length: this.size }, (_, unit) =>
          this.cell.gate(name, x[first + unit], r[first + unit], values.r?.[unit]));
      });
      return values;
    }

    /** Compute the value of one unit's gate, from one row of each product (of a GRU's candidate: two rows). */
    gate(name, unit, projected, state) {
      const row = this.cell.gateNames.indexOf(name) * this.size + unit;
      const skipped = this.skipWeight === null ? 0 : rowProduct(this.skipWeight, row, state.past[0]);
      const r = rowProduct(this.stateWeight, row, state.h) + this.stateBias[row];
      const reset = this.cell === records.gru && name === 'n' ? this.gate('r', unit, projected, state) : 0;
      return this.cell.gate(name, projected(row) + skipped, r, reset);
    }
  }

  return { Layer, records, addProduct, rowProduct };
})();
