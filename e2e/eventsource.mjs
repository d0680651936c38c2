// A browser for the tests: opens EventSources and prints what they dispatch, a JSON text a line, until standard input ends.
//
// usage: node eventsource.mjs CHROMIUM PAGE_URL STREAM_PATH…
import { chromium } from "playwright-core";

const [executablePath, page_url, ...streams] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--ignore-certificate-errors",
  ],
});
const page = await browser.newPage();
await page.exposeFunction("tell", (line) => console.log(JSON.stringify(line)));
await page.goto(page_url);
await page.evaluate((streams) => {
  window.sources = streams.map((path, stream) => {
    const source = new EventSource(path);
    const tell = (kind) => (e) => window.tell({ stream, kind, data: e.data ?? "", id: e.lastEventId ?? "", state: source.readyState });
    source.onopen = tell("open");
    source.onerror = tell("error");
    source.onmessage = tell("message");
    for (const type of ["sse", "heartbeat", "gap"]) source.addEventListener(type, tell(type));
    return source;
  });
}, streams);
process.stdin.resume();
process.stdin.on("end", async () => {
  await browser.close();
  process.exit(0);
});
