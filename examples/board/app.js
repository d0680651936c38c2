// The state of many things: each publishes its own on a channel of its own, board/STORE/PC, and the newest event of a channel is
// its state. The page opens with all of them, and after a lag it gets the newest again and no backlog.
import { fields, listen, now } from '../hub.js';

const $ = (id) => document.getElementById(id);
const limit = Number(new URLSearchParams(location.search).get('late')) || 15; // seconds
const things = new Map(); // by channel: { item, text, time }
const lists = new Map(); // of a store's PCs, by store
const dirty = new Set();

$('limit').textContent = `${limit} s`;

listen({
  channels: ['board/*/*'],
  query: { replay: 'latest', conflate: true, envelope: true },
  sample: { channel: 'board/1/1', data: '{"cpu":12,"memory":40}' },
  on: {
    message: (e) => {
      const { channel, data, time } = JSON.parse(e.data); // the envelope: a pattern's events say their channel
      const text = Object.entries(fields(data)).map(([name, v]) => `${name} ${typeof v === 'number' ? Math.round(v) : v}`);
      const thing = things.get(channel) || add(channel);
      Object.assign(thing, { text: text.join(', '), time: Date.parse(time) });
      dirty.add(thing);
      if (dirty.size === 1) requestAnimationFrame(draw);
    },
  },
});

function add(channel) {
  const [, store, pc] = channel.split('/');
  const item = document.createElement('li');
  item.dataset.order = pc;
  item.innerHTML = '<b></b><span></span><br><small class="soft"></small>';
  item.firstChild.textContent = `PC ${pc}`;
  insert(list(store), item);
  const thing = { item };
  things.set(channel, thing);
  return thing;
}

// list is the list of a store, which is made when its first PC comes.
function list(store) {
  if (lists.has(store)) return lists.get(store);
  const section = document.createElement('section');
  section.dataset.order = store;
  section.innerHTML = '<h2 class="next"></h2><ul class="board"></ul>';
  section.firstChild.textContent = `Store ${store}`;
  lists.set(store, section.lastChild);
  insert($('stores'), section);
  return section.lastChild;
}

const order = new Intl.Collator('en', { numeric: true }).compare;

function insert(parent, node) {
  let low = 0, high = parent.children.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (order(parent.children[middle].dataset.order, node.dataset.order) < 0) low = middle + 1;
    else high = middle;
  }
  parent.insertBefore(node, parent.children[low] || null);
}

function draw() {
  dirty.forEach(show);
  dirty.clear();
}

function show({ item, text, time }) {
  const seconds = Math.round((now() - time) / 1000), late = seconds > limit;
  item.className = late ? 'late' : '';
  item.children[1].textContent = late ? `▲ LATE: silent for ${ago(seconds)}` : `● ${new Date(time).toLocaleTimeString()}`;
  item.lastChild.textContent = text;
}

const ago = (s) => (s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min` : s < 86400 ? `${Math.floor(s / 3600)} h` : `${Math.floor(s / 86400)} d`);

// Who falls silent publishes nothing, so the page looks at the time.
setInterval(() => {
  const late = [...things.values()].filter(({ time }) => now() - time > limit * 1000);
  late.forEach(show);
  const text = things.size ? `${things.size} PCs, ${late.length} late` : '';
  if ($('summary').textContent !== text) $('summary').textContent = text;
  $('summary').className = late.length ? 'bad' : 'good';
}, 1000);
