// The tail of a log. A pause ends the stream: the hub keeps the lines, and the page goes on after the last one shown.
import { api, listen, problem } from '../hub.js';

const $ = (id) => document.getElementById(id);
const channel = new URLSearchParams(location.search).get('channel') || 'logs/machine';
const most = 5000; // lines on the page
let close, last = '';

$('channel').textContent = channel;

function open() {
  close?.();
  close = listen({
    channels: [channel],
    query: last ? { lastEventId: last } : { replay: 200 },
    sample: last ? null : { channel, event: 'line', data: 'a line from the terminal' },
    on: {
      line: (e) => {
        const tail = $('tail'), atEnd = tail.scrollTop + tail.clientHeight > tail.scrollHeight - 40;
        add(e.lastEventId, e.data);
        if (atEnd) tail.scrollTop = tail.scrollHeight;
      },
      gap: () => { $('note').textContent = 'Some lines are gone: retention has removed them'; },
    },
  });
}

function add(id, text) {
  const line = document.createElement('div');
  line.textContent = text;
  line.id = last = id;
  $('tail').append(line);
  if ($('tail').childElementCount > most) $('tail').firstChild.remove();
}

function clear() {
  $('tail').replaceChildren();
  last = '';
}

function pause(on) {
  $('pause').setAttribute('aria-pressed', on);
  $('pause').textContent = on ? 'Go on' : 'Pause';
  $('note').textContent = on ? 'Paused: nothing is lost meanwhile' : '';
  if (on) close();
  else open();
}

$('pause').addEventListener('click', () => pause($('pause').getAttribute('aria-pressed') !== 'true'));
$('live').addEventListener('click', () => { clear(); pause(false); });
$('jump').addEventListener('submit', async (e) => {
  e.preventDefault();
  const after = new Date(new FormData(e.target).get('time')).toISOString();
  pause(true);
  clear();
  try {
    const answer = await api(`v1/history?${new URLSearchParams({ channel, after, limit: 500 })}`);
    if (!answer.ok) throw new Error(await problem(answer));
    const { events } = await answer.json();
    for (const event of events) add(event.id, event.data);
    $('note').textContent = events.length ? `${events.length} lines from ${new Date(events[0].time).toLocaleTimeString()} on; go on to follow from there` : 'No lines from then on';
  } catch (error) { $('note').textContent = error.message; }
  $('tail').scrollTop = 0;
});

open();
