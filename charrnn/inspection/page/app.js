'use strict';
// The frame of the page: its nodes, how characters are shown, the tabs, and the one selected character that all views
// share. A view is mounted when it is first shown, and is told of changes only while it is shown.

const app = (() => {
  const SVG = 'http://www.w3.org/2000/svg';
  const QUESTIONS = {
    surprise: 'What did the model not see coming?',
    units: 'What does a single unit follow?',
    unrolled: 'What happens at each step?',
    reach: 'How far back does it remember?',
    saliency: 'Which earlier characters mattered?',
    gates: 'Which units keep, and which let go?',
    errors: 'Where do the bits go?',
    write: 'What does it write by itself?',
  };
  const TERMS = { lstm: 'LSTM', gru: 'GRU', rnn: 'RNN', hmm: 'HMM', ngram: 'n-gram model', relu: 'ReLU',
    leaky_relu: 'leaky ReLU', x: '×' };
  const list = [];
  const byId = (id) => document.getElementById(id);
  let active = null; // the view that is shown

  // Nodes: text of the user becomes text nodes, and never markup

  function filled(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  const element = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    filled(document.createElementNS(SVG, tag), attributes, children);

  /** Return a button that does something. */
  function button(words, act, attributes = {}) {
    const node = element('button', { type: 'button', ...attributes }, words);
    node.addEventListener('click', act);
    return node;
  }

  // Characters and numbers as text

  const SIGNS = { ' ': '␣', '\n': '⏎', '\t': '⇥', '\x7f': '␡', '\u00a0': '⍽', '\u3000': '␣' };
  const NAMES = { ' ': 'space', '\n': 'newline', '\t': 'tab', '\0': 'end of file', '\u3000': 'ideographic space' };
  const code = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}`;

  /** Return what shows a character, also one that cannot be seen. */
  function label(character) {
    if (character in SIGNS) return SIGNS[character];
    if (character < ' ') return String.fromCodePoint(0x2400 + character.codePointAt(0));
    if (/\p{M}/u.test(character)) return `◌${character}`;
    return /[\p{Cc}\p{Cf}\p{Cn}\p{Co}\p{Cs}\p{Z}]/u.test(character) ? code(character) : character;
  }

  /** Return how a character is called: its sign, its name if that says more, its code point. */
  const named = (character) =>
    [NAMES[character] ?? `\u2068${label(character)}\u2069`, code(character)].join(', ');

  const count = (integer) => integer.toLocaleString('en');

  /** Return a probability in percent, with two digits at least. */
  function percent(share) {
    if (share >= 0.9995) return share === 1 ? '100%' : '>99.9%';
    if (share >= 0.0995) return `${(100 * share).toFixed(share >= 0.995 ? 1 : 0)}%`;
    if (share >= 0.00005) return `${(100 * share).toFixed(share >= 0.00995 ? 1 : 2)}%`;
    return share === 0 ? '0%' : '<0.01%';
  }

  // Tabs

  /** Show a view, and tell it what happened while it was hidden. */
  function show(id) {
    const view = list.find((one) => one.id === id && one.section);
    if (!view || view === active) return;
    active?.hidden?.();
    for (const one of list.filter(({ section }) => section)) {
      one.section.hidden = one !== view;
      one.tab.setAttribute('aria-selected', String(one === view));
      one.tab.tabIndex = one === view ? 0 : -1;
    }
    active = view;
    if (!view.sentence && !view.mounted) {
      view.mounted = true;
      view.mount(view.section);
    }
    if (view.sentence) return;
    view.selected?.(app.selected);
    view.progress?.(app.run.count);
    view.shown?.();
  }

  /** Make the tab and the empty section of a view. */
  function prepare(view, index, data) {
    view.sentence = view.unavailable(data);
    view.tab = button('', () => show(view.id), { role: 'tab', id: `tab-${view.id}`, 'aria-controls': view.id,
      'aria-selected': 'false', tabindex: '-1', class: view.sentence ? 'without' : null });
    view.tab.append(element('span', { class: 'key', 'aria-hidden': 'true' }, String(index + 1)), view.title);
    const labelled = { role: 'tabpanel', 'aria-labelledby': `tab-${view.id}` };
    view.section = element('section', { id: view.id, hidden: '', ...labelled },
      element('h2', {}, QUESTIONS[view.id] ?? view.title));
    if (view.lead && !view.sentence) view.section.append(element('p', { class: 'lead' }, view.lead));
    if (view.sentence) view.section.append(element('p', { class: 'notice' }, view.sentence));
    byId('tabs').append(view.tab);
    byId('views').append(view.section);
  }

  const writes = (target) => target.closest('input:not([type=range], [type=checkbox]), textarea, select') !== null;

  /** Follow the keys of the whole page: a digit shows a view, arrows in the row of tabs go along it. */
  function press(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || writes(event.target)) return;
    const shown = list.filter(({ section }) => section);
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by && event.target.getAttribute('role') === 'tab') {
      const next = shown[(shown.indexOf(active) + by + shown.length) % shown.length];
      show(next.id);
      next.tab.focus();
    } else if (/^[1-9]$/.test(event.key) && shown[event.key - 1]) {
      show(shown[event.key - 1].id);
      (active.section.querySelector('[data-first]') ?? active.tab).focus({ preventScroll: true });
    } else return;
    event.preventDefault();
  }

  // Light and dark

  /** Offer the scheme that is not in use; follow the system's until someone has chosen. */
  function schemes() {
    const root = document.documentElement, dark = matchMedia('(prefers-color-scheme: dark)'), toggle = byId('scheme');
    let chosen = false;
    function set(scheme) {
      root.dataset.scheme = scheme;
      const other = scheme === 'dark' ? 'light' : 'dark';
      toggle.textContent = scheme === 'dark' ? '☀' : '☾';
      toggle.setAttribute('aria-label', `Use ${other} colours`);
      toggle.title = `Use ${other} colours`;
      document.dispatchEvent(new Event('scheme'));
    }
    toggle.addEventListener('click', () => {
      chosen = true;
      set(root.dataset.scheme === 'dark' ? 'light' : 'dark');
    });
    dark.addEventListener('change', () => { if (!chosen) set(dark.matches ? 'dark' : 'light'); });
    set(dark.matches ? 'dark' : 'light');
  }

  // The selected character, and the run

  function select(i) {
    app.selected = Math.max(0, Math.min(app.characters.length - 1, i));
    if (active && !active.sentence) active.selected?.(app.selected);
  }

  /** Say how far the run is, at most once a frame. */
  function follow() {
    let waiting = false;
    const bar = byId('progress'), { run } = app, whole = run.length * (run.backward ? 2 : 1);
    bar.setAttribute('aria-valuemax', String(whole));
    function tell() {
      waiting = false;
      const done = run.count + (run.backward ? run.length - run.backward.first : 0);
      bar.setAttribute('aria-valuenow', String(done));
      bar.style.setProperty('--done', String(whole ? done / whole : 1));
      bar.classList.toggle('complete', run.complete);
      describe();
      if (active && !active.sentence) active.progress?.(run.count);
    }
    run.start(() => {
      if (!waiting) requestAnimationFrame(tell);
      waiting = true;
    });
  }

  /** Write the line below the title: which model, which text, how well it predicts that. */
  function describe() {
    const { model } = app.data, { run } = app, length = app.characters.length;
    const words = model.description.replace(/, dropout [\d.]+/, '');
    const parts = [words.replace(/\b\w+\b/g, (word) => TERMS[word] ?? word)];
    if (length && run.count) {
      parts.push(run.count < length ? `reading ${count(run.count)} of ${count(length)} characters`
        : `${(run.sum / length).toFixed(2)} bits/char on these ${count(length)} characters`);
    }
    byId('description').textContent = parts.join(' · ');
  }

  /** Return the character to begin with: one with a past, and with a row of saliency if there is any. */
  function beginning({ tables }, length) {
    const from = Math.min(100, length - 1);
    return tables.saliency?.rows.find(({ position }) => position >= from)?.position ?? Math.max(0, from);
  }

  /** Start the page: called once, when the weights are unpacked. */
  function start(data, network, tensors) {
    const characters = Array.from(data.text);
    Object.assign(app, { data, network, tensors, characters, tokens: network?.encode(data.text) ?? null });
    app.selected = beginning(data, characters.length);
    app.run = Run.of(network, app.tokens, data.tables);
    byId('loading').remove();
    byId('name').textContent = data.title;
    if (data.model.mixture) {
      byId('views').append(element('p', { class: 'notice' },
        'This model is a mixture of a network and counts of n-grams. The page shows its network, without the counts.'));
    }
    byId('footer').textContent = `Made by charrnn ${data.version}. The model runs in this page, with weights in half `
      + 'precision; nothing is asked for, and nothing sent.';
    schemes();
    // without a text there is nothing to look at; the model can write all the same
    const shown = list.filter((view) => data.text !== '' || view.withoutText);
    shown.forEach((view, index) => prepare(view, index, data));
    byId('tabs').hidden = shown.length < 2;
    document.addEventListener('keydown', press);
    describe();
    show((shown.find((view) => `#${view.id}` === location.hash) ?? shown[0]).id);
    follow();
  }

  const views = { add: (view) => list.push(view) };
  return { element, svg, button, label, named, count, percent, select, show, start, views };
})();
