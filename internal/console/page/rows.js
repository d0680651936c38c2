// How an event is shown, live and in history.
import { clock, copied, el, whole } from './dom.js';
import { go, place } from './place.js';

// The most characters of an event that are shown, and that are read as JSON. Copy and export have all of it.
const most = 4000, mostJSON = 20000;

export const view = { pretty: place().get('view') !== 'raw' };

const clip = (text) => (text.length > most ? `${text.slice(0, most)}… (${whole.format(text.length)} characters)` : text);

export function pretty(data) {
  if (data.length > mostJSON || !/^\s*[[{]/.test(data)) return clip(data);
  try {
    return clip(JSON.stringify(JSON.parse(data), null, 2));
  } catch { return clip(data); }
}

// oneLine is the beginning of data, without its line ends.
export const oneLine = (data) => data.slice(0, 300).replace(/\s+/g, ' ');

const events = new WeakMap(); // of rows

export const eventOf = (row) => events.get(row);

// rowOf makes the row of an event: {id, channel, event, data, time}, or of a gap: {gap}.
export function rowOf(e) {
  if (e.gap) return el('li', { className: 'gap' }, '▲ Events are missing here: ', el('code', {}, e.gap));
  const row = el('li', {}, el('time'), el('b'), el('span'), el('code'),
    el('button', { type: 'button', className: 'copy' }, 'Copy'), el('pre'));
  fill(row, e);
  return row;
}

// fill has a row show an event.
export function fill(row, e) {
  const [time, channel, type, id, copy, data] = row.children;
  time.dateTime = time.title = e.time;
  time.textContent = clock(e.time);
  channel.title = channel.textContent = e.channel;
  type.textContent = e.event;
  id.textContent = e.id;
  copy.ariaLabel = `Copy event ${e.id}`;
  data.textContent = view.pretty ? pretty(e.data) : clip(e.data);
  events.set(row, e);
}

// line is an event as it is copied and exported.
export const line = ({ id, channel, event, data, time }) => JSON.stringify({ id, channel, event, data, time });

// withCopies has the buttons of a list's rows work.
export function withCopies(list) {
  list.addEventListener('click', (e) => {
    const button = e.target.closest('button.copy');
    const event = button && eventOf(button.closest('li'));
    if (event) copied(button, line(event));
  });
}

// toggles are the two buttons that choose between raw and pretty, for all lists of the page.
export function toggles(group, redraw) {
  const buttons = [...group.querySelectorAll('button')];
  const show = () => {
    buttons.forEach((b) => b.setAttribute('aria-pressed', String((b.value === 'pretty') === view.pretty)));
    redraw();
  };
  buttons.forEach((b) => b.addEventListener('click', () => {
    view.pretty = b.value === 'pretty';
    go({ view: view.pretty ? '' : 'raw' });
    show();
  }));
  show();
}
