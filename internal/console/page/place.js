// The state of the page in its address, so that a reload, a bookmark and "back" show the same. No token ever stands there.

const changed = [];

export const place = () => new URLSearchParams(location.search);

// go changes parts of the state; null and '' take a part out. With push, "back" returns to the state before.
export function go(parts, push = false) {
  const query = place();
  for (const [name, value] of Object.entries(parts)) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  const text = query.toString().replaceAll('%2F', '/');
  const address = `${location.pathname}${text ? `?${text}` : ''}${location.hash}`;
  if (text === location.search.slice(1)) return;
  history[push ? 'pushState' : 'replaceState'](null, '', address);
}

// onBack has f called when "back" or "forward" changed the state.
export function onBack(f) { changed.push(f); }

addEventListener('popstate', () => changed.forEach((f) => f(place())));
