// The channel browser: the channels that a pattern matches, each with its newest value.
//
// The list is read again every few seconds. With "Live values" a stream brings values as they are published: it is conflated, and
// goes on where the list was read, so that none is missed.
import { $, age, bytes, childFor, el, keyed, say, toPaste, whole } from './dom.js';
import { address, ask, onIdentity, publishing } from './access.js';
import { go, onBack, place } from './place.js';
import { oneLine } from './rows.js';
import { newest, show } from './channel.js';
import { listen } from './live.js';

const page = 100, most = 1000, every = 5000; // channels, channels, milliseconds
const valuesEvery = 250; // milliseconds

let list = [];
let live = false, source = null, opening = 0; // the worker that reads the stream of values; counts the streams
let next = ''; // the name after which there are more
let wanted = 0; // counts the searches: the answer of an older one is not shown
let timer = 0;

// patterns are what a search means: a name without '*' is that channel and all below it.
function patterns(text) {
  const pattern = text.trim() || '**';
  if (pattern.includes('*')) return [pattern];
  return pattern.endsWith('/') ? [`${pattern}**`] : [pattern, `${pattern}/**`];
}

const query = (parts) => new URLSearchParams(parts.filter(([, value]) => value !== ''));

// load asks for channels and for their newest events, which come in the same order, by name.
async function load(text, after, limit) {
  const all = patterns(text);
  const pages = await Promise.all(all.map((pattern, i) => {
    if (after && all.length > 1 && i === 0) return { channels: [] }; // the exact name was on the first page
    return ask(`v1/channels?${query([['pattern', pattern], ['after', i === all.length - 1 ? after : ''], ['limit', limit]])}`);
  }));
  const found = pages.flatMap((p) => p.channels);
  let position = '';
  if (found.length) {
    const events = await ask(`v1/latest?${query([...all.map((p) => ['channel', p]), ['after', after], ['limit', found.length]])}`)
      .then((body) => { ({ position } = body); return body.events; }, () => []); // a list without values is better than none
    const values = new Map(events.map((e) => [e.channel, e]));
    for (const c of found) c.newest = values.get(c.channel);
  }
  return { found, next: pages.at(-1).next || '', position };
}

// search shows the first channels, or as many as are shown already.
async function search(again = false) {
  clearTimeout(timer);
  const mine = ++wanted, text = $('find').value;
  if (!again) {
    say($('channels-state'), 'Looking…');
    unfollow();
  }
  try {
    const got = await load(text, '', again ? Math.min(most, Math.max(page, list.length)) : page);
    if (mine !== wanted) return;
    keepNewer(got.found);
    ({ found: list, next } = got);
    $('channels').hidden = false;
    say($('channels-state'), '');
    draw(text);
    if (live && !source) follow(text, got.position);
  } catch (e) {
    if (mine !== wanted) return;
    if (e.status === 404) { // this hub's engine lists no channels
      $('channels').hidden = true;
      return;
    }
    say($('channels-state'), e.message, e.status === 401 ? '' : 'bad'); // the form for a token is there
    if (!again || e.status === 401 || e.status === 403) {
      list = [];
      next = '';
      draw(text, true);
    }
  }
  timer = setTimeout(refresh, every);
}

// keepNewer keeps the values that the stream brought while the list was on its way.
function keepNewer(found) {
  const before = new Map(source ? list.map((c) => [c.channel, c.newest]) : []);
  for (const c of found) {
    const newer = before.get(c.channel);
    if (newer && newer.id > (c.newest?.id || '')) Object.assign(c, { newest: newer, latest: newer.id });
  }
}

// follow opens the stream of values. When it ends for good, the next reading of the list opens another.
async function follow(text, position) {
  const mine = ++opening;
  const query = { envelope: 'true', conflate: 'true', ...(position ? { lastEventId: position } : {}) };
  const url = await address(patterns(text), query).catch(() => '');
  if (!url || mine !== opening) return;
  source = new Worker(new URL('stream.js', import.meta.url));
  source.postMessage({ url: new URL(url, document.baseURI).href, each: true, pause: valuesEvery });
  source.addEventListener('message', ({ data: { events = [], state } }) => {
    if (mine !== opening) return;
    if (state === 'closed') unfollow();
    const known = new Map(list.map((c) => [c.channel, c]));
    for (const e of events) if (!e.gap) value(known.get(e.channel), e);
  });
}

function unfollow() {
  opening++;
  source?.terminate();
  source = null;
}

// value shows a newer value of a channel that is in the list. A new channel comes into it when it is read again.
function value(c, e) {
  if (!c || e.id <= (c.newest?.id || '')) return;
  Object.assign(c, { newest: e, latest: e.id, age: 0 });
  const chosen = place().get('channel');
  updateRow(childFor($('channels-rows'), c.channel), c, chosen);
  if (c.channel === chosen) newest(c, true);
}

function refresh() {
  if (document.hidden) timer = setTimeout(refresh, every);
  else search(true);
}

async function more() {
  const mine = ++wanted, text = $('find').value;
  try {
    const got = await load(text, next, page);
    if (mine !== wanted) return;
    list = list.concat(got.found);
    next = got.next;
    draw(text);
  } catch (e) { say($('channels-state'), e.message, 'bad'); }
}

function draw(text, failed = false) {
  const chosen = place().get('channel');
  keyed($('channels-rows'), list, (c) => c.channel, makeRow, (row, c) => updateRow(row, c, chosen));
  $('channels-more').hidden = !next;
  $('channels-table').hidden = !list.length;
  $('channels-note').textContent = list.length ? `${whole.format(list.length)}${next ? ' and more' : ''}` : '';
  $('channels-empty').hidden = failed || list.length > 0;
  if (!failed && !list.length) $('channels-empty').replaceChildren(emptiness(text));
  const current = list.find((c) => c.channel === chosen);
  if (current) newest(current);
}

function emptiness(text) {
  const all = patterns(text);
  if (all[0] === '**') return toPaste('No channel holds an event yet. A channel begins with its first event:', ...publishing('greetings', 'hello'));
  return el('p', { className: 'empty' }, `No channel matches ${all.join(' or ')}. `, el('code', {}, '*'), ' is one part of a name, ',
    el('code', {}, '**'), ' at the end is everything below: ', el('code', {}, 'quotes/*'), ', ', el('code', {}, 'stores/**'), '.');
}

function makeRow(c) {
  const button = el('button', { type: 'button', className: 'name' }, c.channel);
  button.addEventListener('click', () => choose(c.channel));
  return el('tr', {}, el('th', { scope: 'row' }, button), el('td', { className: 'value' }), el('td', { className: 'number' }),
    el('td', { className: 'number' }), el('td', { className: 'number' }));
}

function updateRow(row, c, chosen) {
  const value = c.newest ? oneLine(c.newest.data) : '';
  ['', value, age(c.age * 1000), whole.format(c.count), bytes(c.bytes)].forEach((text, i) => {
    if (i && row.cells[i].textContent !== text) row.cells[i].textContent = text;
  });
  const button = row.cells[0].firstChild;
  if (c.channel === chosen) button.setAttribute('aria-current', 'true');
  else button.removeAttribute('aria-current');
}

function choose(channel) {
  go({ channel }, true);
  fromPlace(place());
  if (matchMedia('(max-width: 900px)').matches) $('channel').scrollIntoView();
}

function fromPlace(query) {
  const channel = query.get('channel') || '';
  const find = query.get('find') || '';
  setLive(query.get('values') === 'live');
  show(channel, list.find((c) => c.channel === channel));
  if ($('find').value === find && list.length) draw(find);
  else {
    $('find').value = find;
    search();
  }
}

function setLive(on) {
  live = on;
  $('find-live').setAttribute('aria-pressed', String(on));
  if (!on) unfollow();
}

let typing = 0;

$('find').addEventListener('input', () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    go({ find: $('find').value.trim() });
    search();
  }, 250);
});
$('find-form').addEventListener('submit', (e) => {
  e.preventDefault();
  clearTimeout(typing);
  go({ find: $('find').value.trim() });
  search();
});
$('find-live').addEventListener('click', () => {
  setLive(!live);
  go({ values: live ? 'live' : '' });
  if (live) search(true);
});
$('find-follow').addEventListener('click', () => {
  listen(patterns($('find').value), 'latest');
  $('live').scrollIntoView();
});
$('channels-more').addEventListener('click', more);
document.addEventListener('visibilitychange', () => { if (!document.hidden) search(true); });
onIdentity(() => {
  list = [];
  fromPlace(place());
});
onBack(fromPlace);
fromPlace(place());
