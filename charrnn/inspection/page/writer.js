'use strict';
// Writing: a model reads a prime and continues it, one character at a time, as `charrnn sample` does.

const Writer = (() => {
  const FILE_BOUNDARY = '\0'; // ends each file of a model of files; it is written as a newline

  /** Continue a prime. `pending` are the tokens of it that are still to be read, and `written` counts the characters
   *  that were written. */
  class Writer {
    constructor(network, prime) {
      const { boundary } = network.vocabulary;
      this.network = network;
      this.boundary = Array.from(boundary);
      this.vocabulary = Array.from(network.vocabulary.characters);
      this.state = network.start();
      this.pending = [network.boundaryToken, ...network.encode(prime)];
      // newlines before a document, after the blank line that ends the one before, are read and not written
      this.leading = boundary === '\n\n' && (boundary + prime).endsWith(boundary);
      this.recent = []; // the last characters, as many as the boundary has
      this.written = 0;
      this.before = null;
      this.token = null;
    }

    /** Read the next token of the prime. */
    read(hold = null) {
      this.step(this.pending.shift(), hold);
    }

    step(token, hold) {
      [this.before, this.token] = [this.state, token];
      this.state = this.network.step(token, this.state, hold);
    }

    /** Return the n likeliest characters that may come next. */
    likeliest(n, temperature) {
      const probabilities = this.network.probabilities(this.network.logits(this.state), temperature);
      return Run.likeliest(probabilities, this.vocabulary, n);
    }

    /** Write a character, and return it as it is shown; null for one that is read but not written. */
    write(token, hold = null) {
      const character = this.vocabulary[token];
      this.step(token, hold);
      if (this.leading && this.written === 0 && character === '\n') return null;
      this.written++;
      this.recent = [...this.recent, character].slice(-this.boundary.length);
      return character === FILE_BOUNDARY ? '\n' : character;
    }

    /** Choose the next token. Greedy takes the likeliest, among ties the first; else one is drawn at a temperature,
     *  among those at least `minP` times as likely as the likeliest (Nguyen et al. 2024). Never the escape. */
    choose({ greedy, temperature, minP }) {
      const logits = this.network.logits(this.state);
      const best = logits.reduce((first, logit, token) => (logit > logits[first] ? token : first), 0);
      if (greedy) return best;
      const probabilities = this.network.probabilities(logits, temperature), least = minP * probabilities[best];
      let sum = 0;
      for (let token = 0; token < this.network.size; token++) {
        if (probabilities[token] < least) probabilities[token] = 0;
        sum += probabilities[token];
      }
      let draw = Math.random() * sum;
      for (let token = 0; token < this.network.size; token++) {
        if (probabilities[token] > 0 && (draw -= probabilities[token]) < 0) return token;
      }
      return best;
    }

    /** Say whether what was written ends a document. */
    get ended() {
      return this.recent.join('') === this.network.vocabulary.boundary;
    }

    /** Return the value of a signal after the last character. */
    value({ layer, state, unit }) {
      if (state === 'h' || state === 'c') return this.state.layers[layer][state][unit];
      return this.network.gate(layer, state, unit, this.token, this.before);
    }
  }

  return Writer;
})();
