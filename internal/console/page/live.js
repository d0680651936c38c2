// Live events: a stream of channels, in a list that filters, pauses, copies and exports.
//
// A stream may bring a thousand events a second, or a replay of a hundred thousand at once, and a frame of the page lasts 16 ms.
// So the stream's handler only queues what comes; a frame reads the queue for a few milliseconds; and the list is drawn ten times
// a second, because nobody reads faster. What is kept is bounded, and the oldest goes first.
import { $, copied, count, say, el, toPaste, whole } from './dom.js';
import { address, onIdentity, signedIn, why } from './access.js';
import { go, onBack, place } from './place.js';
import { line, rowOf, toggles, withCopies } from './rows.js';

const mostKept = 5000, mostChars = 16e6; // of events that filters and exports see
const mostQueued = 20000, mostQueuedChars = 32e6;
const mostShown = 200;
const drawEvery = 100, turn = 6; // milliseconds

let source = null, opening = 0;
let channels = [];
let queue = [], queued = 0; // what came, and its characters
let kept = [], chars = 0; // oldest first
let came = 0, dropped = 0, drawn = 0; // events of this stream: all, those that overflowed the queue, those that the list shows
let paused = false, pausedAt = 0;
let filter = '';
let scan = null; // a search through what is kept that is under way
let fresh = []; // matching events that are not yet drawn, oldest first
let pumping = false;

function matches(e) {
  if (!filter || e.gap) return true;
  return (e.search ??= `${e.channel}\n${e.event}\n${e.id}\n${e.data}`.toLowerCase()).includes(filter);
}

// take queues an event as it came. It is called for every event, and so does next to nothing.
function take(e) {
  queue.push(e);
  queued += e.data.length;
  came++;
  if (queue.length > mostQueued || queued > mostQueuedChars) {
    const over = queue.splice(0, Math.max(1, queue.length >> 2));
    for (const old of over) queued -= old.data.length;
    dropped += over.length;
  }
  pump();
}

function pump() {
  if (pumping) return;
  pumping = true;
  requestAnimationFrame(frame);
}

// frame works for one turn, and asks for another frame while there is work.
function frame(now) {
  pumping = false;
  const until = performance.now() + turn;
  read(until);
  if (scan) search(until);
  if (!paused && !scan && fresh.length && now - drawn >= drawEvery) draw(now);
  summary(now);
  if (queue.length || scan || (!paused && fresh.length)) pump();
}

function read(until) {
  let i = 0;
  while (i < queue.length && (i & 15 || performance.now() < until)) {
    const e = queue[i++];
    queued -= e.data.length;
    keep(e.gap ? e : parse(e));
  }
  queue = i === queue.length ? [] : queue.slice(i);
  while (kept.length > mostKept + 500 || chars > mostChars) forget(Math.min(500, kept.length));
}

function parse(e) {
  const { channel, event, data, time } = JSON.parse(e.data);
  return { id: e.lastEventId, channel, event, data, time };
}

function keep(e) {
  kept.push(e);
  chars += e.gap ? 0 : e.data.length;
  if (!matches(e)) return;
  fresh.push(e);
  if (fresh.length > 2 * mostShown) fresh = fresh.slice(-mostShown);
}

function forget(n) {
  for (const e of kept.splice(0, n)) chars -= e.gap ? 0 : e.data.length;
  if (scan) scan.at = Math.max(-1, scan.at - n);
}

function draw(now) {
  drawn = now;
  const list = $('events');
  const rows = fresh.slice(-mostShown).reverse().map(rowOf);
  fresh = [];
  for (let over = list.children.length + rows.length - mostShown; over > 0; over--) list.lastChild.remove();
  // Who has scrolled down reads: the rows stay under the eye.
  const box = $('events-box'), before = box.scrollTop > 8 ? box.scrollHeight : 0;
  list.prepend(...rows);
  if (before) box.scrollTop += box.scrollHeight - before;
}

// redraw shows what is kept, by the filter and the view that are set now.
function redraw() {
  fresh = [];
  scan = { at: kept.length - 1, found: [] };
  pump();
}

function search(until) {
  while (scan.at >= 0 && scan.found.length < mostShown && performance.now() < until) {
    const e = kept[scan.at--];
    if (matches(e)) scan.found.push(e);
  }
  if (scan.at >= 0 && scan.found.length < mostShown) return;
  $('events').replaceChildren(...scan.found.slice(0, mostShown).map(rowOf));
  scan = null;
}

let rateAt = 0, rateCame = 0, rate = '', said = 0;

function summary(now) {
  if (now - rateAt >= 1000) {
    rate = rateAt ? `, ${count(((came - rateCame) * 1000) / (now - rateAt))} a second` : '';
    rateAt = now;
    rateCame = came;
  }
  if (now - said < 250 && queue.length) return;
  said = now;
  $('events-empty').hidden = came > 0 || !source;
  const parts = came ? [`${whole.format(came)} events${rate}`] : [];
  if (came > mostKept) parts.push(`the newest ${whole.format(Math.min(kept.length, mostKept))} are kept`);
  if (dropped) parts.push(`${whole.format(dropped)} came faster than the page could read`);
  if (paused) parts.push(`paused; ${whole.format(came - pausedAt)} new`);
  if (filter && came && !$('events').children.length && !scan) parts.push('none matches the filter');
  say($('live-summary'), parts.join(' · '));
}

setInterval(() => { if (source && !pumping && !document.hidden) pump(); }, 1000); // the rate falls when nothing comes

// --- the stream ---

function end(text = '', kind = '') {
  opening++;
  source?.close();
  source = null;
  $('stop').disabled = true;
  say($('live-state'), text, kind);
}

function clear() {
  queue = []; kept = []; fresh = []; scan = null;
  queued = chars = came = dropped = rateCame = rateAt = 0;
  rate = '';
  pause(false);
  $('events').replaceChildren();
  pump();
}

// listen opens a stream of channels and patterns. replay is 'all', a number, or ''.
export async function listen(names, replay) {
  end('Connecting…');
  clear();
  channels = names;
  $('listen').elements.channels.value = names.join(' ');
  $('listen').elements.replay.value = replay;
  go({ listen: names.join(' '), replay: replay === '20' ? '' : replay || 'next' });
  const mine = opening;
  let url;
  try {
    url = await address(names, { envelope: 'true', ...(replay ? { replay } : {}) });
  } catch (e) { return mine === opening && end(e.message, 'bad'); }
  if (mine !== opening) return;
  source = new EventSource(url);
  $('stop').disabled = false;
  const command = `curl -d '{"hello":"world"}' ${new URL(`v1/channels/${example(names)}`, location.href.split('?')[0])}`;
  $('events-empty').replaceChildren(toPaste('Nothing has come yet. Publish something:', command));
  source.addEventListener('open', () => say($('live-state'), `Listening to ${names.join(', ')}`, 'good'));
  source.addEventListener('message', take);
  source.addEventListener('gap', (e) => take({ gap: e.data, data: '' }));
  source.addEventListener('error', () => broken(mine, url));
}

async function broken(mine, url) {
  if (mine !== opening) return;
  if (source.readyState !== EventSource.CLOSED) return say($('live-state'), 'The connection broke; trying again', 'bad');
  const reason = await why(url);
  if (mine === opening) end(reason || 'The hub ended the stream', 'bad');
}

// example is a channel that the first pattern matches.
function example(names) {
  return (names[0] || 'greetings').replace(/\*\*$/, 'greetings').replaceAll('*', 'one');
}

// --- controls ---

function pause(on) {
  paused = on;
  pausedAt = came;
  $('pause').setAttribute('aria-pressed', String(on));
  $('pause').textContent = on ? 'Go on' : 'Pause';
}

$('pause').addEventListener('click', () => {
  pause(!paused);
  if (!paused) redraw();
  pump();
});

$('clear').addEventListener('click', clear);

$('filter').addEventListener('input', () => {
  filter = $('filter').value.trim().toLowerCase();
  go({ filter: $('filter').value.trim() });
  redraw();
});

const chosen = () => kept.slice(-mostKept).filter((e) => !e.gap && matches(e)).map((e) => `${line(e)}\n`);

$('copy').addEventListener('click', () => copied($('copy'), chosen().join('')));

$('export').addEventListener('click', () => {
  const url = URL.createObjectURL(new Blob(chosen(), { type: 'application/x-ndjson' }));
  el('a', { href: url, download: `events-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.ndjson` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
});

$('listen').addEventListener('submit', (e) => {
  e.preventDefault();
  const form = new FormData(e.target);
  listen(form.get('channels').split(/\s+/).filter(Boolean), form.get('replay'));
});

$('stop').addEventListener('click', () => {
  end('Stopped');
  go({ listen: '', replay: '' });
});

function fromPlace(query) {
  filter = (query.get('filter') || '').toLowerCase();
  $('filter').value = query.get('filter') || '';
  const names = (query.get('listen') || '').split(/\s+/).filter(Boolean);
  const replay = query.get('replay') ?? '20';
  if (!names.length) return end();
  if (source && names.join(' ') === channels.join(' ')) return redraw();
  listen(names, replay === 'next' ? '' : replay);
}

withCopies($('events'));
toggles($('view'), redraw);
onIdentity(() => {
  end();
  if (signedIn()) fromPlace(place());
});
onBack(fromPlace);
fromPlace(place());
