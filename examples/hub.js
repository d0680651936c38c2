// What the examples have in common: who is asking, and a stream that tells a refusal from a broken connection.
//
// An EventSource can send no header and does not say why it was refused. So a page whose hub asks who one is takes a ticket with
// its token, opens the stream with that, and asks the hub for the reason when the stream is closed for good.
const base = new URL('..', import.meta.url); // the hub's address, below whatever prefix it is served
let token = ''; // in memory only
let form = null;
let asked = null; // the promise of a token, while the form is shown

// say writes a text into the element with the id state, which each page has: connecting, live or refused.
function say(state, text) {
  const at = document.getElementById('state');
  at.textContent = text;
  at.dataset.state = state;
  at.className = state === 'refused' ? 'bad' : state === 'live' ? 'good' : 'soft';
}

// askToken shows a form and waits for a token. Those who wait together get the same one.
function askToken(why) {
  say('refused', why);
  if (asked) return asked;
  form ??= document.querySelector('main').insertBefore(document.createElement('form'), document.querySelector('h1').nextSibling);
  form.className = 'row';
  form.innerHTML = '<label>Token or API key <input name="token" type="password" autocomplete="off" required></label> <button>Use it</button>';
  form.hidden = false;
  asked = new Promise((resolve) => form.addEventListener('submit', (e) => {
    e.preventDefault();
    token = new FormData(form).get('token').trim();
    form.reset();
    form.hidden = true;
    asked = null;
    resolve(token);
  }, { once: true }));
  return asked;
}

// api is fetch with the token. It asks for one, and again, while the hub answers that it takes one.
export async function api(path, options = {}) {
  for (;;) {
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    const answer = await fetch(new URL(path, base), { ...options, headers, cache: 'no-store' });
    if (answer.status !== 401 && answer.status !== 403) return answer;
    await askToken((await answer.json()).detail);
  }
}

// address is where a stream of the channels is: with a ticket where a token was asked for.
async function address(channels, query) {
  const url = new URL('v1/events', base);
  url.search = new URLSearchParams([...channels.map((c) => ['channel', c]), ...Object.entries(query)]);
  if (!token && (await fetch(url, { method: 'HEAD', cache: 'no-store' })).ok) return url;
  const answer = await api('v1/tickets', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ channels }) });
  const made = await answer.json();
  if (!answer.ok) throw new Error(made.detail);
  if (token) url.searchParams.set('ticket', made.ticket);
  return url;
}

// why asks the hub for what an EventSource does not tell.
async function why(url) {
  const abort = new AbortController();
  try {
    const answer = await fetch(url, { signal: abort.signal, headers: { Accept: 'application/json' } });
    if (answer.status === 204) return { detail: 'The stream goes on in another tab', final: true };
    return answer.ok ? { again: true } : { detail: (await answer.json()).detail, expired: answer.status === 401 };
  } catch { return { again: true }; } finally { abort.abort(); }
}

// listen opens a stream of channels, with an object of functions by event type, and keeps it open: after a break the browser goes
// on after the last event, after a ticket's end this does. The function that it returns ends the stream.
export function listen(channels, query, handlers) {
  let source = null, last = '', ended = false;
  const open = async () => {
    say('connecting', 'Connecting…');
    let url;
    try {
      url = await address(channels, last ? { lastEventId: last } : query);
    } catch (e) {
      if (e instanceof TypeError) return setTimeout(() => ended || open(), 2000); // no hub answers
      return say('refused', e.message);
    }
    if (ended) return;
    source = new EventSource(url);
    for (const [type, handle] of Object.entries(handlers)) {
      source.addEventListener(type, (e) => { last = e.lastEventId; handle(e); });
    }
    source.addEventListener('heartbeat', (e) => { last = e.lastEventId; });
    source.addEventListener('open', () => say('live', 'Live'));
    source.addEventListener('error', async () => {
      if (source.readyState !== EventSource.CLOSED) return say('connecting', 'The connection broke; connecting again…');
      const reason = await why(url);
      if (ended || reason.final) return say('refused', reason.detail || 'Ended');
      if (reason.again || reason.expired) return setTimeout(() => ended || open(), 1000);
      say('refused', reason.detail);
    });
  };
  open();
  return () => { ended = true; source?.close(); };
}
