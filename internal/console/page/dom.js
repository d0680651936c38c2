// What all parts of the page use: elements, texts that people read, and the clipboard.

export const $ = (id) => document.getElementById(id);

// el makes an element. Text is never read as HTML.
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export function shape(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
export const whole = new Intl.NumberFormat('en');
const three = new Intl.NumberFormat('en', { maximumSignificantDigits: 3 });

// count writes a figure with three digits that count: 12.5 is 12.5, not 13.
export const count = (n) => (n < 1000 ? three.format(n) : n < 10000 ? whole.format(Math.round(n)) : short.format(n));

export function bytes(n) {
  for (const unit of ['B', 'KiB', 'MiB', 'GiB', 'TiB']) {
    if (n < 1024 || unit === 'TiB') return `${unit === 'B' ? n : n.toFixed(n < 10 ? 1 : 0)} ${unit}`;
    n /= 1024;
  }
}

export function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}

const times = new Intl.DateTimeFormat([], { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const days = new Intl.DateTimeFormat([], { day: '2-digit', month: 'short' });

// clock writes a time of day, and the day where it is not today.
export function clock(time) {
  const at = new Date(time);
  return (at.toDateString() === new Date().toDateString() ? '' : `${days.format(at)} `) + times.format(at);
}

// say puts a text into a status line. An empty text takes back what was said.
export function say(node, text, kind = '') {
  if (node.textContent !== text) node.textContent = text;
  node.dataset.kind = kind;
}

// copy puts text on the clipboard. Without TLS browsers offer only the older way.
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.body.appendChild(el('textarea', { value: text, className: 'visually-hidden' }));
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  if (!done) throw new Error('this browser does not let the page copy');
}

// copied makes a button say for a moment that its text was copied.
export async function copied(button, text) {
  const before = button.dataset.text ??= button.textContent;
  try {
    await copy(text);
    button.textContent = 'Copied';
  } catch (e) { button.textContent = 'Not copied'; }
  setTimeout(() => { button.textContent = before; }, 1500);
}

// toPaste is what an empty place shows: a sentence, and a command for a terminal, of texts and nodes.
export function toPaste(sentence, ...command) {
  const code = el('code', {}, ...command);
  const button = el('button', { type: 'button', className: 'quiet', ariaLabel: 'Copy the command' }, 'Copy');
  button.addEventListener('click', () => copied(button, code.textContent));
  return el('div', { className: 'empty' }, el('p', {}, sentence), el('div', { className: 'paste' }, code, button));
}

// quoted is a text as a shell takes it, as one word.
export const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

// keyed shows items as children of a node. A child stays the same for the same key, so that it keeps its focus.
export function keyed(parent, items, key, make, update) {
  const kept = parent.kept ??= new Map();
  const now = new Map(items.map((item) => [String(key(item)), item]));
  for (const [k, node] of kept) {
    if (now.has(k)) continue;
    node.remove();
    kept.delete(k);
  }
  let before = null;
  for (const [k, item] of now) {
    let node = kept.get(k);
    if (!node) kept.set(k, node = make(item));
    update(node, item);
    const place = before ? before.nextSibling : parent.firstChild;
    if (node !== place) parent.insertBefore(node, place);
    before = node;
  }
}

// childFor is the child that keyed shows for a key.
export const childFor = (parent, key) => parent.kept?.get(String(key));

// cells sets the texts of a row's cells, and touches only those that changed.
export function cells(row, texts) {
  texts.forEach((text, i) => { if (row.cells[i].textContent !== text) row.cells[i].textContent = text; });
}
