// A worker that reads one stream. Chromium dispatches all events of one piece of a stream in one task, and a replay comes in
// pieces of thousands: here, that holds up no frame. The worker reads the JSON too, and sends what came in portions.
const portion = 200, every = 50; // events, milliseconds

let waiting = [];
let timer = 0;

function send() {
  timer = 0;
  if (waiting.length) postMessage({ events: waiting.splice(0, portion) });
  if (waiting.length) timer = setTimeout(send, 1);
}

function take(event) {
  waiting.push(event);
  timer ||= setTimeout(send, every);
}

onmessage = ({ data: url }) => {
  const source = new EventSource(url);
  source.addEventListener('open', () => postMessage({ state: 'open' }));
  source.addEventListener('message', (e) => {
    const { channel, event, data, time } = JSON.parse(e.data);
    take({ id: e.lastEventId, channel, event, data, time });
  });
  source.addEventListener('gap', (e) => take({ gap: e.data, data: '' }));
  source.addEventListener('error', () => {
    while (waiting.length) postMessage({ events: waiting.splice(0, portion) }); // the page ends the worker of a closed stream
    postMessage({ state: source.readyState === EventSource.CLOSED ? 'closed' : 'broken' });
  });
};
