// Live events: a stream of channels, in a list that filters, pauses, copies and exports. With "Newest of each" the stream is
// conflated, and the list has one row for each channel (each.js).
//
// A stream may bring a thousand events a second, or a replay of a hundred thousand at once, and a frame of the page lasts 16 ms.
// So a worker reads the stream (stream.js), and its portions are only queued; a frame reads the queue for a few milliseconds; and
// the list is drawn ten times a second, because nobody reads faster. What is kept is bounded, and the oldest goes first.
import { $, copied, count, say, el, toPaste, whole } from './dom.js';
import { address, onIdentity, publishing, signedIn, why } from './access.js';
import { clearEach, countOfEach, drawEach, keepEach, newestOfEach, resetEach } from './each.js';
import { go, onBack, place } from './place.js';
import { line, rowOf, toggles, withCopies } from './rows.js';

const mostKept = 5000, mostChars = 16e6; // of events that filters and exports see
const mostQueued = 20000, mostQueuedChars = 32e6;
const mostShown = 200;
const mostDrawn = 40; // rows in one frame: their style and layout cost more than all else
const drawEvery = 100, fastEvery = 200, turn = 6; // milliseconds

let source = null, opening = 0; // the worker that reads the stream; counts the streams, so that an older one is not heard
let channels = [], each = false; // what is listened to, and whether it is the newest of each channel
let eachChanged = false; // the list shows less than is kept
let queue = [], queued = 0; // what came, and its characters
let kept = [], chars = 0; // oldest first
let came = 0, dropped = 0, drawn = 0; // events of this stream: all, those that overflowed the queue, those that the list shows
let paused = false, pausedAt = 0;
let filter = '';
let scan = null; // a search through what is kept that is under way
let partial = false; // the list shows fewer than it could, because events come fast
let fresh = []; // matching events that are not yet drawn, oldest first
let pumping = false;

function matches(e) {
  if (!filter || e.gap) return true;
  return (e.search ??= `${e.channel}\n${e.event}\n${e.id}\n${e.data}`.toLowerCase()).includes(filter);
}

// take queues events as they came. With "Newest of each" more came, and the worker left older ones out.
function take(events, number) {
  queue.push(...events);
  for (const e of events) queued += e.data.length;
  came += number;
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
  const waits = () => !paused && (each ? eachChanged : !scan && fresh.length > 0);
  if (waits() && now - drawn >= (partial ? fastEvery : drawEvery)) draw(now);
  summary(now);
  if (queue.length || scan || waits()) pump();
}

function read(until) {
  let i = 0;
  while (i < queue.length && (i & 15 || performance.now() < until)) {
    const e = queue[i++];
    queued -= e.data.length;
    keep(e);
  }
  queue = i === queue.length ? [] : queue.slice(i);
  while (kept.length > mostKept + 500 || chars > mostChars) forget(Math.min(500, kept.length));
}

function keep(e) {
  if (each) {
    keepEach(e);
    eachChanged = true;
    return;
  }
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
  if (each) {
    eachChanged = drawEach(list, matches, mostShown, mostDrawn);
    return;
  }
  if (fresh.length > mostDrawn) { // nobody reads that fast: the newest are enough, until it is slower or paused
    partial = true;
    list.replaceChildren(...fresh.slice(-mostDrawn).reverse().map(rowOf));
    fresh = [];
    return;
  }
  if (partial) return redraw();
  const rows = fresh.reverse().map(rowOf);
  fresh = [];
  for (let over = list.children.length + rows.length - mostShown; over > 0; over--) list.lastChild.remove();
  // Who has scrolled down reads: the rows stay under the eye.
  const box = $('events-box'), before = box.scrollTop > 8 ? box.scrollHeight : 0;
  list.prepend(...rows);
  if (before) box.scrollTop += box.scrollHeight - before;
}

// redraw shows what is kept, by the filter and the view that are set now, a few rows in each frame.
function redraw() {
  fresh = [];
  partial = false;
  if (each) {
    resetEach($('events'));
    eachChanged = true;
  } else scan = { at: kept.length - 1, shown: 0 };
  pump();
}

function search(until) {
  const found = [];
  const room = Math.min(mostDrawn, mostShown - scan.shown);
  while (scan.at >= 0 && found.length < room && performance.now() < until) {
    const e = kept[scan.at--];
    if (matches(e)) found.push(e);
  }
  const over = scan.at < 0 || scan.shown + found.length >= mostShown;
  if (found.length || over) {
    const rows = found.map(rowOf);
    if (scan.shown) $('events').append(...rows);
    else $('events').replaceChildren(...rows);
    scan.shown += rows.length;
  }
  if (over) scan = null;
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
  $('events-empty').hidden = came > 0;
  const parts = came ? [each ? `${whole.format(countOfEach())} channels · ${whole.format(came)} changes${rate}` : `${whole.format(came)} events${rate}`] : [];
  if (!each && came > mostKept) parts.push(`the newest ${whole.format(Math.min(kept.length, mostKept))} are kept`);
  if (dropped) parts.push(`${whole.format(dropped)} came faster than the page could read`);
  if (paused) parts.push(`paused; ${whole.format(came - pausedAt)} new`);
  if (filter && came && !$('events').children.length && !scan && !eachChanged) parts.push('none matches the filter');
  say($('live-summary'), parts.join(' · '));
}

setInterval(() => {
  if (!source || pumping || document.hidden) return;
  if (partial && !paused) redraw();
  else pump(); // the rate falls when nothing comes
}, 1000);

// --- the stream ---

function end(text = '', kind = '') {
  opening++;
  source?.terminate();
  source = null;
  $('stop').disabled = true;
  say($('live-state'), text, kind);
  $('events-empty').replaceChildren(el('p', { className: 'empty' }, 'Nothing is followed. Name a channel or a pattern above, or follow one of the channels.'));
}

function clear() {
  queue = []; kept = []; fresh = []; scan = null; partial = false;
  queued = chars = came = dropped = rateCame = rateAt = 0;
  rate = '';
  pause(false);
  clearEach($('events'));
  pump();
}

// listen opens a stream of channels and patterns. replay is 'all', 'latest', a number, or ''; 'latest' shows the newest of each
// channel, and then only the newest.
export async function listen(names, replay) {
  end('Connecting…');
  channels = names;
  each = replay === 'latest';
  clear();
  $('listen').elements.channels.value = names.join(' ');
  if (!each) $('listen').elements.replay.value = replay;
  showEach();
  go({ listen: names.join(' '), replay: replay === '20' ? '' : replay || 'next' });
  const mine = opening;
  let url;
  try {
    url = await address(names, { envelope: 'true', ...(replay ? { replay } : {}), ...(each ? { conflate: 'true' } : {}) });
  } catch (e) { return mine === opening && end(e.message, 'bad'); }
  if (mine !== opening) return;
  source = new Worker(new URL('stream.js', import.meta.url));
  source.postMessage({ url: new URL(url, document.baseURI).href, each });
  $('stop').disabled = false;
  $('events-empty').replaceChildren(emptiness(names));
  source.addEventListener('message', ({ data: { events, came, state } }) => {
    if (mine !== opening) return;
    if (events) take(events, came);
    else if (state === 'open') say($('live-state'), `Listening to ${names.join(', ')}`, 'good');
    else if (state === 'broken') say($('live-state'), 'The connection broke; trying again', 'bad');
    else closed(mine, url);
  });
}

// closed says why the browser gave the stream up.
async function closed(mine, url) {
  const reason = await why(url);
  if (mine === opening) end(reason || 'The hub ended the stream', 'bad');
}

// emptiness says what to paste: a publish to a channel that one of the patterns matches. The hub's own channels take none.
function emptiness(names) {
  const name = names.find((n) => !n.startsWith('$'));
  if (!name) return el('p', { className: 'empty' }, 'Nothing has come yet. The hub itself publishes to these channels.');
  const channel = name.replace(/\*\*$/, 'greetings').replaceAll('*', 'one');
  return toPaste('Nothing has come yet. Publish something:', ...publishing(channel, '{"hello":"world"}'));
}

// --- controls ---

// showEach shows which of the two lists it is. The newest of each has its own start.
function showEach() {
  for (const button of $('each').children) button.setAttribute('aria-pressed', String((button.value === 'each') === each));
  $('listen').elements.replay.disabled = each;
  $('events-box').setAttribute('aria-label', each ? 'The newest event of each channel, by name' : 'Events, newest first');
}

$('each').addEventListener('click', (e) => {
  const wanted = e.target.value === 'each';
  if (!e.target.value || wanted === each) return;
  if (source) return listen(channels, wanted ? 'latest' : $('listen').elements.replay.value);
  each = wanted;
  clear();
  showEach();
  go({ replay: each ? 'latest' : '' });
});

function pause(on) {
  paused = on;
  pausedAt = came;
  $('pause').setAttribute('aria-pressed', String(on));
  $('pause').textContent = on ? 'Go on' : 'Pause';
}

$('pause').addEventListener('click', () => {
  pause(!paused);
  if (!paused || partial) redraw();
  pump();
});

$('clear').addEventListener('click', clear);

$('filter').addEventListener('input', () => {
  filter = $('filter').value.trim().toLowerCase();
  go({ filter: $('filter').value.trim() });
  redraw();
});

const chosen = () => (each ? newestOfEach() : kept.slice(-mostKept)).filter((e) => !e.gap && matches(e)).map((e) => `${line(e)}\n`);

$('copy').addEventListener('click', () => copied($('copy'), chosen().join('')));

$('export').addEventListener('click', () => {
  const url = URL.createObjectURL(new Blob(chosen(), { type: 'application/x-ndjson' }));
  el('a', { href: url, download: `events-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.ndjson` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
});

$('listen').addEventListener('submit', (e) => {
  e.preventDefault();
  const form = new FormData(e.target);
  listen(form.get('channels').split(/\s+/).filter(Boolean), each ? 'latest' : form.get('replay'));
});

$('stop').addEventListener('click', () => {
  end('Stopped');
  go({ listen: '', replay: each ? 'latest' : '' });
});

function fromPlace(query) {
  filter = (query.get('filter') || '').toLowerCase();
  $('filter').value = query.get('filter') || '';
  const names = (query.get('listen') || '').split(/\s+/).filter(Boolean);
  const replay = query.get('replay') ?? '20';
  if (!names.length) {
    each = replay === 'latest';
    showEach();
    return end();
  }
  const how = replay === 'next' ? '' : replay;
  if (source && names.join(' ') === channels.join(' ') && each === (how === 'latest')) return redraw();
  listen(names, how);
}

withCopies($('events'));
toggles($('view'), redraw);
onIdentity(() => {
  end();
  if (signedIn()) fromPlace(place());
});
onBack(fromPlace);
fromPlace(place());
