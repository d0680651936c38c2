// The page at /. It uses the public API and /v1/stats, as anybody may. Each part of the page is a module.
import './figures.js';
import './live.js';
import './channels.js';
import './publish.js';
