// How smoothly the page at / shows live events in Chromium. It prints frames a second, the longest task in milliseconds (0 where
// none was over 50), and the events a second that the page took.
//
// usage: node frames.mjs CHROMIUM HUB_URL QUERY SECONDS
import { createRequire } from "node:module";

const { chromium } = createRequire(new URL("../e2e/", import.meta.url))("playwright-core");
const [executablePath, hub, query, seconds] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"] });
const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
await page.addInitScript(() => {
  window.tasks = [];
  new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((e) => [e.startTime, e.duration]))).observe({ type: "longtask" });
});
await page.goto(hub + "/");
await page.waitForFunction(() => document.querySelector("#state").textContent.includes("Ready"));
await page.locator("#live").evaluate((node) => node.scrollIntoView());
const got = await page.evaluate(async ([query, seconds]) => {
  const taken = () => Number((document.querySelector("#live-summary").textContent.match(/([\d,]+) (events|changes)/)?.[1] || "0").replaceAll(",", ""));
  const begin = performance.now();
  const form = document.querySelector("#listen");
  form.elements.channels.value = "**";
  if (query === "latest") document.querySelector("#each button[value=each]").click();
  else form.elements.replay.value = query;
  form.requestSubmit();
  let frames = 0;
  await new Promise((resolve) => {
    const frame = (now) => {
      frames++;
      if (now - begin < seconds * 1000) requestAnimationFrame(frame);
      else resolve();
    };
    requestAnimationFrame(frame);
  });
  const took = (performance.now() - begin) / 1000;
  const events = taken();
  await new Promise((resolve) => setTimeout(resolve, 200)); // the observer's entries come later
  const long = window.tasks.filter(([at]) => at >= begin).map(([, duration]) => duration);
  return { frames: frames / took, longest: Math.max(0, ...long), events: events / took };
}, [query, Number(seconds)]);
console.log(JSON.stringify(got));
await browser.close();
