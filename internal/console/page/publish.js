// The form that publishes.
import { $, say } from './dom.js';
import { onIdentity, post } from './access.js';

$('publish-form').addEventListener('submit', async (e) => {
  e.preventDefault();
  const form = new FormData(e.target);
  const event = { channel: form.get('channel'), data: form.get('data') };
  if (form.get('event')) event.event = form.get('event');
  say($('publish-state'), 'Publishing…');
  try {
    const made = await post('v1/events', event, { 'Idempotency-Key': crypto.randomUUID?.() || String(Math.random()) });
    say($('publish-state'), `Published as ${made.id}`, 'good');
  } catch (error) { say($('publish-state'), error.message, 'bad'); }
});

onIdentity(() => say($('publish-state'), ''));
// What was said of one event does not stand beside the next.
$('publish-form').addEventListener('input', () => say($('publish-state'), ''));
