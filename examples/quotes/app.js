// Hundreds of changes a second, of which the page needs the newest: it opens with the newest of each symbol, and after a lag it
// gets the newest again and no backlog. Events only change the model, and the page is drawn once a frame.
import { fields, listen, now } from '../hub.js';

const $ = (id) => document.getElementById(id);
const quotes = new Map(); // by symbol: { button, prices, change }
const kept = 300; // prices of each symbol
let chosen = '', changes = 0, lag = 0;
const dirty = new Set();

listen({
  channels: ['quotes/*'],
  query: { replay: 'latest', conflate: true, envelope: true },
  sample: { channel: 'quotes/ACME', data: '{"price":101.5,"change":1.5}' },
  on: {
    message: (e) => {
      const { channel, data, time } = JSON.parse(e.data); // the envelope: a pattern's events say their channel
      const { price, change = 0 } = fields(data);
      if (typeof price !== 'number') return;
      const symbol = channel.slice('quotes/'.length);
      const quote = quotes.get(symbol) || add(symbol);
      quote.change = change;
      quote.prices.push(price);
      if (quote.prices.length > kept) quote.prices.shift();
      dirty.add(symbol);
      const age = now() - Date.parse(time);
      if (age > performance.now()) return; // older than the page: a part of the state that it opened with
      changes++;
      lag = Math.max(lag, age);
    },
  },
});

function add(symbol) {
  const button = document.createElement('button');
  button.addEventListener('click', () => choose(symbol));
  const quote = { button, prices: [], change: 0 };
  quotes.set(symbol, quote);
  $('quotes').replaceChildren(...[...quotes.keys()].sort().map((s) => quotes.get(s).button));
  $('some').hidden = false;
  if (!chosen) choose(symbol);
  else button.setAttribute('aria-pressed', 'false');
  return quote;
}

function choose(symbol) {
  quotes.get(chosen)?.button.setAttribute('aria-pressed', 'false');
  chosen = symbol;
  quotes.get(symbol).button.setAttribute('aria-pressed', 'true');
  dirty.add(symbol);
}

function chart({ prices }) {
  const svg = $('chart'), width = svg.clientWidth, height = 220;
  const low = Math.min(...prices), high = Math.max(...prices), span = high - low;
  const y = (p) => (span ? 20 + (1 - (p - low) / span) * (height - 40) : height / 2);
  const all = prices.length > 1 ? prices : [prices[0], prices[0]]; // one price is a level
  const points = all.map((p, i) => `${((i / (all.length - 1)) * (width - 60)).toFixed(1)},${y(p).toFixed(1)}`).join(' ');
  const axis = (p) => `<line x1="0" x2="${width}" y1="${y(p)}" y2="${y(p)}"/><text x="${width - 54}" y="${y(p) - 4}">${p.toFixed(2)}</text>`;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.innerHTML = axis(low) + (span ? axis(high) : '') + `<polyline points="${points}"/>`;
  $('chosen').textContent = `${chosen}  ${prices.at(-1).toFixed(2)}`;
  svg.setAttribute('aria-label', `${chosen}: ${prices.at(-1).toFixed(2)}, between ${low.toFixed(2)} and ${high.toFixed(2)} over the last ${prices.length} changes`);
}

function draw() {
  for (const symbol of dirty) {
    const { button, prices, change } = quotes.get(symbol);
    const mark = document.createElement('span');
    mark.className = change < 0 ? 'down' : change > 0 ? 'up' : 'soft';
    mark.textContent = `${change < 0 ? '▼' : change > 0 ? '▲' : '='} ${Math.abs(change).toFixed(2)} %`;
    button.replaceChildren(`${symbol} ${prices.at(-1).toFixed(2)} `, mark);
  }
  if (dirty.has(chosen)) chart(quotes.get(chosen));
  dirty.clear();
  requestAnimationFrame(draw);
}

setInterval(() => {
  $('rate').textContent = quotes.size ? `${changes} changes a second, ${quotes.size} symbols` : '';
  $('lag').textContent = changes ? `the slowest came ${Math.max(0, lag)} ms after it was stored` : '';
  changes = lag = 0;
}, 1000);
requestAnimationFrame(draw);
