// The tail of a log. A pause lets the stream go: the hub keeps the lines, and the end continues after the last one shown.
import { api, listen } from '../hub.js';

const $ = (id) => document.getElementById(id);
const channel = new URLSearchParams(location.search).get('channel') || 'logs/machine';
const most = 5000; // lines on the page
let close, lastId = '', lines = 0;

$('channel').textContent = channel;

function open(query) {
  close?.();
  close = listen([channel], query, {
    line: (e) => {
      lastId = e.lastEventId;
      const tail = $('tail');
      const atEnd = tail.scrollTop + tail.clientHeight > tail.scrollHeight - 40;
      const line = document.createElement('div');
      line.textContent = e.data;
      line.id = e.lastEventId;
      tail.append(line);
      if (++lines > most) { tail.firstChild.remove(); lines--; }
      if (atEnd) tail.scrollTop = tail.scrollHeight;
    },
    gap: () => { $('note').textContent = 'Some lines are gone: retention has removed them'; },
  });
}

function clear() { $('tail').replaceChildren(); lines = 0; }

function pause(on) {
  $('pause').setAttribute('aria-pressed', on);
  $('pause').textContent = on ? 'Go on' : 'Pause';
  $('note').textContent = on ? 'Paused: nothing is lost meanwhile' : '';
  if (on) close(); else open(lastId ? { lastEventId: lastId } : { replay: 200 });
}

$('pause').addEventListener('click', () => pause($('pause').getAttribute('aria-pressed') !== 'true'));
$('live').addEventListener('click', () => { clear(); lastId = ''; pause(false); });
$('jump').addEventListener('submit', async (e) => {
  e.preventDefault();
  const time = new Date(new FormData(e.target).get('time')).toISOString();
  pause(true);
  clear();
  const answer = await (await api(`v1/history?channel=${encodeURIComponent(channel)}&after=${time}&limit=500`)).json();
  for (const event of answer.events) {
    const line = document.createElement('div');
    line.textContent = event.data;
    line.id = lastId = event.id;
    $('tail').append(line);
    lines++;
  }
  $('tail').scrollTop = 0;
  $('note').textContent = answer.events.length ? `${answer.events.length} lines from ${new Date(answer.events[0].time).toLocaleTimeString()} on; go on to follow from there` : 'No lines from then on';
});

open({ replay: 200 });
