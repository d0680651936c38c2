// The figures of the hub: tiles, charts, streams, log and stores, from /v1/stats.
import { $, age, bytes, count, el, say, shape, toPaste, whole } from './dom.js';
import { accepted, ask, curl, onIdentity, rejected, signedIn, wanted } from './access.js';
import { drawAll } from './charts.js';
import { showStreams } from './streams.js';

const stats = 'v1/stats?streams=200';

let before = null; // the snapshot before, for rates
let knock = null; // ends the wait for the next figures

function tile(name, value, more = '') {
  return el('div', {}, el('dt', {}, name), el('dd', {}, value), el('dd', { className: 'more' }, more));
}

function show(s) {
  const now = new Date(s.time).getTime();
  say($('state'), s.ready ? '● Ready' : `▲ Not ready: ${s.reason}`, s.ready ? 'good' : 'bad');
  const seconds = before ? (now - new Date(before.time)) / 1000 : 0;
  const rate = (key) => (seconds > 0 ? count(Math.max(0, s.events[key] - before.events[key]) / seconds) : '–');
  const open = Object.values(s.streams.open).reduce((a, b) => a + b, 0);
  $('now').replaceChildren(
    tile('Streams', whole.format(open), Object.entries(s.streams.open).map(([k, n]) => `${whole.format(n)} ${k}`).join(', ')),
    tile('Published', rate('published'), 'a second'),
    tile('Delivered', rate('delivered'), 'a second'),
    tile('Slowest stream', count(s.events.slowestLag), 'positions behind'),
    tile('Log', s.log ? bytes(s.log.bytes) : '–', s.log?.maxBytes ? `of ${bytes(s.log.maxBytes)}` : ''),
    tile('Up', age(now - new Date(s.started)), s.version),
  );
  drawAll(s.history, now);
  showStreams(s, before, now);
  retention(s.log, now);
  stores(s.stores, now);
  before = s;
}

function retention(log, now) {
  if (!log) return;
  const share = log.maxBytes ? Math.min(1, log.bytes / log.maxBytes) : 0;
  $('log-note').textContent = `${bytes(log.bytes)} on disk${log.setAside ? ` (${bytes(log.setAside)} set aside for what comes next)` : ''}${log.maxBytes ? ` of at most ${bytes(log.maxBytes)}` : ''}${log.oldest ? `, the oldest event is ${age(now - new Date(log.oldest))} old` : ', empty'}.`;
  const bar = shape('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none' });
  bar.append(shape('rect', { width: Math.max(share * 100, 0.3), height: 10 }));
  $('log-bar').hidden = !log.maxBytes;
  $('log-bar').replaceChildren(bar);
  $('log-bar').setAttribute('aria-label', `Size of the log: ${Math.round(share * 100)} % of its limit`);
  const row = (r) => [el('code', {}, r.rule), whole.format(r.channels), whole.format(r.events), bytes(r.bytes), r.oldest ? `${age(now - new Date(r.oldest))} ago` : '–'];
  $('rules-rows').replaceChildren(...log.retention.map((r) => el('tr', {}, ...row(r).map((c, i) => el('td', { className: i ? 'number' : '' }, c)))));
}

function stores(list, now) {
  $('stores-empty').hidden = list.length > 0;
  $('stores-list').replaceChildren(...list.map((store) => el('li', {}, el('b', {}, `Store ${store.store}`), el('ul', {}, ...store.pcs.map((pc) => el('li', {},
    el('span', pc.readers ? { title: pc.readers.map((r) => `${r.address}: ${r.streams} streams`).join(', ') } : {}, `PC ${pc.pc}`,
      ...(pc.shared ? [' ', el('b', {}, 'read twice')] : [])),
    pc.open ? el('span', { className: 'on' }, '● connected') : el('span', { className: 'off' }, `○ ${age(now - new Date(pc.lastSeen))} ago`)))))));
}

// visible shows the parts that need the figures, or says why they are not there.
function visible(on, why = '') {
  for (const part of document.querySelectorAll('[data-figures]')) part.hidden = !on;
  $('no-figures').hidden = !why;
  $('no-figures').querySelector('p').textContent = why;
}

// once gets the figures once, and tells what is in the way. It returns when to ask again, in milliseconds: who was refused is not
// asked for until there is another token.
async function once() {
  try {
    const snapshot = await ask(stats);
    accepted();
    visible(true);
    show(snapshot);
    return 2000;
  } catch (e) {
    if (e.status === 401) {
      wanted(e.message, signedIn() ? 'bad' : ''); // it is no error yet that nobody has given a token
      rejected();
      visible(false);
      say($('state'), '▲ Who are you?', 'warn');
      return 60000;
    }
    if (e.status === 403) { // the hub knows the token, which may be right for channels
      accepted();
      visible(false, `${e.message}. Channels, live events and publishing work as far as the token allows them.`);
      say($('state'), '● Signed in', 'good');
      return 60000;
    }
    say($('state'), '▲ The hub does not answer; trying again', 'warn');
    return 2000;
  }
}

// follow shows the figures: as a stream where nobody is asked who they are, and again and again with a token, which an EventSource
// cannot send.
async function follow() {
  for (;;) {
    const wait = await once();
    if (wait === 2000 && before && !signedIn()) return stream();
    await new Promise((resolve) => { knock = resolve; setTimeout(resolve, wait); });
  }
}

function stream() {
  const source = new EventSource(`${stats}&interval=2`);
  source.addEventListener('stats', (e) => show(JSON.parse(e.data)));
  source.addEventListener('error', () => {
    say($('state'), '▲ The hub does not answer; trying again', 'warn');
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(follow, 3000);
  });
}

function storesEmpty() {
  $('stores-empty').replaceChildren(toPaste('No store PC has been seen yet. This is how one listens:',
    ...curl('v1/stores/event-sources?storeId=42&pcId=7', '-N')));
}

storesEmpty();
onIdentity(() => {
  storesEmpty();
  before = null;
  knock?.();
});
follow();
