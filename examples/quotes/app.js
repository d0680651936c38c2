// Hundreds of changes a second: events only change the model, and the page is drawn once a frame.
import { listen } from '../hub.js';

const $ = (id) => document.getElementById(id);
const quotes = new Map(); // by symbol: { quote, button, prices }
const kept = 300; // prices of each symbol
let chosen = null, changes = 0, lag = 0, dirty = new Set();

function add(symbol) {
  const button = document.createElement('button');
  button.setAttribute('aria-pressed', 'false');
  button.addEventListener('click', () => {
    if (chosen) quotes.get(chosen).button.setAttribute('aria-pressed', 'false');
    chosen = symbol;
    button.setAttribute('aria-pressed', 'true');
    dirty.add(symbol);
  });
  const entry = { button, prices: [] };
  quotes.set(symbol, entry);
  $('quotes').replaceChildren(...[...quotes.keys()].sort().map((s) => quotes.get(s).button));
  if (!chosen) button.click();
  return entry;
}

listen(['quotes/*'], {}, {
  quote: (e) => {
    const quote = JSON.parse(e.data);
    const entry = quotes.get(quote.symbol) || add(quote.symbol);
    entry.quote = quote;
    entry.prices.push(quote.price);
    if (entry.prices.length > kept) entry.prices.shift();
    dirty.add(quote.symbol);
    changes++;
    lag = Math.max(lag, Date.now() - quote.time);
  },
});

function chart(entry) {
  const { prices, quote } = entry;
  const svg = $('chart'), width = svg.clientWidth, height = 220;
  const low = Math.min(...prices), high = Math.max(...prices), span = high - low || 1;
  const y = (p) => 20 + (1 - (p - low) / span) * (height - 40);
  const points = prices.map((p, i) => `${((i / Math.max(1, prices.length - 1)) * (width - 60)).toFixed(1)},${y(p).toFixed(1)}`).join(' ');
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  svg.innerHTML = `<line x1="0" x2="${width}" y1="${y(low)}" y2="${y(low)}"/><line x1="0" x2="${width}" y1="${y(high)}" y2="${y(high)}"/><polyline points="${points}"/><text x="${width - 54}" y="${y(low) - 4}">${low.toFixed(2)}</text><text x="${width - 54}" y="${y(high) - 4}">${high.toFixed(2)}</text>`;
  $('chosen').textContent = `${quote.symbol}  ${quote.price.toFixed(2)}`;
  svg.setAttribute('aria-label', `${quote.symbol}: ${quote.price.toFixed(2)}, between ${low.toFixed(2)} and ${high.toFixed(2)} over the last ${prices.length} changes`);
}

function draw() {
  for (const symbol of dirty) {
    const { button, quote } = quotes.get(symbol);
    button.textContent = `${symbol} ${quote.price.toFixed(2)} `;
    const change = document.createElement('span');
    change.className = quote.change < 0 ? 'down' : 'up';
    change.textContent = `${quote.change < 0 ? '▼' : '▲'} ${Math.abs(quote.change).toFixed(2)} %`;
    button.append(change);
  }
  if (dirty.has(chosen)) chart(quotes.get(chosen));
  dirty.clear();
  requestAnimationFrame(draw);
}

setInterval(() => {
  $('rate').textContent = `${changes} changes a second, ${quotes.size} symbols`;
  $('lag').textContent = changes ? `the slowest came ${lag} ms after it was made` : '';
  changes = lag = 0;
}, 1000);
requestAnimationFrame(draw);
