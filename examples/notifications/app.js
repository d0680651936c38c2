// An unread count that survives a reload: the hub keeps the notifications, the browser the id up to which they were read.
// Ids sort as text.
import { api, fields, listen, problem } from '../hub.js';

const $ = (id) => document.getElementById(id);
const user = new URLSearchParams(location.search).get('user') || 'ada';
const channel = `users/${user}/notifications`;
const key = `read:${channel}`;
const seen = []; // newest first
let read = localStorage.getItem(key) || '';

$('user').textContent = user;

listen({
  channels: [channel],
  query: { replay: 100 },
  sample: { channel, event: 'notification', data: '{"title":"Terminal","text":"Hello"}' },
  on: {
    notification: (e) => {
      seen.unshift({ id: e.lastEventId, ...fields(e.data) });
      seen.length = Math.min(seen.length, 100);
      show();
    },
    gap: () => { $('note').textContent = 'Older notifications are gone'; },
  },
});

function show() {
  const unread = seen.filter((n) => n.id > read).length;
  $('unread').textContent = unread;
  document.title = `${unread ? `(${unread}) ` : ''}Notifications – Fanfare`;
  $('list').hidden = !seen.length;
  $('list').replaceChildren(...seen.map((n) => {
    const li = document.createElement('li');
    li.className = n.id > read ? 'unread' : '';
    li.textContent = (n.id > read ? '● ' : '') + [n.title, n.text].filter(Boolean).join(': ');
    return li;
  }));
}

$('read').addEventListener('click', () => {
  if (seen.length) localStorage.setItem(key, (read = seen[0].id));
  show();
});

$('send').addEventListener('submit', async (e) => {
  e.preventDefault();
  const body = JSON.stringify({ channel, event: 'notification', data: { title: 'You', text: new FormData(e.target).get('text') } });
  $('note').textContent = '';
  try {
    const answer = await api('v1/events', { method: 'POST', body });
    if (answer.ok) e.target.reset();
    else $('note').textContent = `Not sent: ${await problem(answer)}`;
  } catch { $('note').textContent = 'Not sent: the hub does not answer'; }
});

show();
