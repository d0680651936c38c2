// One channel of the browser: its newest value and its history, to follow and to publish to.
import { $, age, bytes, copied, say, whole } from './dom.js';
import { address, ask, why } from './access.js';
import { pretty, rowOf, toggles, view, withCopies } from './rows.js';
import { listen } from './live.js';

const last = 50, page = 200; // events

let channel = '';
let current = null; // what /v1/channels and /v1/latest say of it
let events = []; // of the history that is shown, newest first
let next = ''; // the id after which its next page begins
let listed = ''; // the id up to which the history was asked for
let loading = 0; // counts the loads: the answer of an older one is not shown
let source = null; // of the last events

// show opens a channel; '' closes it. state is what the list knows of it, if it is there.
export function show(name, state) {
  $('channel').hidden = !name;
  $('channel-none').hidden = name !== '';
  if (name === channel) return;
  source?.close();
  channel = name;
  current = null;
  listed = '';
  loading++;
  $('channel-title').textContent = name;
  $('channel-facts').textContent = '';
  $('channel-value').textContent = '';
  $('channel-value-note').textContent = '';
  events = [];
  draw();
  if (!name) return;
  if (state) newest(state);
  else look(name);
}

// look asks for a channel that is not in the list, as when the page was opened with its name.
async function look(name) {
  try {
    const { channels: [state] } = await ask(`v1/channels?${new URLSearchParams({ pattern: name, limit: 1 })}`);
    const found = await ask(`v1/latest?${new URLSearchParams({ channel: name })}`);
    if (name !== channel) return;
    if (state) newest({ ...state, newest: found.events[0] });
    else say($('history-state'), 'This channel holds no event');
  } catch (e) { if (name === channel) say($('history-state'), e.message, 'bad'); }
}

// newest takes what is known of the channel now. The history is loaded when there is something new, but not as often as live
// values come.
export function newest(state, live = false) {
  if (state.channel !== channel) return;
  const first = !current;
  current = state;
  $('channel-facts').textContent = `${whole.format(state.count)} events · ${bytes(state.bytes)} · newest ${age(state.age * 1000)} ago`;
  value();
  if (live || listed === state.latest) return;
  if (first || $('history-from').value === 'last') history();
}

function value() {
  const e = current?.newest;
  $('channel-value').textContent = e ? (view.pretty ? pretty(e.data) : e.data.slice(0, 4000)) : '';
  $('channel-value-note').textContent = e ? [e.event === 'message' ? '' : e.event, e.id, e.expires ? `until ${new Date(e.expires).toLocaleString()}` : '']
    .filter(Boolean).join(' · ') : '';
}

function draw() {
  $('history').replaceChildren(...events.map(rowOf));
  $('history-more').hidden = !next || !events.length;
}

// history loads what the form asks for: the last events, or those since a time.
async function history() {
  const mine = ++loading, from = $('history-from').value;
  source?.close();
  listed = current.latest;
  try {
    const got = from === 'last' ? { events: await lastEvents() } : await pageAfter(from === 'all' ? '' : from);
    if (mine !== loading) return;
    events = got.events.reverse();
    next = got.next || '';
    say($('history-state'), events.length ? '' : 'Nothing since then');
    draw();
  } catch (e) { if (mine === loading) say($('history-state'), e.message, 'bad'); }
}

const pageAfter = (after) =>
  ask(`v1/history?${new URLSearchParams({ channel, limit: page, ...(after ? { after } : {}) })}`);

// lastEvents are the newest of the channel. GET /v1/history reads forward only, so they come as a stream's replay, which is over
// with the event that the list says is the newest.
async function lastEvents() {
  const until = current.latest;
  const url = await address([channel], { replay: last, envelope: 'true' });
  return new Promise((resolve, reject) => {
    const got = [];
    const mine = source = new EventSource(url);
    const over = () => {
      clearTimeout(timer);
      mine.close();
      resolve(got);
    };
    const timer = setTimeout(over, 5000); // when retention has removed that event meanwhile
    mine.addEventListener('message', (e) => {
      const { channel, event, data, time } = JSON.parse(e.data);
      got.push({ id: e.lastEventId, channel, event, data, time });
      if (e.lastEventId >= until) over();
    });
    mine.addEventListener('error', async () => {
      if (mine.readyState !== EventSource.CLOSED) return;
      clearTimeout(timer);
      reject(new Error(await why(url) || 'The hub ended the stream'));
    });
  });
}

$('history-from').addEventListener('change', () => { if (current) history(); });

$('history-more').addEventListener('click', async () => {
  const mine = loading;
  try {
    const got = await pageAfter(next);
    if (mine !== loading) return;
    events = got.events.reverse().concat(events);
    next = got.next || '';
    draw();
  } catch (e) { say($('history-state'), e.message, 'bad'); }
});

$('channel-copy').addEventListener('click', () => copied($('channel-copy'), current?.newest?.data ?? ''));

$('channel-follow').addEventListener('click', () => {
  listen([channel], '20');
  $('live').scrollIntoView();
});

$('channel-publish').addEventListener('click', () => {
  $('publish-form').elements.channel.value = channel;
  $('publish').scrollIntoView();
  $('publish-form').elements.data.focus({ preventScroll: true });
});

withCopies($('history'));
toggles($('channel-view'), () => {
  value();
  draw();
});
