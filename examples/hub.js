// What the examples have in common: a stream that says how it stands, the form for a token, and what to paste into a terminal
// while nothing has been published. Each page has an element with the id "state", and an empty one with the id "help".
//
// An EventSource sends no header and hides why it was refused. So the page asks the hub for a ticket, with its token if it has
// one, and opens the stream with the ticket. A hub that wants no token gives tickets too: there is one way for all hubs.
const base = new URL('..', import.meta.url); // the hub's address, below whatever prefix it is served
const guide = 'https://github.com/fanfare-hub/fanfare/blob/main/docs/guide/security.md';
const $ = (id) => document.getElementById(id);
let token = ''; // in this page's memory, and nowhere else
let ahead = 0; // how far this machine's clock is ahead of the hub's, in milliseconds

// now is the time by the hub's clock: what events say of their time compares with that.
export const now = () => Date.now() - ahead;

// api is fetch with the token.
export function api(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  return fetch(new URL(path, base), { ...options, headers, cache: 'no-store' });
}

// problem is why the hub refused a request.
export const problem = async (answer) =>
  (await answer.json().catch(() => ({}))).detail || `the hub answered ${answer.status}`;

// fields reads data as a JSON object. Other data is the field text.
export function fields(data) {
  try {
    const value = JSON.parse(data);
    if (value && typeof value === 'object') return value;
  } catch { /* no JSON */ }
  return { text: data };
}

// listen opens a stream of channels and keeps it open. A break is the browser's to mend; at a ticket's end the stream goes on,
// with a new ticket, after the last event. on has a function for each type of event; sample is an event that the page shows how
// to publish while there is none. The function that listen returns ends the stream.
export function listen({ channels, query = {}, on, sample }) {
  let source = null, last = '', came = false, ended = false;

  async function open(text = 'Connecting…') {
    if (ended) return;
    say('connecting', text);
    let ticket;
    try {
      ticket = await ticketFor(channels);
    } catch (refusal) {
      if (refusal.final) return say('refused', refusal.message);
      return setTimeout(open, 2000, 'The hub does not answer; trying again…');
    }
    if (ended) return;
    const url = new URL('v1/events', base);
    url.search = new URLSearchParams([...channels.map((c) => ['channel', c]), ...Object.entries({ ...query, ticket })]);
    if (last) url.searchParams.set('lastEventId', last);
    source = new EventSource(url);
    let began = false;
    source.addEventListener('heartbeat', (e) => { // the first event of each stream; a full hub ends one without it
      began = true;
      last = e.lastEventId;
      ahead = Date.now() - Date.parse(JSON.parse(e.data).time);
      say('live', 'Live');
      setTimeout(() => { if (!came && !ended && sample) help(...toPaste(sample)); }, 300);
    });
    for (const [type, handle] of Object.entries(on)) {
      source.addEventListener(type, (e) => {
        if (!came) help();
        came = true;
        last = e.lastEventId;
        handle(e);
      });
    }
    source.addEventListener('error', async () => {
      if (source.readyState !== EventSource.CLOSED) return say('connecting', 'The connection broke; connecting again…');
      const reason = began ? '' : await whyNot(url);
      if (reason) say('refused', reason);
      else setTimeout(open, 1000);
    });
  }

  open();
  return () => {
    ended = true;
    source?.close();
    say('off', 'Not connected');
  };
}

// ticketFor asks for a token as long as the hub wants another.
async function ticketFor(channels) {
  for (;;) {
    const answer = await api('v1/tickets', { method: 'POST', body: JSON.stringify({ channels }) });
    if (answer.ok) return (await answer.json()).ticket;
    const reason = await problem(answer);
    if (answer.status === 401 || answer.status === 403) await askToken(reason, channels);
    else throw Object.assign(new Error(reason), { final: answer.status < 500 && answer.status !== 429 });
  }
}

// whyNot asks for the stream as a page would not, because the answer then says why it is refused.
async function whyNot(url) {
  const stop = new AbortController();
  try {
    const answer = await fetch(url, { signal: stop.signal });
    return answer.status >= 400 && answer.status < 500 ? await problem(answer) : '';
  } catch { return ''; } finally { stop.abort(); }
}

// --- what the page says ---

// say shows how the stream stands: connecting, live or refused.
function say(state, text) {
  $('state').dataset.state = state;
  $('state').textContent = state === 'refused' ? `Refused: ${text}` : text;
}

// help shows what there is to do, or nothing.
function help(...nodes) {
  $('help').replaceChildren(...nodes);
  $('help').hidden = !nodes.length;
}

function el(tag, props, ...children) {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
}

function askToken(reason, channels) {
  say('refused', reason);
  const grants = channels.map((c) => `--subscribe ${quoted(c)} --publish ${quoted(c)}`).join(' ');
  const input = el('input', { type: 'password', autocomplete: 'off', spellcheck: false, required: true });
  const form = el('form', { className: 'row' }, el('label', {}, 'Token or API key ', input), el('button', {}, 'Use it'));
  help(form, el('p', {}, 'Whoever has the hub’s key makes a token:'),
    el('pre', {}, `fanfare token --key HS256=secret.txt ${grants}`),
    el('p', { className: 'soft' }, 'The page keeps it in memory only. More: ', el('a', { href: guide }, 'tokens and API keys'), '.'));
  return new Promise((resolve) => form.addEventListener('submit', (e) => {
    e.preventDefault();
    token = input.value.trim();
    help();
    say('connecting', 'Trying the token…');
    resolve();
  }));
}

// toPaste is a command that publishes the first event, as a shell takes it. The token in it can be copied, but not read.
function toPaste({ channel, event, data }) {
  const url = new URL(`v1/channels/${channel.split('/').map(encodeURIComponent).join('/')}`, base);
  if (event) url.searchParams.set('event', event);
  const code = el('code', {}, 'curl ');
  if (token) code.append("-H 'Authorization: Bearer ", el('span', { className: 'secret' }, token), "' ");
  code.append(`-d ${quoted(data)} ${quoted(url.href)}`);
  const button = el('button', { type: 'button' }, 'Copy');
  button.addEventListener('click', () => {
    getSelection().selectAllChildren(code); // without TLS there is no clipboard, and the line is at least selected
    navigator.clipboard?.writeText(code.textContent);
  });
  return [el('p', {}, 'Nothing has been published yet. Paste this into a terminal:'), el('pre', {}, code), button];
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
