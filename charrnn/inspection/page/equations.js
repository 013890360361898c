'use strict';
// The equations of a model, with its own sizes, for each part of the drawing of the unrolled network.
// A formula is a text such as "h_t = o_t ⊙ tanh(c_t)": _ makes the next letter, or all in {}, a subscript.

const equations = (() => {
  const SIGMOIDS = { i: 'input gate', f: 'forget gate', o: 'output gate', r: 'reset gate', z: 'update gate' };
  const ROLES = {
    i: 'It says how much of the candidate g is written into c.',
    f: 'It says how much of c is kept: at 1 all of it, and with it the gradient; at 0 nothing.',
    o: 'It says how much of c is shown to the layers above and to the next step.',
    r: 'It says how much of the past goes into the candidate n.',
    z: 'It says how much of h is kept: at 1 all of it, at 0 the candidate n takes its place.',
  };
  const model = () => app.data.model;

  /** Return a formula as nodes: letters in italics, subscripts below. */
  function formula(source) {
    const letters = (words) => words.split(/(\b[A-Za-zα-ω]\b)/u).filter(Boolean)
      .map((part) => (/^[A-Za-zα-ω]$/u.test(part) ? app.element('i', {}, part) : part));
    const parts = source.split(/_(\{[^}]*\}|.)/u);
    return app.element('p', { class: 'formula' }, ...parts.flatMap((part, index) =>
      index % 2 ? [app.element('sub', {}, ...letters(part.replace(/[{}]/g, '')))] : letters(part)));
  }

  /** Return a sentence as nodes; W_ih has its letters below there too. */
  function sentence(source) {
    return app.element('p', {}, ...source.split(/_([a-z]+)/).map((part, index) => (index % 2 ? app.element('sub', {}, part) : part)));
  }

  const size = (...sizes) => sizes.map(app.count).join(' × ');

  /** Return what a layer reads, and how many numbers that are. */
  const input = (layer) => (layer === 0 ? model().embedding_size : model().hidden_size);

  /** Return what is added to every sum of a layer that has a time skip. */
  const skip = (name) => (model().time_skip ? ` + U_${name} h_{t−${model().time_skip}}` : '');

  function sums(layer, blocks) {
    const H = model().hidden_size, rows = blocks * H;
    const each = blocks > 1 ? `, ${blocks} blocks of ${app.count(H)} rows, one for each of ${app.network.gateNames.join(', ')}` : '';
    return `W_ih is ${size(rows, input(layer))} and W_hh ${size(rows, H)}${each}. x is what the layer reads: ${layer === 0
      ? `the vector of the character, ${app.count(input(0))} numbers` : `the output of layer ${layer - 1}, ${app.count(H)} numbers`}.`;
  }

  /** Return the hidden state's equation, and with a leak the one around it. */
  function hidden() {
    const { cell, activation, leak } = model();
    const name = { tanh: 'tanh', relu: 'ReLU', leaky_relu: 'leaky ReLU' }[activation] ?? activation;
    const target = leak === null ? 'h_t' : 'ĥ_t';
    const lines = {
      lstm: [`${target} = o_t ⊙ tanh(c_t)`],
      gru: [`n_t = tanh(W_{in} x_t + b_{in}${skip('n')} + r_t ⊙ (W_{hn} h_{t−1} + b_{hn}))`, `${target} = (1 − z_t) ⊙ n_t + z_t ⊙ h_{t−1}`],
      rnn: [`${target} = ${name}(W_{ih} x_t + W_{hh} h_{t−1} + b${model().time_skip ? ` + U h_{t−${model().time_skip}}` : ''})`],
    }[cell];
    return leak === null ? lines : [...lines, `h_t = (1 − ${leak}) h_{t−1} + ${leak} ĥ_t`];
  }

  const BLOCKS = { lstm: 4, gru: 3, rnn: 1 };

  /** Say what the parts of a recurrent network do: {title, lines, words}. */
  const recurrent = {
    input(layer, at) {
      const tied = model().tie_weights ? ', the same that the head compares its features with' : '';
      return { title: 'The character read at this step', lines: [`x_t = E[${at}]`],
        words: `Its row of the embedding E (${size(app.network.size, model().embedding_size)}): ${app.count(model().embedding_size)} numbers${tied}.` };
    },
    gate(layer, at, name) {
      return { title: `${SIGMOIDS[name][0].toUpperCase()}${SIGMOIDS[name].slice(1)} ${name}, layer ${layer}`,
        lines: [`${name}_t = σ(W_{i${name}} x_t + W_{h${name}} h_{t−1} + b_${name}${skip(name)})`],
        words: `${ROLES[name]} ${sums(layer, BLOCKS[model().cell])}` };
    },
    c(layer) {
      return { title: `Cell state c, layer ${layer}`,
        lines: [`g_t = tanh(W_{ig} x_t + W_{hg} h_{t−1} + b_g${skip('g')})`, 'c_t = f_t ⊙ c_{t−1} + i_t ⊙ g_t'],
        words: `${app.count(model().hidden_size)} numbers without bounds. Between two steps they are only scaled by f and added to: that `
          + 'is how an LSTM remembers for long (Hochreiter and Schmidhuber 1997).' };
    },
    h(layer) {
      const words = { lstm: 'What the cell shows of c.', gru: 'A mean of its past and of the candidate n, weighted by z.', rnn: 'The whole memory of the layer, computed anew at each step.' };
      return { title: `Hidden state h, layer ${layer}`, lines: hidden(),
        words: `${app.count(model().hidden_size)} numbers. ${words[model().cell]} ${model().cell === 'lstm' ? '' : sums(layer, BLOCKS[model().cell])}` };
    },
    norm(layer) {
      return { title: `Layer norm, layer ${layer}`, lines: ['y_t = γ ⊙ (h_t − mean(h_t)) / std(h_t) + β'],
        words: 'What goes up is normalised; what goes to the next step is h itself (Ba et al. 2016).' };
    },
    residual(layer) {
      return { title: `Residual connection around layer ${layer}`, lines: ['x_t^{next} = y_t + x_t'.replace('^{next}', '′')],
        words: 'The output of the layer is added to what it read, and goes on upwards.' };
    },
    skip(layer) {
      const K = model().time_skip;
      return { title: `Time skip, layer ${layer}`, lines: [`… + U h_{t−${K}}`],
        words: `Every sum of the layer also sees its hidden state of ${K} steps before: a shorter way for the gradient (Lin et al. 1996).` };
    },
    recurrence(layer) {
      const { cell, hidden_size: H } = model(), rows = BLOCKS[cell] * H;
      return { title: `Recurrence, layer ${layer}`, lines: ['h_{t−1} → W_{hh} h_{t−1}'],
        words: `The same W_hh, ${size(rows, H)}, at every step.${cell === 'lstm' ? ' c goes on beside it, without a matrix.' : ''}` };
    },
    prediction() {
      const { tie_weights: tied, hidden_size: H, embedding_size: E } = model(), V = app.network.size;
      const lines = tied ? ['s = E (P h_t + q) + b'] : ['s = W h_t + b'];
      const words = tied ? `P is ${size(E, H)}, E the embedding, ${size(V, E)}.` : `W is ${size(V, H)}: a row for each of the ${app.count(V)} characters.`;
      return { title: 'Prediction of the next character', lines: [...lines, 'p = (1 − p_{esc}) softmax(s)'],
        words: `${words} The escape, which stands for all unknown characters, has its fixed share p_esc = ${app.percent(-Math.expm1(-app.data.vocabulary.known_nats))}.` };
    },
    joint() {
      const F = app.network.initialState().features.length;
      return { title: 'Joint head', lines: ['j = f + a ⊙ b + U ReLU(W [f; b] + e)', 's = W_{out} j + b_{out}'],
        words: `f (${app.count(F)} numbers) comes from the half that has read all before the gap, b from the half that has read all behind it, from the end `
          + 'of the text. Neither has read the character asked for.' };
    },
  };

  /** The same of a hidden Markov model. */
  const markov = {
    input: () => ({ title: 'The character read at this step', lines: ['b_t = B[:, x_t]'],
      words: `Its probability in each hidden state, from B (${size(model().hidden_size, app.network.size)}).` }),
    h: () => ({ title: 'Posterior of the hidden states', lines: ['h_t = (f_t ⊙ b_t) / Σ(f_t ⊙ b_t)'],
      words: `${app.count(model().hidden_size)} probabilities that add up to 1: which hidden state the model may be in, after what it has read (Rabiner 1989).` }),
    recurrence: () => ({ title: 'Transition', lines: ['f_{t+1} = h_t A'],
      words: `A (${size(model().hidden_size, model().hidden_size)}): the probability of each hidden state after each other one. Nothing else is carried on.` }),
    prediction: () => ({ title: 'Prediction of the next character', lines: ['p = f_{t+1} B'],
      words: `The mean of the rows of B (${size(model().hidden_size, app.network.size)}), weighted by the hidden states that may come next.` }),
  };

  /** Describe a part {kind, layer, gate} as {title, lines, words}; `at` is the character read there, as it is shown. In the half
   *  that reads backwards (`back`) the step before is that of the next character. */
  function describe({ kind, layer, gate }, at, back) {
    const found = (model().cell === 'hmm' ? markov : recurrent)[kind](layer, at, gate);
    return back ? { ...found, lines: found.lines.map((one) => one.replaceAll('{t−', '{t+')) } : found;
  }

  return { describe, formula, sentence };
})();
