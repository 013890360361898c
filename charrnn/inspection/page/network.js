'use strict';
// The model: from tokens to states and predictions, as in charrnn/models/numpy_model.py, for one text.
// A state is {layers: [{h, c, past}], features}; nothing changes a state once it is made.
// Shapes: V vocabulary, E embedding, H hidden, L layers, S states of a hidden Markov model, F features (H, or E where
// weights are tied).

const Network = (() => {
  const { Layer, records, addProduct, rowProduct } = cells;

  /** What every model knows: its characters, and the probabilities that logits stand for. */
  class CharacterModel {
    constructor(vocabulary) {
      const characters = Array.from(vocabulary.characters);
      this.vocabulary = vocabulary;
      this.size = characters.length;
      this.escape = this.size; // the token of every unknown character
      this.tokens = new Map(characters.map((character, token) => [character, token]));
      this.boundary = this.encode(vocabulary.boundary);
      this.backward = null;
    }

    /** Return one token for each code point of a text. */
    encode(text) {
      return Int32Array.from(Array.from(text), (character) => this.tokens.get(character) ?? this.escape);
    }

    /** The last token of the boundary: the first input of every text. */
    get boundaryToken() {
      return this.boundary[this.boundary.length - 1];
    }

    /** Return the state before the last token of the boundary is read. */
    start() {
      return this.boundary.slice(0, -1).reduce((state, token) => this.step(token, state), this.initialState());
    }

    /** Return the probability of every token (V + 1): the escape's is the vocabulary's, and the softmax of the logits at
     *  a temperature divides the rest among the characters. */
    probabilities(logits, temperature = 1) {
      const known = Math.exp(-this.vocabulary.known_nats), shares = new Float64Array(this.size + 1);
      const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
      let sum = 0;
      for (let token = 0; token < this.size; token++) {
        // so low a temperature that all but the likeliest would overflow leaves the likeliest alone
        const below = logits[token] - largest;
        shares[token] = temperature < 1e-100 ? Number(below === 0) : Math.exp(below / temperature);
        sum += shares[token];
      }
      for (let token = 0; token < this.size; token++) shares[token] *= known / sum;
      shares[this.escape] = -Math.expm1(-this.vocabulary.known_nats);
      return shares;
    }

    /** Return the negative log-likelihood of a token, in nats. */
    nats(logits, token) {
      if (token === this.escape) return this.vocabulary.escape_nats;
      const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
      let sum = 0;
      for (const logit of logits) sum += Math.exp(logit - largest);
      return Math.log(sum) - (logits[token] - largest) + this.vocabulary.known_nats;
    }
  }

  /** A stack of recurrent layers with a head. A bidirectional model has another, `backward`, for the reversed text, and
   *  a joint head over both. */
  class Recurrent extends CharacterModel {
    constructor(model, vocabulary, tensors, prefix = '') {
      super(vocabulary);
      const tensor = (name) => tensors.get(name)?.data ?? null;
      this.model = model;
      this.tensors = tensors;
      this.gateNames = records[model.cell].gateNames;
      this.embedding = tensor('embedding'); // (V, E)
      this.scale = model.tie_weights ? Math.sqrt(model.embedding_size) : 1; // tied vectors are small, as a head's are
      this.layers = Array.from({ length: model.num_layers }, (_, index) =>
        new Layer(model, tensors, `${prefix}layers.${index}.`, `${prefix}norms.${index}.`));
      this.bridge = tensor(prefix + 'bridge.weight'); // (E, H), from the hidden state to a tied head
      this.bridgeBias = tensor(prefix + 'bridge.bias');
      this.head = tensor(model.tie_weights ? 'embedding' : 'head'); // (V, F)
      this.bias = tensor(prefix ? 'backward_bias' : 'head_bias');
      this.addsInput = model.residual && model.embedding_size === model.hidden_size && !model.tie_weights;
      this.projections = new Map(); // of the first layer, by token: a product less at every step
      this.inputs = new WeakMap(); // of the layers, for each state that was stepped from: gate() asks for them again
      this.mean = null;
      if (prefix) this.boundary.reverse();
      else if (model.bidirectional) this.backward = new Recurrent(model, vocabulary, tensors, 'backward_stack.');
    }

    initialState() {
      return { layers: this.layers.map((layer) => layer.start()), features: new Float32Array(this.head.length / this.size) };
    }

    /** Return the input vector (E) of a token; the escape's is the mean of all others. */
    embed(token) {
      const width = this.model.embedding_size;
      if (token < this.size) {
        return this.embedding.subarray(token * width, (token + 1) * width).map((value) => value * this.scale);
      }
      if (this.mean === null) {
        const sums = new Float64Array(width);
        this.embedding.forEach((value, index) => { sums[index % width] += value; });
        this.mean = Float32Array.from(sums, (sum) => (sum / this.size) * this.scale);
      }
      return this.mean;
    }

    /** Return the first layer's projected input of a token (G H). */
    projection(token) {
      if (!this.projections.has(token)) this.projections.set(token, this.layers[0].project(this.embed(token)));
      return this.projections.get(token);
    }

    /** Read a token (0 to V); return the state after it. `hold` {layer, unit, value} fixes one unit: its c in an LSTM,
     *  which h follows, else its h. */
    step(token, state, hold = null) {
      let x = this.addsInput ? this.embed(token) : null;
      const inputs = [];
      const layers = this.layers.map((layer, index) => {
        inputs.push(x);
        const projected = index === 0 ? this.projection(token) : layer.project(x);
        const next = layer.step(projected, state.layers[index], hold?.layer === index ? hold : null);
        const y = layer.output(next.h);
        const added = x;
        x = this.model.residual && added !== null ? y.map((value, unit) => value + added[unit]) : y;
        return next;
      });
      this.inputs.set(state, { token, hold, inputs });
      const features = this.bridge === null ? x : addProduct(this.bridge, x, this.bridgeBias.slice());
      return { layers, features };
    }

    /** Return the logits (V) of the next token. */
    logits(state) {
      return addProduct(this.head, state.features, this.bias.slice());
    }

    /** Return the inputs of all layers as the step from a state by a token had them; the first layer's is not needed. */
    inputsOf(token, state) {
      if (this.inputs.get(state)?.token !== token) this.step(token, state);
      return this.inputs.get(state).inputs;
    }

    /** Return the gates of the step that reads a token: for each layer an array (H) by name. */
    gates(token, state) {
      const inputs = this.inputsOf(token, state);
      return this.layers.map((layer, index) =>
        layer.gates(index === 0 ? this.projection(token) : layer.project(inputs[index]), state.layers[index]));
    }

    /** Return one gate of one unit in the step that reads a token, from single rows of the products. */
    gate(layer, name, unit, token, state) {
      const at = this.layers[layer];
      const projected = (row) =>
        layer === 0
          ? this.projection(token)[row]
          : rowProduct(at.inputWeight, row, this.inputsOf(token, state)[layer]) + at.bias[row];
      return at.gate(name, unit, projected, state.layers[layer]);
    }

    /** Predict one character from features (F) of the text before it and of the text after it; return logits (V).
     *    j = f + a b + U relu(W [f; b] + e)        f before, b after; a and e of a gap of one character */
    joint(before, after) {
      const tensor = (name) => this.tensors.get(name).data, width = before.length;
      const both = new Float32Array(2 * width);
      both.set(before);
      both.set(after, width);
      const mixed = addProduct(tensor('joint_hidden.weight'), both, tensor('joint_width').slice(0, 2 * width));
      const joint = before.map((value, unit) => value + tensor('joint_trust')[unit] * after[unit]);
      addProduct(tensor('joint_output.weight'), mixed.map((value) => Math.max(value, 0)), joint);
      return addProduct(this.head, joint, tensor('joint_bias').slice());
    }
  }

  /** A hidden Markov model (Rabiner 1989). Its only layer's h is the posterior of its S hidden states, and its features
   *  predict the next hidden state:
   *    p = f b / sum(f b)                posterior; b the probability of the character in each hidden state
   *    f' = p A                          A (S, S), the probability of each hidden state after each
   */
  class HiddenMarkov extends CharacterModel {
    constructor(model, vocabulary, tensors) {
      super(vocabulary);
      const states = model.hidden_size, rows = tensors.get('transition').data, columns = tensors.get('emission').data;
      this.model = model;
      this.gateNames = [];
      this.states = states;
      // A transposed, since products run along rows
      this.transposed = new Float32Array(states * states);
      for (let from = 0; from < states; from++) {
        const odds = softmax(rows.subarray(from * states, (from + 1) * states));
        odds.forEach((odd, to) => { this.transposed[to * states + from] = odd; });
      }
      this.emission = new Float32Array(this.size * states); // (V, S): each column adds up to 1
      for (let hidden = 0; hidden < states; hidden++) {
        const odds = softmax(Float32Array.from({ length: this.size }, (_, token) => columns[token * states + hidden]));
        odds.forEach((odd, token) => { this.emission[token * states + hidden] = (1 - 1e-6) * odd + 1e-6 / this.size; });
      }
    }

    initialState() {
      return this.after(new Float32Array(this.states).fill(1 / this.states));
    }

    after(h) {
      return { layers: [{ h, c: null, past: null }], features: addProduct(this.transposed, h, new Float32Array(this.states)) };
    }

    step(token, state) {
      const at = token * this.states;
      // the escape is equally likely in every hidden state
      const p = state.features.map((f, hidden) => f * (token === this.escape ? 1 : this.emission[at + hidden]));
      const sum = p.reduce((a, b) => a + b, 0);
      return this.after(p.map((value) => value / sum));
    }

    logits(state) {
      return addProduct(this.emission, state.features, new Float32Array(this.size)).map(Math.log);
    }

    gates() {
      return [{}];
    }
  }

  /** Compute probabilities from logits. */
  function softmax(logits) {
    const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const odds = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
    const sum = odds.reduce((a, b) => a + b, 0);
    return odds.map((odd) => odd / sum);
  }

  /** Build the model of a page from its tensors, a Map from name to {shape, data}; an n-gram model, which has none, is
   *  null. */
  CharacterModel.of = ({ model, vocabulary }, tensors) => {
    if (model.cell === 'ngram') return null;
    return new (model.cell === 'hmm' ? HiddenMarkov : Recurrent)(model, vocabulary, tensors);
  };

  return CharacterModel;
})();
