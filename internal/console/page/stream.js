// A worker that reads one stream. Chromium dispatches all events of one piece of a stream in one task, and a replay comes in
// pieces of thousands: here, that holds up no frame. The worker reads the JSON too, and sends what came in portions.
const portion = 200; // events

let waiting = [];
let newest = null; // by channel, where the page wants the newest of each alone
let came = 0, timer = 0, every = 50; // milliseconds

function send() {
  timer = 0;
  if (newest?.size) {
    waiting.push(...newest.values());
    newest.clear();
  }
  if (waiting.length) postMessage({ events: waiting.splice(0, portion), came });
  came = 0;
  if (waiting.length) timer = setTimeout(send, 1);
}

function take(event) {
  came++;
  if (newest) {
    newest.delete(event.channel); // the order is that of the log
    newest.set(event.channel, event);
  } else waiting.push(event);
  timer ||= setTimeout(send, every);
}

onmessage = ({ data: { url, each, pause } }) => {
  if (each) newest = new Map();
  if (pause) every = pause;
  const source = new EventSource(url);
  source.addEventListener('open', () => postMessage({ state: 'open' }));
  source.addEventListener('message', (e) => {
    const { channel, event, data, time } = JSON.parse(e.data);
    take({ id: e.lastEventId, channel, event, data, time });
  });
  source.addEventListener('gap', (e) => take({ gap: e.data, data: '' }));
  source.addEventListener('error', () => {
    clearTimeout(timer);
    do send(); while (waiting.length); // the page ends the worker of a closed stream
    clearTimeout(timer);
    timer = 0;
    postMessage({ state: source.readyState === EventSource.CLOSED ? 'closed' : 'broken' });
  });
};
