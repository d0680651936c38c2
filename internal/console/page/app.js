// The page at /. It uses the public API and /v1/stats, as anybody may.

const $ = (id) => document.getElementById(id);

// el makes an element; text is never read as HTML.
function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function shape(tag, attributes) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat('en');
const count = (n) => (n < 10 ? String(Math.round(n * 10) / 10) : n < 10000 ? whole.format(Math.round(n)) : short.format(n));

function bytes(n) {
  for (const unit of ['B', 'KiB', 'MiB', 'GiB', 'TiB']) {
    if (n < 1024 || unit === 'TiB') return `${unit === 'B' ? n : n.toFixed(n < 10 ? 1 : 0)} ${unit}`;
    n /= 1024;
  }
}

function age(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}

const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

function say(node, text, kind = '') {
  node.textContent = text;
  node.className = `${node.className.includes('state') ? 'state ' : ''}${kind}`;
}

// --- charts ---

const charts = [
  { title: 'Published', unit: '/s', keys: ['publishedPerSecond'], names: [''] },
  { title: 'Delivered', unit: '/s', keys: ['deliveredPerSecond'], names: [''] },
  { title: 'Publish latency', unit: 'ms', keys: ['publishP50Ms', 'publishP99Ms'], names: ['median', '99th percentile'] },
  { title: 'Delivery latency', unit: 'ms', keys: ['deliveryP50Ms', 'deliveryP99Ms'], names: ['median', '99th percentile'] },
  { title: 'Streams', unit: '', keys: ['streams'], names: [''] },
];

const height = 120, left = 34, bottom = 18, minutes = 15;

function niceMax(v) {
  if (v <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 2.5, 5, 10].map((f) => f * power).find((f) => f >= v);
}

for (const chart of charts) {
  const caption = el('figcaption', {}, el('b', {}, chart.title + (chart.unit ? ` (${chart.unit})` : '')));
  if (chart.keys.length > 1) {
    const keys = el('span');
    chart.names.forEach((name, i) => keys.append(el('span', { className: `key${i ? ' second' : ''}` }, el('i', { ariaHidden: 'true' }), name), ' '));
    caption.append(keys);
  }
  chart.svg = shape('svg', { role: 'img', tabindex: 0 });
  chart.readout = el('p', { className: 'readout' });
  $('charts').append(el('figure', {}, caption, chart.svg, chart.readout));
  chart.svg.addEventListener('pointermove', (e) => {
    const box = chart.svg.getBoundingClientRect();
    point(chart, e.clientX - box.left);
  });
  chart.svg.addEventListener('pointerleave', () => point(chart, null));
  chart.svg.addEventListener('keydown', (e) => {
    if (e.key !== 'ArrowLeft' && e.key !== 'ArrowRight') return;
    e.preventDefault();
    const i = Math.min(Math.max((chart.at ?? (chart.points || []).length - 1) + (e.key === 'ArrowLeft' ? -1 : 1), 0), (chart.points || []).length - 1);
    if (chart.points?.[i]) point(chart, chart.x(chart.points[i]));
  });
  chart.svg.addEventListener('blur', () => point(chart, null));
}

// point shows the values at one place of a chart.
function point(chart, x) {
  const cross = chart.svg.querySelector('.cross');
  if (x === null || !chart.points?.length || !cross) {
    chart.at = undefined;
    if (cross) cross.style.visibility = 'hidden';
    chart.readout.textContent = chart.summary || '';
    return;
  }
  let best = 0;
  chart.points.forEach((p, i) => { if (Math.abs(chart.x(p) - x) < Math.abs(chart.x(chart.points[best]) - x)) best = i; });
  chart.at = best;
  const p = chart.points[best];
  cross.setAttribute('x1', chart.x(p));
  cross.setAttribute('x2', chart.x(p));
  cross.style.visibility = 'visible';
  chart.readout.textContent = `${clock(p.time)}: ` + chart.keys.map((key, i) => `${chart.names[i]} ${count(p[key])} ${chart.unit}`.trim()).join(', ');
}

function draw(chart, points, now) {
  const width = chart.svg.clientWidth || 300;
  chart.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  const begin = now - minutes * 60000;
  const max = niceMax(Math.max(0, ...points.flatMap((p) => chart.keys.map((key) => p[key]))));
  const x = (p) => left + ((new Date(p.time) - begin) / (minutes * 60000)) * (width - left);
  const y = (v) => 6 + (1 - v / max) * (height - bottom - 6);
  const parts = [];
  for (const v of [0, max / 2, max]) {
    parts.push(shape('line', { class: 'grid', x1: left, x2: width, y1: y(v), y2: y(v) }));
    const label = shape('text', { x: left - 5, y: y(v) + 4, 'text-anchor': 'end' });
    label.textContent = count(v);
    parts.push(label);
  }
  for (const [m, anchor] of [[15, 'start'], [10, 'middle'], [5, 'middle'], [0, 'end']].filter(([m]) => width > 230 || m % 15 === 0)) {
    const label = shape('text', { x: left + (1 - m / minutes) * (width - left), y: height - 3, 'text-anchor': anchor });
    label.textContent = m ? `−${m} min` : 'now';
    parts.push(label);
  }
  chart.keys.forEach((key, i) => {
    const path = points.map((p) => `${x(p).toFixed(1)},${y(p[key]).toFixed(1)}`).join(' ');
    if (!points.length) return;
    if (chart.keys.length === 1) parts.push(shape('polygon', { class: 'area', points: `${x(points[0])},${y(0)} ${path} ${x(points.at(-1))},${y(0)}` }));
    parts.push(shape('polyline', { class: `line${i ? ' second' : ''}`, points: path }));
    parts.push(shape('circle', { class: `dot${i ? ' second' : ''}`, cx: x(points.at(-1)), cy: y(points.at(-1)[key]), r: 3 }));
  });
  parts.push(shape('line', { class: 'cross', y1: 6, y2: height - bottom, x1: 0, x2: 0 }));
  chart.svg.replaceChildren(...parts);
  chart.points = points;
  chart.x = x;
  const last = points.at(-1);
  chart.summary = last ? `now ${chart.keys.map((key, i) => `${chart.names[i]} ${count(last[key])} ${chart.unit}`.trim()).join(', ')}; highest ${count(Math.max(...points.flatMap((p) => chart.keys.map((k) => p[k]))))} ${chart.unit}` : 'the first figures come in a few seconds';
  chart.svg.setAttribute('aria-label', `${chart.title}: ${chart.summary}`);
  point(chart, chart.at === undefined || !points[chart.at] ? null : x(points[chart.at]));
}

// --- figures ---

let before = null; // the snapshot before, for rates

function tile(name, value, more = '') {
  return el('div', {}, el('dt', {}, name), el('dd', {}, value, more ? el('small', {}, ` ${more}`) : ''));
}

function show(s) {
  const now = new Date(s.time).getTime();
  say($('state'), s.ready ? '● Ready' : `▲ Not ready: ${s.reason}`, s.ready ? 'good' : 'bad');
  const seconds = before ? (now - new Date(before.time)) / 1000 : 0;
  const rate = (key) => (seconds > 0 ? count(Math.max(0, s.events[key] - before.events[key]) / seconds) : '–');
  const open = Object.values(s.streams.open).reduce((a, b) => a + b, 0);
  const log = s.log;
  $('now').replaceChildren(
    tile('Streams', whole.format(open), Object.entries(s.streams.open).map(([k, n]) => `${whole.format(n)} ${k}`).join(', ')),
    tile('Published', rate('published'), '/s'),
    tile('Delivered', rate('delivered'), '/s'),
    tile('Slowest stream', count(s.events.slowestLag), 'positions behind'),
    tile('Log', log ? bytes(log.bytes) : '–', log?.maxBytes ? `of ${bytes(log.maxBytes)}` : ''),
    tile('Up', age(now - new Date(s.started)), s.version),
  );
  for (const chart of charts) draw(chart, s.history, now);
  streams(s, now, open);
  retention(log, now);
  stores(s.stores, now);
  before = s;
}

function row(...cells) {
  return el('tr', {}, ...cells.map(([text, className]) => el('td', { className: className || '' }, text)));
}

function streams(s, now, open) {
  const last = new Map((before?.open || []).map((o) => [o.id, o]));
  const seconds = before ? (now - new Date(before.time)) / 1000 : 0;
  $('streams-note').textContent = open > s.open.length ? `${s.open.length} of ${whole.format(open)}: those furthest behind, then the newest.` : open ? '' : 'Nobody is connected.';
  $('streams-rows').replaceChildren(...s.open.map((o) => row(
    [String(o.id)], [o.adapter], [o.subject ? `${o.subject} · ${o.remote}` : o.remote], [(o.channels || []).join(' '), 'wrap'], [age(now - new Date(o.began)), 'number'], [whole.format(o.events), 'number'],
    [last.has(o.id) && seconds > 0 ? `${count((o.events - last.get(o.id).events) / seconds)} /s` : '–', 'number'], [count(o.lag), 'number'],
  )));
}

function retention(log, now) {
  if (!log) return;
  const share = log.maxBytes ? Math.min(1, log.bytes / log.maxBytes) : 0;
  $('log-note').textContent = `${bytes(log.bytes)} on disk${log.setAside ? ` (${bytes(log.setAside)} set aside for what comes next)` : ''}${log.maxBytes ? ` of at most ${bytes(log.maxBytes)}` : ''}${log.oldest ? `, the oldest event is ${age(now - new Date(log.oldest))} old` : ', empty'}.`;
  const bar = shape('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none' });
  bar.append(shape('rect', { width: Math.max(share * 100, 0.3), height: 10 }));
  $('log-bar').replaceChildren(bar);
  $('log-bar').setAttribute('aria-label', `Size of the log: ${Math.round(share * 100)} % of its limit`);
  $('rules-rows').replaceChildren(...log.retention.map((r) => row(
    [el('code', {}, r.rule)], [whole.format(r.channels), 'number'], [whole.format(r.events), 'number'], [bytes(r.bytes), 'number'], [r.oldest ? `${age(now - new Date(r.oldest))} ago` : '–'],
  )));
}

function stores(list, now) {
  $('stores-note').textContent = list.length ? '' : 'No store PC has been seen yet.';
  $('stores-list').replaceChildren(...list.map((store) => el('li', {}, el('b', {}, `Store ${store.store}`), el('ul', {}, ...store.pcs.map((pc) => el('li', {},
    el('span', pc.readers ? { title: pc.readers.map((r) => `${r.address}: ${r.streams} streams`).join(', ') } : {}, `PC ${pc.pc}`,
      ...(pc.shared ? [' ', el('b', {}, 'read twice')] : [])),
    pc.open ? el('span', { className: 'on' }, '● connected') : el('span', { className: 'off' }, `○ ${age(now - new Date(pc.lastSeen))} ago`)))))));
}

// --- who is asking ---

let token = ''; // in memory only
let knock = null; // ends the wait for the next figures

// api is fetch with the token.
function api(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { ...options, headers, cache: 'no-store' });
}

function askWho(text, kind = 'bad') {
  $('sign-in').hidden = false;
  $('forget').hidden = !token;
  say($('sign-in-state'), text, kind);
}

$('token-form').addEventListener('submit', (e) => {
  e.preventDefault();
  token = new FormData(e.target).get('token').trim();
  e.target.reset();
  askWho('Trying it…', '');
  knock?.();
});

$('forget').addEventListener('click', () => {
  token = '';
  source?.close();
  $('stop').disabled = true;
  askWho('Forgotten', '');
  knock?.();
});

// ask gets the figures once, with the token, and tells what is in the way. It returns when to ask again, in milliseconds: who was
// refused is not asked for until there is another token.
async function ask() {
  try {
    const answer = await api('v1/stats');
    const body = await answer.json();
    if (answer.ok) {
      show(body);
      askWho('This token sees everything here', 'good');
      return 2000;
    }
    if (answer.status === 401 && token) token = '';
    askWho(body.detail);
    say($('state'), answer.status === 401 ? '▲ Who are you?' : '▲ The figures need another token', 'warn');
    return answer.status < 500 ? 60000 : 2000;
  } catch (e) {
    say($('state'), '▲ The hub does not answer; trying again', 'warn');
    return 2000;
  }
}

// follow shows the figures: as a stream where nobody is asked who they are, and again and again with a token, which an
// EventSource cannot send.
async function follow() {
  const first = await fetch('v1/stats?streams=0', { cache: 'no-store' }).catch(() => null);
  if (first && (first.status === 401 || first.status === 403)) {
    for (;;) {
      const wait = await ask();
      await new Promise((resolve) => { knock = resolve; setTimeout(resolve, wait); });
    }
  }
  const figures = new EventSource('v1/stats?interval=2');
  figures.addEventListener('stats', (e) => show(JSON.parse(e.data)));
  figures.addEventListener('error', () => {
    say($('state'), '▲ The hub does not answer; trying again', 'warn');
    if (figures.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
  });
}

// --- live events ---

const most = 200;
let source = null;

function pretty(data) {
  try {
    const value = JSON.parse(data);
    return typeof value === 'object' ? JSON.stringify(value, null, 2) : data;
  } catch { return data; }
}

function add(...nodes) {
  $('events').prepend(el('li', {}, ...nodes));
  while ($('events').children.length > most) $('events').lastChild.remove();
}

// address is where the stream is. With a token it takes a ticket, which is good for the reconnects of this one stream.
async function address(channels, query) {
  if (!token) return `v1/events?${query}`;
  const answer = await api('v1/tickets', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ channels }) });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.detail);
  query.set('ticket', body.ticket);
  return `v1/events?${query}`;
}

async function listen(channels, replay) {
  source?.close();
  $('events').replaceChildren();
  const query = new URLSearchParams(channels.map((c) => ['channel', c]));
  query.set('envelope', 'true');
  if (replay) query.set('replay', replay);
  say($('live-state'), 'Connecting…');
  let url;
  try { url = await address(channels, query); } catch (e) { return say($('live-state'), e.message, 'bad'); }
  source = new EventSource(url);
  $('stop').disabled = false;
  source.addEventListener('open', () => say($('live-state'), `Listening to ${channels.join(', ')}`, 'good'));
  source.addEventListener('message', (e) => {
    const event = JSON.parse(e.data);
    add(el('div', { className: 'meta' }, el('b', {}, event.channel), el('span', {}, event.event), el('code', {}, e.lastEventId), el('time', {}, clock(event.time || Date.now()))),
      el('pre', {}, pretty(event.data)));
  });
  source.addEventListener('gap', (e) => add(el('div', { className: 'gap' }, '▲ Events are missing here: ', el('code', {}, e.data))));
  source.addEventListener('error', async () => {
    if (source.readyState !== EventSource.CLOSED) return say($('live-state'), 'The connection broke; trying again', 'bad');
    $('stop').disabled = true;
    const answer = await fetch(url, { headers: { Accept: 'application/json' }, method: 'HEAD' }).catch(() => null);
    say($('live-state'), answer && answer.status !== 200 ? await reason(url) : 'The hub ended the stream', 'bad');
  });
}

// reason asks again for what EventSource does not tell: why it was refused.
async function reason(url) {
  const abort = new AbortController();
  try {
    const answer = await fetch(url, { signal: abort.signal });
    if (answer.ok) return 'The hub ended the stream';
    return (await answer.json()).detail;
  } catch (e) { return String(e); } finally { abort.abort(); }
}

$('listen').addEventListener('submit', (e) => {
  e.preventDefault();
  const form = new FormData(e.target);
  listen(form.get('channels').split(/\s+/).filter(Boolean), form.get('replay'));
});

$('stop').addEventListener('click', () => {
  source?.close();
  $('stop').disabled = true;
  say($('live-state'), 'Stopped');
});

// --- publish ---

$('publish-form').addEventListener('submit', async (e) => {
  e.preventDefault();
  const form = new FormData(e.target);
  const event = { channel: form.get('channel'), data: form.get('data') };
  if (form.get('event')) event.event = form.get('event');
  try {
    const answer = await api('v1/events', {
      method: 'POST', body: JSON.stringify(event),
      headers: { 'Content-Type': 'application/json', 'Idempotency-Key': crypto.randomUUID?.() || String(Math.random()) },
    });
    const body = await answer.json();
    if (answer.ok) say($('publish-state'), `Published as ${body.id}`, 'good');
    else say($('publish-state'), body.detail, 'bad');
  } catch (error) { say($('publish-state'), `The hub does not answer: ${error.message}`, 'bad'); }
});

follow();
