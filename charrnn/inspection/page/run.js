'use strict';
// The model's way through the text of the page: its state after each character, and what that predicted. Computed in
// short slices, so that the page reacts while it fills.
// A signal {direction, layer, state, unit} is one unit's h, c or gate; direction is "forward" or "backward".

const Run = (() => {
  const SLICE = 10; // ms; what a click may have to wait for, and far below what one notices

  const PAUSE = 100; // ms

  /** Call work() in slices until it says that there is no more. A message comes at once; a timer would wait 4 ms. */
  function inSlices(work, told, paused) {
    const channel = new MessageChannel();
    const next = () => channel.port2.postMessage(null);
    channel.port1.onmessage = () => {
      if (paused()) {
        setTimeout(next, PAUSE);
        return;
      }
      const end = performance.now() + SLICE;
      let more = true;
      while (more && performance.now() < end) more = work();
      told();
      if (more) next();
    };
    next();
  }

  /** Return the n likeliest characters by probabilities (V + 1, the escape last), the likeliest first. */
  function likeliest(probabilities, characters, n) {
    const best = [];
    for (let token = 0; token < characters.length; token++) {
      if (best.length === n && probabilities[token] <= probabilities[best[n - 1]]) continue;
      let at = best.length;
      while (at > 0 && probabilities[best[at - 1]] < probabilities[token]) at--;
      best.splice(at, 0, token);
      if (best.length > n) best.pop();
    }
    return best.map((token) => ({ character: characters[token], probability: probabilities[token], token }));
  }

  /** A network reads N tokens; `count` of them are done. */
  class Run {
    constructor(network, tokens) {
      this.network = network;
      this.tokens = tokens;
      this.length = tokens.length;
      this.vocabulary = Array.from(network.vocabulary.characters);
      this.paused = false; // by whatever has to be fast
      this.count = 0;
      this.sum = 0; // bits of the first `count` characters
      this.origin = network.start();
      this.first = network.step(network.boundaryToken, this.origin); // the state before the text
      this.states = [];
      this.found = { bits: new Float32Array(this.length), rank: new Int32Array(this.length) };
      this.backward = network.backward && new Backward(network, tokens);
    }

    /** Read all characters, then back again where the model does; call told() after each slice. */
    start(told) {
      inSlices(() => {
        if (this.count < this.length) this.read();
        else if (this.backward) this.backward.read((i) => this.state(i - 1));
        return !this.complete;
      }, told, () => this.paused);
    }

    get complete() {
      return this.count === this.length && (this.backward === null || this.backward.first === 0);
    }

    read() {
      const i = this.count, state = this.state(i - 1), token = this.tokens[i];
      const logits = this.network.logits(state);
      this.found.bits[i] = this.network.nats(logits, token) / Math.LN2;
      this.found.rank[i] = this.rankOf(logits, token);
      this.sum += this.found.bits[i];
      this.states.push(this.network.step(token, state));
      this.count++;
    }

    /** Return the rank of a token among all, 1 the likeliest; the escape is the last. */
    rankOf(logits, token) {
      if (token === this.network.escape) return this.network.size + 1;
      const own = logits[token];
      return logits.reduce((above, logit) => above + (logit > own), 1);
    }

    bits(i) {
      return i < this.count ? this.found.bits[i] : undefined;
    }

    rank(i) {
      return i < this.count ? this.found.rank[i] : undefined;
    }

    /** Return the probabilities (V + 1) of character i, from the text before it. */
    probabilities(i) {
      return i <= this.count ? this.network.probabilities(this.network.logits(this.state(i - 1))) : undefined;
    }

    likeliest(i, n) {
      return i < this.count ? likeliest(this.probabilities(i), this.vocabulary, n) : undefined;
    }

    /** Return the state after character i; that before the text for -1. */
    state(i) {
      return i < 0 ? this.first : this.states[i];
    }

    /** Return a signal at character i, undefined while it is not there. */
    value({ direction, layer, state: name, unit }, i) {
      const back = direction === 'backward';
      const after = back ? this.backward.state(i) : this.states[i];
      if (!after) return undefined;
      if (name === 'h' || name === 'c') return after.layers[layer][name][unit];
      const half = back ? this.backward.network : this.network;
      return half.gate(layer, name, unit, this.tokens[i], back ? this.backward.state(i + 1) : this.state(i - 1));
    }

    /** Return a signal at all characters that were read; NaN where the other half has not arrived yet. */
    signal(direction, layer, state, unit) {
      const signal = { direction, layer, state, unit };
      return Float32Array.from({ length: this.count }, (_, i) => this.value(signal, i) ?? NaN);
    }
  }

  /** The other half of a bidirectional model, which reads from the end of the text to `first`; and the joint prediction
   *  of each character from both halves, neither of which has read it. */
  class Backward {
    constructor(model, tokens) {
      this.model = model;
      this.network = model.backward;
      this.tokens = tokens;
      this.first = tokens.length;
      this.states = Array(tokens.length + 1);
      this.origin = this.network.start();
      this.states[this.first] = this.network.step(this.network.boundaryToken, this.origin);
      this.bits = new Float32Array(tokens.length);
    }

    /** Read one character further back; before(i) is the state of the other half before character i. */
    read(before) {
      const i = --this.first, token = this.tokens[i];
      this.bits[i] = this.model.nats(this.joint(i, before(i)), token) / Math.LN2;
      this.states[i] = this.network.step(token, this.states[i + 1]);
    }

    /** Return the logits of character i from the state before it and what was read behind it. */
    joint(i, before) {
      return this.model.joint(before.features, this.states[i + 1].features);
    }

    /** Return the state after reading from the end back to character i. */
    state(i) {
      return this.states[i];
    }
  }

  /** What an n-gram model predicted, from the table of the page: it has no states. */
  class TableRun {
    constructor(rows) {
      this.rows = rows;
      this.count = rows.length;
      this.length = rows.length;
      this.sum = rows.reduce((sum, row) => sum + row.bits, 0);
      this.complete = true;
      this.backward = null;
    }

    start(told) {
      told();
    }

    bits(i) {
      return this.rows[i]?.bits;
    }

    rank(i) {
      return this.rows[i]?.rank;
    }

    likeliest(i, n) {
      return this.rows[i]?.likeliest.slice(0, n);
    }
  }

  /** Return the run of a page: by its network, else by its table of surprise. */
  Run.of = (network, tokens, tables) => (network ? new Run(network, tokens) : new TableRun(tables.surprise ?? []));
  Run.likeliest = likeliest;
  return Run;
})();
