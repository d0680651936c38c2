// The streams that are open: sorted, filtered, and ended by a button.
import { $, age, cells, count, el, keyed, say, toPaste, whole } from './dom.js';
import { curl, onIdentity, post } from './access.js';
import { go, onBack, place } from './place.js';

const columns = {
  stream: (o) => o.id, api: (o) => o.adapter, address: (o) => o.subject || o.remote, channels: (o) => (o.channels || []).join(' '),
  age: (o) => -new Date(o.began), events: (o) => o.events, rate: (o) => o.rate ?? -1, lag: (o) => o.lag,
};

let shown = []; // of the last figures
let at = 0, open = 0;
let sort = 'lag', down = true;
let filter = '';

// showStreams takes the figures of now, and those before, for rates.
export function showStreams(s, before, now) {
  const last = new Map((before?.open || []).map((o) => [o.id, o]));
  const seconds = before ? (now - new Date(before.time)) / 1000 : 0;
  at = now;
  open = Object.values(s.streams.open).reduce((a, b) => a + b, 0);
  shown = s.open.map((o) => ({ ...o, rate: last.has(o.id) && seconds > 0 ? (o.events - last.get(o.id).events) / seconds : undefined }));
  draw();
}

const textOf = (o) => [o.id, o.adapter, o.subject, o.remote, ...(o.channels || [])].join(' ').toLowerCase();

function draw() {
  const of = columns[sort] || columns.lag;
  const list = shown.filter((o) => textOf(o).includes(filter.toLowerCase()));
  list.sort((a, b) => {
    const [x, y] = [of(a), of(b)];
    return (x < y ? -1 : x > y ? 1 : a.id - b.id) * (down ? -1 : 1);
  });
  keyed($('streams-rows'), list, (o) => o.id, make, update);
  $('streams-table').hidden = !shown.length;
  $('streams-filter').hidden = !shown.length && !filter;
  $('streams-empty').hidden = open > 0;
  const parts = [];
  if (filter) parts.push(`${list.length} of ${whole.format(shown.length)} match`);
  if (open > shown.length) parts.push(`Of ${whole.format(open)} streams these are the ${shown.length} furthest behind`);
  $('streams-note').textContent = parts.join('. ');
  for (const button of document.querySelectorAll('#streams-table thead button')) {
    const here = button.value === sort;
    button.parentElement.setAttribute('aria-sort', here ? (down ? 'descending' : 'ascending') : 'none');
  }
}

function make(o) {
  const button = el('button', { type: 'button', className: 'quiet', ariaLabel: `End stream ${o.id}` }, 'End');
  button.addEventListener('click', () => endStream(button, o));
  return el('tr', {}, ...['', '', '', 'wrap', 'number', 'number', 'number', 'number', ''].map((className) => el('td', { className }))
    .map((cell, i) => { if (i === 8) cell.append(button); return cell; }));
}

function update(row, o) {
  cells(row, [String(o.id), o.adapter, o.subject ? `${o.subject} · ${o.remote}` : o.remote, (o.channels || []).join(' '),
    age(at - new Date(o.began)), whole.format(o.events), o.rate === undefined ? '–' : `${count(o.rate)} /s`, count(o.lag)]);
}

// endStream asks once more before it ends a stream.
async function endStream(button, o) {
  if (!button.dataset.sure) {
    button.dataset.sure = 'asked';
    button.textContent = 'Really?';
    button.setAttribute('aria-label', `Really end stream ${o.id}?`);
    setTimeout(() => {
      delete button.dataset.sure;
      button.textContent = 'End';
      button.setAttribute('aria-label', `End stream ${o.id}`);
    }, 4000);
    return;
  }
  button.disabled = true;
  try {
    const { streams } = await post('v1/admin/disconnect', { stream: o.id });
    say($('streams-state'), streams ? `Stream ${o.id} ends now. Its client may come back.` : `Stream ${o.id} had ended already.`, 'good');
  } catch (e) { say($('streams-state'), e.message, 'bad'); }
  button.disabled = false;
  setTimeout(() => say($('streams-state'), ''), 8000);
}

for (const button of document.querySelectorAll('#streams-table thead button')) {
  button.addEventListener('click', () => {
    down = sort === button.value ? !down : button.classList.contains('number');
    sort = button.value;
    go({ sort: sort === 'lag' && down ? '' : `${down ? '-' : ''}${sort}` });
    draw();
  });
}

$('streams-filter').querySelector('input').addEventListener('input', (e) => {
  filter = e.target.value.trim();
  go({ streams: filter });
  draw();
});

function fromPlace(query) {
  const by = query.get('sort') || '-lag';
  down = by.startsWith('-');
  sort = by.replace(/^-/, '');
  filter = query.get('streams') || '';
  $('streams-filter').querySelector('input').value = filter;
  draw();
}

function emptiness() {
  $('streams-empty').replaceChildren(toPaste('Nobody is connected. Listen in a terminal:', ...curl('v1/events?channel=greetings&replay=all', '-N')));
}

emptiness();
onIdentity(emptiness);
onBack(fromPlace);
fromPlace(place());
