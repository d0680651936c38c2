// Who is asking: the token, requests with it, and the form that asks for it.
import { $, el, quoted, say, toPaste } from './dom.js';

let token = ''; // in memory only
const changed = [];

export const signedIn = () => token !== '';

// onIdentity has f called when there is another token, or none any more.
export function onIdentity(f) { changed.push(f); }

// api is fetch with the token.
export function api(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { ...options, headers, cache: 'no-store' });
}

// ask is a request whose answer is JSON. It throws what the hub says against it.
export async function ask(path, options) {
  let answer;
  try {
    answer = await api(path, options);
  } catch (e) { throw Object.assign(new Error('The hub does not answer'), { status: 0 }); }
  const body = await answer.json().catch(() => ({ detail: `The hub answered ${answer.status} and no JSON` }));
  if (!answer.ok) throw Object.assign(new Error(body.detail.replaceAll('`', '')), { status: answer.status });
  return body;
}

export const post = (path, body, headers = {}) =>
  ask(path, { method: 'POST', headers: { 'Content-Type': 'application/json', ...headers }, body: JSON.stringify(body) });

// address is where a stream of channels is. An EventSource can send no token: it has a ticket, which is good for the reconnects
// of this one stream.
export async function address(channels, query) {
  const all = new URLSearchParams(channels.map((c) => ['channel', c]));
  for (const [name, value] of Object.entries(query)) all.set(name, value);
  if (token) all.set('ticket', (await post('v1/tickets', { channels })).ticket);
  return `v1/events?${all}`;
}

// why asks again for what an EventSource does not tell: the reason of a refusal. It is '' when there is none.
export async function why(url) {
  const abort = new AbortController();
  try {
    const answer = await fetch(url, { signal: abort.signal, cache: 'no-store' });
    return answer.ok ? '' : (await answer.json()).detail;
  } catch (e) { return 'The hub does not answer'; } finally { abort.abort(); }
}

// curl is a command that makes a request of this hub, with the token where there is one. On the page the token is blurred.
export function curl(path, options) {
  const who = token ? ["-H 'Authorization: Bearer ", el('span', { className: 'secret' }, token), "' "] : [];
  return ['curl ', ...who, `${options} ${quoted(new URL(path, location.href).href)}`];
}

// publishing is a command that publishes to a channel.
export function publishing(channel, data) {
  const segments = channel.split('/');
  if (segments.some((s) => s === '.' || s === '..')) return curl('v1/events', `-d ${quoted(JSON.stringify({ channel, data }))}`);
  return curl(`v1/channels/${segments.map(encodeURIComponent).join('/')}`, `-d ${quoted(data)}`);
}

// wanted shows the form, and why; accepted takes it away.
export function wanted(reason, kind) {
  $('sign-in').hidden = false;
  $('forget').hidden = true;
  say($('sign-in-state'), reason, kind);
}

export function accepted() {
  const focused = $('sign-in').contains(document.activeElement);
  $('sign-in').hidden = true;
  $('forget').hidden = !token;
  say($('sign-in-state'), '');
  if (focused) $('main').focus({ preventScroll: true });
}

// rejected forgets a token that the hub does not know.
export function rejected() { token = ''; }

function become(text) {
  token = text;
  changed.forEach((f) => f());
}

$('sign-in-how').append(toPaste('Whoever has the hub’s key makes a token. One that may do all that this page does:',
  "fanfare token --key HS256=secret.txt --subscribe '**' --publish '**' --admin '**'"));

$('token-form').addEventListener('submit', (e) => {
  e.preventDefault();
  const text = new FormData(e.target).get('token').trim();
  e.target.reset();
  say($('sign-in-state'), 'Trying it…');
  become(text);
});

$('forget').addEventListener('click', () => {
  $('forget').hidden = true;
  become('');
});
