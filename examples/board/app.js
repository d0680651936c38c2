// Stores and their PCs. Who is connected, and when who was seen last, is in /v1/stats; the PCs publish their own figures.
import { api, listen } from '../hub.js';

const $ = (id) => document.getElementById(id);
const limit = Number(new URLSearchParams(location.search).get('late')) || 15; // seconds
const figures = new Map(); // by store/pc
let stores = [];

$('limit').textContent = `${limit} s`;

function ago(seconds) { return seconds < 60 ? `${Math.round(seconds)} s` : seconds < 3600 ? `${Math.floor(seconds / 60)} min` : `${Math.floor(seconds / 3600)} h`; }

function draw() {
  let late = 0;
  $('stores').replaceChildren(...stores.map((store) => {
    const section = document.createElement('section');
    const title = document.createElement('h2');
    title.textContent = `Store ${store.store}`;
    const list = document.createElement('ul');
    list.className = 'board';
    for (const pc of store.pcs) {
      const seconds = (Date.now() - new Date(pc.lastSeen)) / 1000;
      const isLate = !pc.open && seconds > limit;
      late += isLate;
      const li = document.createElement('li');
      li.className = isLate ? 'late' : '';
      const name = document.createElement('b');
      name.textContent = `PC ${pc.pc}`;
      const f = figures.get(`${store.store}/${pc.pc}`);
      li.append(name, pc.open ? '● connected' : isLate ? `▲ LATE: seen ${ago(seconds)} ago` : `○ seen ${ago(seconds)} ago`);
      if (f && pc.open) {
        const small = document.createElement('small');
        small.className = 'soft';
        small.textContent = ` CPU ${f.cpu.toFixed(0)} %, memory ${f.memory.toFixed(0)} %`;
        li.append(document.createElement('br'), small);
      }
      list.append(li);
    }
    section.append(title, list);
    return section;
  }));
  $('summary').textContent = stores.length ? `${stores.reduce((n, s) => n + s.pcs.length, 0)} PCs, ${late} late` : 'No PC has been seen yet: run go run ./examples/board';
  $('summary').className = late ? 'bad' : 'good';
}

async function ask() {
  try {
    const answer = await api('v1/stats?streams=0');
    if (answer.ok) stores = (await answer.json()).stores;
    draw();
  } catch { /* no hub answers: the stream says so */ }
  setTimeout(ask, 2000);
}

ask();
listen(['board/**'], {}, { figures: (e) => { const r = JSON.parse(e.data); figures.set(`${r.store}/${r.pc}`, r.figures); } });
setInterval(draw, 1000);
