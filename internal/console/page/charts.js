// The charts of the last fifteen minutes, which the hub keeps.
import { $, clock, count, el, shape } from './dom.js';

const charts = [
  { title: 'Published', unit: '/s', keys: ['publishedPerSecond'], names: [''] },
  { title: 'Delivered', unit: '/s', keys: ['deliveredPerSecond'], names: [''] },
  { title: 'Streams', unit: '', keys: ['streams'], names: [''], whole: true },
  { title: 'Publish latency', unit: 'ms', keys: ['publishP50Ms', 'publishP99Ms'], names: ['median', '99th percentile'] },
  { title: 'Delivery latency', unit: 'ms', keys: ['deliveryP50Ms', 'deliveryP99Ms'], names: ['median', '99th percentile'] },
];

const height = 120, left = 40, right = 6, top = 6, bottom = 18, minutes = 15;
const apart = 12000; // two points further apart than this many milliseconds have no line between them

// axis returns the values at which an axis has lines: round, from 0, three to five of them, the last not below max.
export function axis(max, wholeOnly = false) {
  if (!(max > 0)) return [0, 1];
  const about = max / 4;
  const power = 10 ** Math.floor(Math.log10(about));
  let step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= about * 0.999999);
  if (wholeOnly) step = Math.max(1, Math.ceil(step));
  const n = Math.max(1, Math.ceil(max / step - 1e-9));
  return Array.from({ length: n + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

const measured = (v) => typeof v === 'number';
const figures = (chart, points) => points.flatMap((p) => chart.keys.map((key) => p[key])).filter(measured);
const said = (chart, p) => (!chart.keys.some((key) => measured(p[key])) ? 'nothing measured' : chart.keys
  .map((key, i) => `${chart.names[i]} ${measured(p[key]) ? `${count(p[key])} ${chart.unit}` : 'not measured'}`.trim()).join(', '));

// runs cuts a line into pieces where nothing was measured.
export function runs(points, key) {
  const all = [];
  let before = null;
  for (const p of points) {
    if (!measured(p[key])) { before = null; continue; }
    if (!before || new Date(p.time) - new Date(before.time) > apart) all.push([]);
    all.at(-1).push(p);
    before = p;
  }
  return all;
}

function begin(chart) {
  const caption = el('figcaption', {}, el('b', {}, chart.title + (chart.unit ? ` (${chart.unit})` : '')));
  if (chart.keys.length > 1) {
    const keys = el('span');
    chart.names.forEach((name, i) => keys.append(el('span', { className: `key${i ? ' second' : ''}` }, el('i', { ariaHidden: 'true' }), name), ' '));
    caption.append(keys);
  }
  chart.points = [];
  chart.svg = shape('svg', { role: 'img', tabindex: 0, 'aria-label': chart.title });
  chart.readout = el('p', { className: 'readout' });
  $('charts').append(el('figure', {}, caption, chart.svg, chart.readout));
  chart.svg.addEventListener('pointermove', (e) => point(chart, nearest(chart, e.clientX - chart.svg.getBoundingClientRect().left)));
  chart.svg.addEventListener('pointerleave', () => point(chart, null));
  chart.svg.addEventListener('blur', () => point(chart, null));
  chart.svg.addEventListener('keydown', (e) => {
    if ((e.key !== 'ArrowLeft' && e.key !== 'ArrowRight') || !chart.points.length) return;
    e.preventDefault();
    const at = chart.at ? chart.points.findIndex((p) => p.time === chart.at) : chart.points.length - 1;
    point(chart, chart.points[Math.min(Math.max(at + (e.key === 'ArrowLeft' ? -1 : 1), 0), chart.points.length - 1)]);
  });
}

function nearest(chart, x) {
  let best = null;
  for (const p of chart.points) if (!best || Math.abs(chart.x(p) - x) < Math.abs(chart.x(best) - x)) best = p;
  return best;
}

// point shows the values of one moment; without one, those of now.
function point(chart, p) {
  const cross = chart.svg.querySelector('.cross');
  chart.at = p?.time;
  if (cross) cross.style.visibility = p ? 'visible' : 'hidden';
  chart.readout.textContent = p ? `${clock(p.time)}: ${said(chart, p)}` : chart.summary || '';
  if (!p || !cross) return;
  cross.setAttribute('x1', chart.x(p));
  cross.setAttribute('x2', chart.x(p));
}

function text(words, attributes) {
  const label = shape('text', attributes);
  label.textContent = words;
  return label;
}

function draw(chart, points, now) {
  const width = chart.svg.clientWidth || 300;
  chart.svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  const start = now - minutes * 60000, span = width - left - right;
  const ticks = axis(Math.max(0, ...figures(chart, points)), chart.whole);
  const x = (p) => left + Math.max(0, (new Date(p.time) - start) / (minutes * 60000)) * span;
  const y = (v) => top + (1 - v / ticks.at(-1)) * (height - bottom - top);
  const parts = ticks.flatMap((v) => [
    shape('line', { class: 'grid', x1: left, x2: width - right, y1: y(v), y2: y(v) }),
    text(count(v), { x: left - 5, y: y(v) + 4, 'text-anchor': 'end' }),
  ]);
  for (const [m, anchor] of [[15, 'start'], [10, 'middle'], [5, 'middle'], [0, 'end']].filter(([m]) => width > 230 || m % 15 === 0)) {
    parts.push(text(m ? `−${m} min` : 'now', { x: left + (1 - m / minutes) * span, y: height - 3, 'text-anchor': anchor }));
  }
  chart.keys.forEach((key, i) => { for (const run of runs(points, key)) parts.push(...line(chart, run, key, i, x, y)); });
  parts.push(shape('line', { class: 'cross', y1: top, y2: height - bottom, x1: 0, x2: 0 }));
  chart.svg.replaceChildren(...parts);
  Object.assign(chart, { points, x, summary: summary(chart, points) });
  chart.svg.setAttribute('aria-label', `${chart.title}: ${chart.summary}`);
  point(chart, points.find((p) => p.time === chart.at) || null);
}

function line(chart, run, key, i, x, y) {
  const places = run.map((p) => `${x(p).toFixed(1)},${y(p[key]).toFixed(1)}`).join(' ');
  const second = i ? ' second' : '';
  const parts = [];
  if (chart.keys.length === 1) parts.push(shape('polygon', { class: 'area', points: `${x(run[0])},${y(0)} ${places} ${x(run.at(-1))},${y(0)}` }));
  if (run.length > 1) parts.push(shape('polyline', { class: `line${second}`, points: places }));
  if (run.length === 1 || run.at(-1) === chart.points.at(-1)) parts.push(shape('circle', { class: `dot${second}`, cx: x(run.at(-1)), cy: y(run.at(-1)[key]), r: 2.5 }));
  return parts;
}

function summary(chart, points) {
  if (!points.length) return 'the first figures come in a few seconds';
  const all = figures(chart, points);
  return all.length ? `now ${said(chart, points.at(-1))}; highest ${count(Math.max(...all))} ${chart.unit}`.trim() : 'nothing to measure yet';
}

// drawAll draws the hub's history, as it was at a time of the hub's clock.
export function drawAll(history, now) {
  for (const chart of charts) draw(chart, history, now);
}

charts.forEach(begin);
