// An unread count that survives a reload: the hub keeps the notifications, the browser the id up to which they were read.
// Ids sort as text.
import { api, listen } from '../hub.js';

const $ = (id) => document.getElementById(id);
const user = new URLSearchParams(location.search).get('user') || 'ada';
const channel = `users/${user}/notifications`;
const key = `read:${channel}`;
const seen = []; // newest first
let read = localStorage.getItem(key) || '';

$('user').textContent = user;

function show() {
  const unread = seen.filter((n) => n.id > read).length;
  $('unread').textContent = unread;
  document.title = `${unread ? `(${unread}) ` : ''}Notifications – Fanfare`;
  $('list').replaceChildren(...seen.map((n) => {
    const li = document.createElement('li');
    li.className = n.id > read ? 'unread' : '';
    li.textContent = `${n.id > read ? '● ' : ''}${n.title}: ${n.text}`;
    return li;
  }));
}

$('read').addEventListener('click', () => {
  if (seen.length) localStorage.setItem(key, (read = seen[0].id));
  show();
});

$('send').addEventListener('submit', (e) => {
  e.preventDefault();
  const text = new FormData(e.target).get('text');
  api('v1/events', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ channel, event: 'notification', data: { title: 'You', text, time: new Date().toISOString() } }) });
  e.target.reset();
});

listen([channel], { replay: 100 }, {
  notification: (e) => {
    seen.unshift({ id: e.lastEventId, ...JSON.parse(e.data) });
    seen.length = Math.min(seen.length, 100);
    show();
  },
  gap: () => { $('gap').textContent = 'Older notifications are gone'; },
});
show();
