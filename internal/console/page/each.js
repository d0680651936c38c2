// What the list of live events shows with "Newest of each": one row for each channel, by name, which changes in its place.
import { keyed } from './dom.js';
import { eventOf, fill, rowOf } from './rows.js';

const mostChannels = 5000, mostChars = 16e6;

const newest = new Map(); // by channel; the channel that has been silent for longest is first
let names = []; // in order; null: to be sorted
let chars = 0;

const nameOf = (e) => e.channel ?? ''; // a gap is of no channel

export const countOfEach = () => newest.size;
export const newestOfEach = () => [...newest.values()];

export function clearEach(list) {
  newest.clear();
  names = [];
  chars = 0;
  resetEach(list);
}

// keepEach keeps an event in place of the one before of its channel. The channels are bounded: the most silent goes first.
export function keepEach(e) {
  const name = nameOf(e);
  if (newest.has(name)) drop(name);
  else names = null;
  newest.set(name, e);
  chars += e.data.length;
  while (newest.size > mostChannels || (chars > mostChars && newest.size > 1)) {
    drop(newest.keys().next().value);
    names = null;
  }
}

function drop(name) {
  chars -= newest.get(name).data.length;
  newest.delete(name);
}

// drawEach shows the first rows that match, most of them, but fills no more than perFrame. It returns whether that was too few.
export function drawEach(list, matches, most, perFrame) {
  names ??= [...newest.keys()].sort();
  const shown = [], room = Math.min(most, list.childElementCount + perFrame);
  let more = false;
  for (const name of names) {
    const e = newest.get(name);
    if (!matches(e)) continue;
    if (shown.length === room) {
      more = room < most;
      break;
    }
    shown.push(e);
  }
  let filled = 0;
  keyed(list, shown, nameOf, (e) => {
    filled++;
    return rowOf(e);
  }, (row, e) => {
    if (e.gap || eventOf(row) === e) return;
    if (filled++ < perFrame) fill(row, e);
    else more = true;
  });
  return more;
}

// resetEach has all rows made anew, as for another view.
export function resetEach(list) {
  list.kept?.clear();
  list.replaceChildren();
}
