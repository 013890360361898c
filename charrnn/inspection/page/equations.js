'use strict';
// The equations of a model, with its own sizes, for each part of the drawing of the unrolled network.
// A formula is a text such as "h_t = o_t ⊙ tanh(c_t)": _ makes the next letter, or all in {}, a subscript.

const equations = (() => {
  const BLOCKS = { lstm: 4, gru: 3, rnn: 1 }; // of H rows in the matrices of a cell
  const GATES = {
    i: ['Input gate', 'It says how much of the candidate g is written into c.'],
    f: ['Forget gate', 'It says how much of c is kept: at 1 all of it, and with it the gradient; at 0 nothing.'],
    o: ['Output gate', 'It says how much of c is shown to the layers above and to the next step.'],
    r: ['Reset gate', 'It says how much of the past goes into the candidate n.'],
    z: ['Update gate', 'It says how much of h is kept: at 1 all of it; at 0 the candidate n takes its place.'],
  };
  const HIDDEN = {
    lstm: 'What the cell shows of c.',
    gru: 'A mean of its past and of the candidate n, weighted by z.',
    rnn: 'The whole memory of the layer, computed anew at each step.',
  };

  const model = () => app.data.model;
  const { count } = app;
  const size = (...sizes) => sizes.map(count).join(' × ');

  /** Return a formula as nodes: letters in italics, subscripts below. */
  function formula(source) {
    const letters = (words) => words.split(/(\b[A-Za-zα-ω]\b)/u).filter(Boolean)
      .map((part) => (/^[A-Za-zα-ω]$/u.test(part) ? app.element('i', {}, part) : part));
    const nodes = source.split(/_(\{[^}]*\}|.)/u).flatMap((part, index) =>
      (index % 2 ? [app.element('sub', {}, ...letters(part.replace(/[{}]/g, '')))] : letters(part)));
    return app.element('p', { class: 'formula' }, ...nodes);
  }

  /** Return a sentence as nodes; W_ih has its letters below there too. */
  function sentence(source) {
    const nodes = source.split(/_([a-z]+)/).map((part, index) => (index % 2 ? app.element('sub', {}, part) : part));
    return app.element('p', {}, ...nodes);
  }

  // Recurrent networks

  /** Return what a time skip adds to a sum. */
  const skipped = (letter) => (model().time_skip ? ` + U${letter} h_{t−${model().time_skip}}` : '');

  /** Say how large the matrices of a layer are, and what it reads. */
  function matrices(layer) {
    const { hidden_size: H, embedding_size: E, cell } = model(), blocks = BLOCKS[cell], rows = blocks * H;
    const names = app.network.gateNames.join(', ');
    const each = blocks > 1 ? `, ${blocks} blocks of ${count(H)} rows, one for each of ${names}` : '';
    const x = layer === 0 ? `the vector of the character, ${count(E)} numbers`
      : `the output of layer ${layer - 1}, ${count(H)} numbers`;
    const sizes = `W_ih is ${size(rows, layer === 0 ? E : H)} and W_hh ${size(rows, H)}${each}`;
    return `${sizes}. x is what the layer reads: ${x}.`;
  }

  /** Return the equations of the hidden state; with a leak, ĥ is what it would be without. */
  function hidden() {
    const { cell, activation, leak } = model(), h = leak === null ? 'h_t' : 'ĥ_t';
    const f = { tanh: 'tanh', relu: 'ReLU', leaky_relu: 'leaky ReLU' }[activation];
    const lines = {
      lstm: [`${h} = o_t ⊙ tanh(c_t)`],
      gru: [`n_t = tanh(W_{in} x_t + b_{in}${skipped('_n')} + r_t ⊙ (W_{hn} h_{t−1} + b_{hn}))`,
        `${h} = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}`],
      rnn: [`${h} = ${f}(W_{ih} x_t + W_{hh} h_{t−1} + b${skipped('')})`],
    }[cell];
    return leak === null ? lines : [...lines, `h_t = (1 − ${leak}) h_{t−1} + ${leak} ĥ_t`];
  }

  const recurrent = {
    input(layer, at) {
      const E = model().embedding_size;
      return { title: 'The character read at this step', lines: [`x_t = E[${at}]`],
        words: `Its row of the embedding E (${size(app.network.size, E)}): ${count(E)} numbers`
          + `${model().tie_weights ? ', the same that the head compares its features with' : ''}.` };
    },
    gate(layer, at, name) {
      const [title, role] = GATES[name];
      return { title: `${title} ${name}, layer ${layer}`, words: `${role} ${matrices(layer)}`,
        lines: [`${name}_t = σ(W_{i${name}} x_t + W_{h${name}} h_{t−1} + b_${name}${skipped(`_${name}`)})`] };
    },
    c(layer) {
      return { title: `Cell state c, layer ${layer}`,
        lines: [`g_t = tanh(W_{ig} x_t + W_{hg} h_{t−1} + b_g${skipped('_g')})`, 'c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t'],
        words: `${count(model().hidden_size)} numbers without bounds. Between two steps they are only scaled by f and `
          + 'added to: that is how an LSTM remembers for long (Hochreiter and Schmidhuber 1997).' };
    },
    h(layer) {
      const { cell, hidden_size: H } = model(), more = cell === 'lstm' ? '' : ` ${matrices(layer)}`;
      return { title: `Hidden state h, layer ${layer}`, lines: hidden(),
        words: `${count(H)} numbers. ${HIDDEN[cell]}${more}` };
    },
    norm(layer) {
      return { title: `Layer norm, layer ${layer}`, lines: ['y_t = γ ⊙ (h_t − mean(h_t)) / std(h_t) + β'],
        words: 'What goes up is normalised; what goes to the next step is h itself (Ba et al. 2016).' };
    },
    residual(layer) {
      return { title: `Residual connection, layer ${layer}`, lines: ['output_t = y_t + x_t'],
        words: 'What the layer reads is added to what it makes of it, and the sum goes up.' };
    },
    skip(layer) {
      const K = model().time_skip;
      return { title: `Time skip, layer ${layer}`, lines: [`… + U h_{t−${K}}`],
        words: `Every sum of the layer also has its hidden state of ${K} steps before: a shorter way for the gradient `
          + '(Lin et al. 1996).' };
    },
    recurrence(layer) {
      const { cell, hidden_size: H } = model();
      const beside = cell === 'lstm' ? ' c goes on beside it, without a matrix.' : '';
      return { title: `Recurrence, layer ${layer}`, lines: ['h_{t−1} → W_{hh} h_{t−1}'],
        words: `The same W_hh, ${size(BLOCKS[cell] * H, H)}, at every step.${beside}` };
    },
    prediction() {
      const { tie_weights: tied, hidden_size: H, embedding_size: E } = model(), V = app.network.size;
      const escape = app.percent(-Math.expm1(-app.data.vocabulary.known_nats));
      const words = tied ? `P is ${size(E, H)}, E the embedding, ${size(V, E)}.`
        : `W is ${size(V, H)}: a row for each of the ${count(V)} characters.`;
      return { title: 'Prediction of the next character',
        lines: [tied ? 's = E (P h_t + q) + b' : 's = W h_t + b', 'p = (1 − p_{esc}) softmax(s)'],
        words: `${words} The escape, which stands for all unknown characters, has a fixed share: p_esc = ${escape}.` };
    },
    joint() {
      const F = app.network.initialState().features.length;
      return { title: 'Joint head', lines: ['j = f + a ⊙ b + U ReLU(W [f; b] + e)', 's = W_{out} j + b_{out}'],
        words: `f (${count(F)} numbers) comes from the half that has read all before the gap, b from the half that has `
          + 'read all behind it, from the end of the text. Neither has read the character asked for.' };
    },
  };

  // Hidden Markov models

  const markov = {
    input() {
      return { title: 'The character read at this step', lines: ['b_t = B[:, x_t]'],
        words: `Its probability in each hidden state, from B (${size(model().hidden_size, app.network.size)}).` };
    },
    h() {
      return { title: 'Posterior of the hidden states', lines: ['h_t = (f_t ⊙ b_t) / Σ(f_t ⊙ b_t)'],
        words: `${count(model().hidden_size)} probabilities that add up to 1: in which hidden state the model may be, `
          + 'after what it has read (Rabiner 1989).' };
    },
    recurrence() {
      const S = model().hidden_size;
      return { title: 'Transition', lines: ['f_{t+1} = h_t A'],
        words: `A (${size(S, S)}): the probability of each hidden state after each other one. `
          + 'Nothing else is carried on.' };
    },
    prediction() {
      return { title: 'Prediction of the next character', lines: ['p = f_{t+1} B'],
        words: `The mean of the rows of B (${size(model().hidden_size, app.network.size)}), weighted by the hidden `
          + 'states that may come next.' };
    },
  };

  /** Describe a part {kind, layer, gate} as {title, lines, words}; `at` is the character read there, as it is shown. In
   *  the half that reads backwards (`back`) the step before is that of the next character. */
  function describe({ kind, layer, gate }, at, back) {
    const found = (model().cell === 'hmm' ? markov : recurrent)[kind](layer, at, gate);
    return back ? { ...found, lines: found.lines.map((one) => one.replaceAll('{t−', '{t+')) } : found;
  }

  return { describe, formula, sentence };
})();
