// The hub's own page and the examples in Chromium: each check is named, and the first that does not hold ends the run.
//
// usage: node pages.mjs CHROMIUM HUB_URL SCREENSHOT_FOLDER CASE
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [executablePath, hub, folder, which] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const context = await browser.newContext({ viewport: { width: 1200, height: 900 } });
const page = await context.newPage();
page.setDefaultTimeout(30000);
const complaints = [];
page.on("console", (m) => { if (m.type() === "error" && !/Failed to load resource/.test(m.text())) complaints.push(m.text()); });
page.on("pageerror", (e) => complaints.push(String(e)));

function check(what, holds) {
  if (!holds) throw new Error(what);
  console.log(`ok ${what}`);
}
const text = (selector) => page.locator(selector).innerText();
const waitText = (selector, pattern) => page.waitForFunction(([s, p]) => new RegExp(p).test(document.querySelector(s)?.innerText || ""), [selector, pattern]);
const shot = (name) => page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
const post = (body) => fetch(`${hub}/v1/events`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

const publish = (channel, data) => fetch(`${hub}/v1/channels/${channel}`, { method: "POST", body: data });
const query = (name) => page.evaluate((n) => new URLSearchParams(location.search).get(n), name);

// accessible has axe-core look at the page as it is now.
async function accessible(what) {
  await page.evaluate(readFileSync("node_modules/axe-core/axe.min.js", "utf8")); // past the page's policy, which forbids it
  const found = await page.evaluate(() => axe.run());
  const said = found.violations.map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 120)).join(", ")}`);
  check(`axe-core finds nothing ${what}: ${said}`, said.length === 0 && found.passes.length > 10);
}

// The examples: what publishing the pasted line shows, what state is shown at once, and what it is in the end.
const pasted = {
  quotes: ["#quotes", "ACME 101.50"], board: ["#stores", "Store 1\\s+PC 1\\s+● \\d[\\s\\S]*cpu 12, memory 40"],
  logs: ["#tail", "a line from the terminal"], notifications: ["#list", "Terminal: Hello"],
};
const atOnce = { quotes: ["#quotes", "ACME 12.50[\\s\\S]*GEN 7.00"], board: ["#stores", "Store 1\\s+PC 2[\\s\\S]*open[\\s\\S]*PC 10[\\s\\S]*cpu 12"] };
const settled = { quotes: ["#rate", "^0 changes a second, 2 symbols"], board: ["#summary", "^2 PCs, 0 late"] };
const stateOf = () => page.locator("#state").getAttribute("data-state");
const enter = async (token) => {
  await page.locator("#help input").fill(token);
  await page.keyboard.press("Enter");
};
const run = (line) => execFileSync("bash", ["-e", "-c", line], { cwd: process.env.FANFARE_TEST_FOLDER || "/", encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] }).trim();

// pasteFirst runs what an example shows while there is nothing, and sees that event.
async function pasteFirst(name) {
  await page.locator("#help pre").waitFor();
  check(`${name} is live and says what to paste`, await stateOf() === "live");
  await accessible(`in ${name}, empty`);
  await shot(`${name}-empty`);
  const line = await text("#help pre");
  check(`it publishes: ${run(line)}`, line.startsWith("curl "));
  await waitText(...pasted[name]);
  check("the event is there, and the line is gone", !(await page.locator("#help").isVisible()));
  return line;
}

// looks has axe-core look at the page at all widths, light and dark, and takes pictures.
async function looks(what, also = async () => {}) {
  for (const width of [1440, 390]) {
    for (const colorScheme of ["light", "dark"]) {
      await page.setViewportSize({ width, height: 900 });
      await page.emulateMedia({ colorScheme });
      await accessible(`in ${what} at ${width} px, ${colorScheme}`);
      check("nothing is wider than the screen", await page.evaluate((w) => document.documentElement.scrollWidth <= w, width));
      await also(width);
      await shot(`${what}-${width}-${colorScheme}`);
    }
  }
  await page.setViewportSize({ width: 1200, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });
}

const cases = {
  async console() {
    await page.goto(hub + "/");
    await waitText("#state", "Ready");
    check("it says that the hub is ready", true);
    // By keyboard alone: listen, publish, read.
    await page.locator("#listen input").focus();
    await page.keyboard.type("greetings logs/*");
    await page.keyboard.press("Enter");
    await waitText("#live-state", "Listening to greetings, logs");
    await page.locator("#publish-form input[name=channel]").focus();
    await page.keyboard.type("logs/web");
    await page.keyboard.press("Tab");
    await page.keyboard.type("line");
    await page.keyboard.press("Tab");
    await page.keyboard.type('{"hello":"<b>world</b>","n":[1,2]}');
    await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    await waitText("#publish-state", "Published as [0-9A-Z]{13}");
    await waitText("#events li:first-child", "logs/web");
    const first = await text("#events li:first-child");
    check("an event shows channel, type, id and pretty JSON", /logs\/web\s+line\s+[0-9A-Z]{13}/.test(first) && first.includes('  "hello": "<b>world</b>"'));
    await page.locator("#publish-form input[name=channel]").fill("a*b");
    await page.locator("#publish-form button").click();
    await waitText("#publish-state", "channel");
    check("a refusal is said", await page.locator("#publish-state[data-kind=bad]").count() === 1);
    await page.locator("#listen input").fill("a**");
    await page.locator("#listen button").first().click();
    await waitText("#live-state", "may stand only as");
    check("a stream that is refused says why", true);
    await page.locator("#listen input").fill("greetings logs/*");
    await page.locator("#listen button").first().click();
    await waitText("#live-state", "Listening");
    const publishing = setInterval(() => publish("greetings", "again"), 500); // a latency is drawn where there is one
    await page.waitForFunction(() => document.querySelectorAll("#charts polyline").length >= 5, null, { timeout: 60000 });
    clearInterval(publishing);
    check("the charts are drawn", true);
    await page.locator("#charts svg").first().focus();
    await page.keyboard.press("ArrowLeft");
    await waitText("#charts figure:first-child .readout", "\\d\\d:\\d\\d:\\d\\d");
    check("a chart is read by keyboard", true);
    await waitText("#streams-rows", "greetings logs/\\*");
    await waitText("#stores-list", "Store 42[\\s\\S]*PC 7[\\s\\S]*connected");
    await waitText("#rules-rows", "\\*\\*=age:7d");
    check("streams, stores and retention are listed", true);
    await shot("console-light");
    await page.emulateMedia({ colorScheme: "dark" });
    await shot("console-dark");
    await page.setViewportSize({ width: 390, height: 800 });
    await page.waitForTimeout(2500); // the charts are drawn anew with the next figures
    check("nothing is wider than a phone", await page.evaluate(() => document.documentElement.scrollWidth <= 390));
    await shot("console-phone");
    const unnamed = await page.evaluate(() => [...document.querySelectorAll("input,select,textarea,button,svg[role=img],[role=log]")]
      .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.innerText)).map((e) => e.outerHTML));
    check(`every control and picture has a name ${unnamed}`, unnamed.length === 0);
    await page.goto(hub + "/examples/");
    check("the examples are linked", await page.locator(".cards a").count() === 4);
  },
  // The channel browser: search, newest value, history, follow, and all of it in the address.
  async channels() {
    for (let i = 0; i < 60; i++) await publish("quotes/ACME", `{"price":${i}.5}`);
    await publish("quotes/GEN01", '{"price":7}');
    await publish("stores/42", "open");
    await page.goto(hub + "/");
    await waitText("#channels-rows", "quotes/ACME[\\s\\S]*59.5[\\s\\S]*60[\\s\\S]*quotes/GEN01[\\s\\S]*stores/42[\\s\\S]*open");
    check("all channels are listed, with their newest values", true);
    await page.locator("#find").fill("quotes");
    await page.waitForFunction(() => document.querySelectorAll("#channels-rows tr").length === 2);
    check("a name finds what is below it", await query("find") === "quotes");
    await page.locator("#find").fill("quotes/A*");
    await waitText("#channels-state", "may stand only as a whole segment");
    check("a bad pattern is said", await page.locator("#channels-state[data-kind=bad]").count() === 1);
    await page.locator("#find").fill("nothing/*");
    await waitText("#channels-empty", "No channel matches nothing/\\*");
    check("and what was said goes away", await text("#channels-state") === "");
    await page.locator("#find").fill("*/ACME");
    await page.locator("#channels-rows button.name").click();
    await waitText("#channel-value", '"price": 59.5');
    await page.waitForFunction(() => document.querySelectorAll("#history li").length === 50);
    check("the newest value, and the last 50 events", (await text("#history li:first-child pre")).includes("59.5"));
    await page.locator("#history-from").selectOption("all");
    await page.waitForFunction(() => document.querySelectorAll("#history li").length === 60);
    check("and all of them", (await page.locator("#history li:last-child pre").textContent()).includes(" 0.5"));
    await page.locator("#history-from").selectOption("last");
    await publish("quotes/ACME", '{"price":99}');
    await waitText("#channel-value", '"price": 99');
    await waitText("#history li:first-child pre", '"price": 99');
    check("the newest value stays the newest", true);
    await page.locator("#channel-view button[value=raw]").click();
    check("raw is as it was published", await text("#channel-value") === '{"price":99}');
    await page.locator("#channel-follow").click();
    await waitText("#live-state", "Listening to quotes/ACME");
    await publish("quotes/ACME", '{"price":100}');
    await waitText("#events li:first-child", '"price":100');
    check("a channel is followed", true);
    await page.reload();
    await waitText("#live-state", "Listening to quotes/ACME");
    await waitText("#channel-title", "quotes/ACME");
    await waitText("#channel-value", '{"price":100}');
    check("a reload shows the same", await page.locator("#find").inputValue() === "*/ACME");
    await page.locator("#find").fill("stores/**");
    await page.locator("#channels-rows button.name", { hasText: "stores/42" }).click();
    await waitText("#channel-title", "stores/42");
    await page.goBack();
    await waitText("#channel-title", "quotes/ACME");
    check("back goes back", true);
    await page.locator("#find").fill("quotes");
    await page.waitForFunction(() => document.querySelectorAll("#channels-rows tr").length === 2);
    const [values] = await Promise.all([page.waitForRequest((r) => r.url().includes("/v1/events?")), page.locator("#find-live").click()]);
    check("live values come by a conflated stream, which goes on where the list was read",
      /conflate=true&lastEventId=[0-9A-Z]{13}/.test(values.url()) && await query("values") === "live");
    await page.route("**/v1/channels?*", (route) => route.abort());
    await waitText("#channels-state", "does not answer");
    for (const price of [201, 202, 203]) await publish("quotes/ACME", `{"price":${price}}`);
    await waitText("#channels-rows tr:first-child", "203");
    await waitText("#channel-value", '"price":203');
    check("they come while the list is not read", await page.locator("#channels-state[data-kind=bad]").count() === 1);
    await page.unroute("**/v1/channels?*");
    await page.waitForFunction(() => document.querySelector("#channels-state").innerText === "");
    check("an error goes away once it is over", true);
    await page.locator("#channel-publish").click();
    await page.locator("#find-follow").click();
    await waitText("#live-state", "Listening to quotes, quotes/\\*\\*");
    await page.waitForFunction(() => document.querySelectorAll("#events li").length === 2);
    check("a pattern is followed by the newest of each", (await page.locator("#events b").allInnerTexts()).join() === "quotes/ACME,quotes/GEN01");
    check("the form has the channel", await page.locator("#publish-form input[name=channel]").inputValue() === "quotes/ACME");
    await page.locator("#publish-form input[name=channel]").fill("a*b");
    await page.locator("#publish-form button").click();
    await page.locator("#publish-state[data-kind=bad]").waitFor();
    await page.locator("#publish-form input[name=channel]").fill("a");
    check("a refusal goes away when the form is changed", await text("#publish-state") === "");
  },
  // The list of live events: filter, pause, copy, export, raw and pretty.
  async live() {
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.goto(hub + "/?listen=live/*&replay=next");
    await waitText("#live-state", "Listening to live");
    for (let i = 0; i < 300; i++) await publish(`live/${i % 3}`, `{"n":${i}}`);
    await waitText("#live-summary", "300 events");
    await waitText("#events li:first-child pre", '"n": 299');
    await page.waitForFunction(() => document.querySelectorAll("#events li").length === 200);
    const shown = await page.locator("#events li pre").evaluateAll((all) => all.map((pre) => JSON.parse(pre.textContent).n).join());
    check("the newest 200 are in the list, in order", shown === Array.from({ length: 200 }, (_, i) => 299 - i).join());
    await page.locator("#filter").fill('"n":7}');
    await page.waitForFunction(() => document.querySelectorAll("#events li").length === 1);
    check("the filter sees more than the list shows", (await text("#events li pre")).includes('"n": 7'));
    check("it is in the address", await query("filter") === '"n":7}');
    await page.locator("#copy").click();
    await waitText("#copy", "Copied");
    const copied = JSON.parse(await page.evaluate(() => navigator.clipboard.readText()));
    check("what matches is copied", copied.channel === "live/1" && copied.data === '{"n":7}' && /^[0-9A-Z]{13}$/.test(copied.id));
    await page.locator("#filter").fill("live/2");
    await page.waitForFunction(() => document.querySelectorAll("#events li").length === 100);
    const [download] = await Promise.all([page.waitForEvent("download"), page.locator("#export").click()]);
    const lines = readFileSync(await download.path(), "utf8").trim().split("\n").map((l) => JSON.parse(l));
    check("what matches is exported, oldest first", lines.length === 100 && lines[0].data === '{"n":2}' && lines[99].data === '{"n":299}');
    await page.locator("#filter").fill("");
    await page.waitForFunction(() => document.querySelectorAll("#events li").length === 200);
    await page.locator("#pause").click();
    await publish("live/0", "while paused");
    await waitText("#live-summary", "paused; 1 new");
    check("a pause stops the list", !(await text("#events li:first-child")).includes("while paused"));
    await page.locator("#pause").click();
    await waitText("#events li:first-child", "while paused");
    check("and nothing of it is lost", true);
    await page.locator("#view button[value=raw]").click();
    await waitText("#events li:nth-child(2) pre", '^{"n":299}$');
    check("raw is as it was published", await query("view") === "raw");
    await page.locator("#events li:nth-child(2) .copy").click();
    await waitText("#events li:nth-child(2) .copy", "Copied");
    check("one event is copied", JSON.parse(await page.evaluate(() => navigator.clipboard.readText())).data === '{"n":299}');
    await page.locator("#view button[value=pretty]").click();
    const [conflated] = await Promise.all([page.waitForRequest((r) => r.url().includes("/v1/events?")), page.locator("#each button[value=each]").click()]);
    check("the newest of each: a stream of the state, conflated, and in the address",
      /replay=latest&conflate=true/.test(conflated.url()) && await query("replay") === "latest");
    await waitText("#live-summary", "^3 channels");
    const rows = async () => (await page.locator("#events li").allInnerTexts()).map((t) => t.replace(/\s+/g, " "));
    const each = await rows();
    check(`one row for each channel, by name: ${each}`, each.length === 3 && each.every((t, i) => t.includes(` live/${i} `)) && each[1].includes('"n": 298') && each[2].includes('"n": 299'));
    await page.locator("#events li:nth-child(2) .copy").focus();
    await publish("live/1", '{"n":400}');
    await publish("live/1", '{"n":401}');
    await publish("live/12", '{"n":5}');
    await waitText("#events li:nth-child(2) pre", '"n": 401');
    await waitText("#events li:nth-child(3) b", "^live/12$");
    check("a row changes in its place, and keeps the focus", await page.evaluate(() => document.activeElement === document.querySelector("#events li:nth-child(2) .copy")));
    await page.locator("#filter").fill("live/2");
    await page.waitForFunction(() => document.querySelectorAll("#events li").length === 1);
    await page.locator("#copy").click();
    await waitText("#copy", "Copied");
    check("what matches is copied, the newest alone", JSON.parse(await page.evaluate(() => navigator.clipboard.readText())).data === '{"n":299}');
    await page.locator("#filter").fill("");
    await page.waitForFunction(() => document.querySelectorAll("#events li").length === 4);
    await page.locator("#pause").click();
    await publish("live/0", '{"n":500}');
    await waitText("#live-summary", "paused; 1 new");
    check("a pause holds the rows", !(await rows())[0].includes("500"));
    await page.locator("#pause").click();
    await waitText("#events li:nth-child(1) pre", '"n": 500');
    await page.reload();
    await waitText("#live-summary", "^4 channels");
    check("a reload shows the same", await page.locator("#each button[value=each][aria-pressed=true]").count() === 1);
    await page.locator("#each button[value=every]").click();
    await page.waitForFunction(() => document.querySelectorAll("#events li").length === 20);
    check("and every event again", await query("replay") === null);
    await page.locator("#stop").click();
    check("a stream that was stopped is not in the address", await query("listen") === null);
  },
  // Streams are sorted, filtered and ended; the test holds two of them open.
  async streams() {
    await page.goto(hub + "/?listen=seen/by/the/page");
    await waitText("#streams-rows", "first/\\*[\\s\\S]*|second/\\*");
    await page.waitForFunction(() => document.querySelectorAll("#streams-rows tr").length === 3);
    const order = () => page.locator("#streams-rows tr td:nth-child(4)").allInnerTexts();
    await page.locator("#streams thead button[value=channels]").click();
    check("sorted", (await order()).join() === "first/*,second/*,seen/by/the/page");
    await page.locator("#streams thead button[value=channels]").click();
    check("and the other way round", (await order()).join() === "seen/by/the/page,second/*,first/*" && await query("sort") === "-channels");
    await page.locator("#streams-filter input").fill("second");
    await page.waitForFunction(() => document.querySelectorAll("#streams-rows tr").length === 1);
    await page.locator("#streams-rows button").click();
    check("it asks before it ends a stream", await text("#streams-rows button") === "Really?");
    await page.locator("#streams-rows button").click();
    await waitText("#streams-state", "ends now");
    await page.waitForFunction(() => document.querySelectorAll("#streams-rows tr").length === 0);
    await page.locator("#streams-filter input").fill("");
    await page.waitForFunction(() => document.querySelectorAll("#streams-rows tr").length === 2);
    check("the stream is ended, and no other", (await order()).join() === "seen/by/the/page,first/*");
  },
  // A hub that has seen nothing: each empty place says what to paste, and no chart has a point where nothing was measured.
  async empty() {
    const asked = [];
    page.on("request", (r) => asked.push(r.url()));
    await page.goto(hub + "/");
    await waitText("#channels-empty", `curl -d 'hello' '${hub}/v1/channels/greetings'`);
    await waitText("#streams-empty", "curl -N '");
    await waitText("#stores-empty", "curl -N '");
    await waitText("#events-empty", "Nothing is followed");
    await page.locator("#listen input").fill("**");
    await page.keyboard.press("Enter");
    await waitText("#events-empty", `${hub}/v1/channels/greetings`);
    check("empty places say what to paste", true);
    await page.waitForFunction(() => /now 1/.test(document.querySelector("#charts figure:nth-child(3)").innerText));
    await page.waitForFunction(() => document.querySelectorAll("#charts figure:nth-child(3) polyline").length === 1);
    const latency = page.locator("#charts figure:nth-child(4)");
    check("no latency is drawn where nothing was published", await latency.locator("polyline, circle").count() === 0 && (await latency.innerText()).includes("nothing to measure yet"));
    const axes = await page.evaluate(async (hub) => {
      const [{ axis, runs }, { count }] = await Promise.all([import(`${hub}/console/charts.js`), import(`${hub}/console/dom.js`)]);
      const at = (s, v) => ({ time: new Date(s * 1000).toISOString(), v });
      return [axis(10).map(count).join(), axis(3, true).join(), axis(0).join(), count(12.5), count(0.125), count(1234),
        runs([at(0, 1), at(5, 2), at(10, null), at(15, 3), at(60, 4)], "v").map((r) => r.length).join()];
    }, hub);
    check(`axes and figures are exact: ${axes.join(" | ")}`, axes.join("|") === "0,2.5,5,7.5,10|0,1,2,3|0,1|12.5|0.125|1,234|2,1,1");
    const hrefs = await page.locator("header a").evaluateAll((all) => all.map((a) => a.href));
    check("documents are linked", hrefs.some((h) => h.endsWith("/openapi.yaml")) && hrefs.some((h) => h.endsWith("/docs/guide")));
    const icon = await fetch(await page.locator("link[rel=icon]").evaluate((l) => l.href));
    check("there is an icon", icon.ok && icon.headers.get("content-type") === "image/svg+xml" && !asked.some((u) => u.endsWith("favicon.ico")));
    await accessible("on an empty page");
    for (let i = 0; i < 5; i++) await publish("quotes/ACME", `{"price":${i}.5}`);
    await waitText("#channels-rows", "quotes/ACME");
    await page.locator("#channels-rows button.name").click();
    await page.locator("#history li").first().waitFor();
    await page.locator("#events li").first().waitFor();
    await looks("page", async (width) => {
      const tops = await page.locator("#now > div").evaluateAll((all) => all.map((n) => { const b = n.getBoundingClientRect(); return `${b.top} ${b.height}`; }));
      check("the tiles line up", new Set(tops).size === (width === 1440 ? 1 : 3));
    });
    await page.locator("#each button[value=each]").click();
    await waitText("#live-summary", "^1 channels");
    await looks("page-each");
    await page.goto(hub + "/?listen=it's/%C3%BC/..%20/*");
    await waitText("#events-empty", "Publish something");
    run(await text("#events-empty code"));
    await waitText("#events li:first-child", '"hello": "world"');
    check("what the live list says to paste publishes, whatever the channel's name", await text("#events li:first-child b") === "it's/ü/..");
  },
  // A token that may listen, and may not see the figures.
  async limited() {
    await page.goto(hub + "/?find=users/bob/**");
    await waitText("#sign-in-state", "token is needed");
    await page.locator("#token-form input").fill(process.env.FANFARE_TEST_TOKEN);
    await page.keyboard.press("Enter");
    await waitText("#state", "Signed in");
    check("the form goes away", !(await page.locator("#sign-in").isVisible()));
    check("it says why there are no figures", /admin/.test(await text("#no-figures")) && !(await page.locator("#figures").isVisible()));
    await waitText("#channels-rows", "users/bob/inbox");
    await page.locator("#channels-rows button.name").click();
    await waitText("#history li:first-child", "for bob");
    check("channels and history work with the token", true);
    await accessible("for a token without figures");
  },
  async notifications() {
    await page.goto(hub + "/examples/notifications/?user=ada");
    await waitText("#unread", "^[1-9]");
    const before = Number(await text("#unread"));
    await page.reload();
    await page.waitForFunction((n) => Number(document.querySelector("#unread").innerText) >= n, before);
    check("the unread count survives a reload", true);
    check("reading brings it to zero", await page.evaluate(() => { // in one task, because notifications go on coming
      document.querySelector("#read").click();
      return document.querySelector("#unread").innerText;
    }) === "0");
    await page.reload();
    await waitText("#state", "Live");
    await page.waitForFunction(() => document.querySelectorAll("#list li").length > 0);
    check("and that survives too", Number(await text("#unread")) <= 1);
    await page.locator("#send input").fill("hello");
    await page.locator("#send button").click();
    await waitText("#list li:first-child", "hello");
    await shot("notifications");
  },
  async logs() {
    await page.goto(hub + "/examples/logs/?channel=logs/test");
    await page.waitForFunction(() => document.querySelectorAll("#tail div").length >= 20);
    check("lines come", true);
    await page.locator("#pause").click();
    const n = await page.locator("#tail div").count();
    await page.waitForTimeout(1500); // lines go on coming at the hub
    check("a pause stops them", await page.locator("#tail div").count() === n);
    const last = Number((await text("#tail div:last-child")).match(/line (\d+)/)[1]);
    await page.locator("#pause").click();
    await page.waitForFunction((n) => document.querySelectorAll("#tail div").length > n, n);
    const next = Number((await page.locator(`#tail div:nth-child(${n + 1})`).innerText()).match(/line (\d+)/)[1]);
    check(`nothing is lost over a pause (${last}, ${next})`, next === last + 1);
    await shot("logs");
    const since = Math.floor(Date.now() / 1000 - 1) * 1000;
    const time = new Date(since - new Date().getTimezoneOffset() * 60000).toISOString().slice(0, 19);
    await page.locator("#jump input").fill(time);
    await page.locator("#jump button").click();
    await waitText("#note", "lines from");
    const [, at, from] = (await text("#tail div:first-child")).match(/(\S+) line (\d+)/);
    // A line is published a moment after the time that it names.
    check(`a jump shows the lines from then on (${at}, line ${from})`, Number(from) > 0 && Math.abs(Date.parse(at) - since) <= 1000);
  },
  // A hub that asks who somebody is: the page asks in turn, keeps the token to itself, and streams by ticket.
  async secured() {
    const token = process.env.FANFARE_TEST_TOKEN;
    await page.goto(hub + "/");
    await waitText("#sign-in-state", "token is needed");
    check("it asks for a token, which is no error", await page.locator("#sign-in").isVisible() && await page.locator("[data-kind=bad]").count() === 0);
    check("and links to no part that is not there", await page.evaluate(() => [...document.querySelectorAll("nav a[href^='#']")]
      .every((a) => a.hidden === document.querySelector(a.hash).hidden)));
    await looks("sign-in");
    const all = run(await text("#sign-in-how code")); // as the page says
    await page.locator("#token-form input").fill("nonsense");
    await page.keyboard.press("Enter");
    await waitText("#sign-in-state", "not valid");
    check("it says that a token is not valid", await page.locator("#sign-in-state[data-kind=bad]").count() === 1);
    await looks("sign-in-refused");
    await page.locator("#publish-form input[name=channel]").fill("greetings");
    await page.locator("#publish-form button").click();
    await waitText("#publish-state", "token is needed");
    await page.locator("#token-form input").fill(all);
    await page.keyboard.press("Enter");
    await waitText("#state", "Ready");
    await page.locator("#sign-in").waitFor({ state: "hidden" });
    await page.waitForFunction(() => document.querySelectorAll("[data-kind=bad]").length === 0);
    check("the form and the errors go away once the token works", await page.locator("#forget").isVisible());
    run(await text("#channels-empty code"));
    await page.locator("#listen input").fill("notes/*");
    await page.keyboard.press("Enter");
    await page.locator("#events-empty code").waitFor();
    await looks("signed-in");
    run(await text("#events-empty code"));
    await waitText("#events li:first-child", "notes/one");
    await waitText("#channels-rows", "greetings");
    check("what the page says to paste publishes, with the token", true);
    await page.locator("#forget").click();
    await waitText("#sign-in-state", "token is needed");
    await page.locator("#token-form input").fill(token);
    await page.keyboard.press("Enter");
    await waitText("#state", "Ready");
    const urls = [];
    page.on("request", (r) => urls.push(r.url()));
    await page.locator("#listen input").fill("greetings");
    await page.locator("#listen button").first().click();
    await waitText("#live-state", "Listening to greetings");
    await page.locator("#publish-form input[name=channel]").fill("greetings");
    await page.locator("#publish-form textarea").fill("with a token");
    await page.locator("#publish-form button").click();
    await waitText("#publish-state", "Published as");
    await waitText("#events li:first-child", "with a token");
    check("it listens by ticket, and publishes", urls.some((u) => u.includes("/v1/events?") && u.includes("ticket=ft_")));
    await waitText("#streams-rows", "greetings");
    check("the token is in no URL", !urls.some((u) => u.includes(token.slice(-20))));
    check("and is kept nowhere", await page.evaluate(() => document.cookie === "" && localStorage.length === 0 && sessionStorage.length === 0));
    await page.locator("#forget").click();
    await waitText("#sign-in-state", "token is needed");
    check("it can be forgotten", true);
  },
  // A ticket over three lifetimes of its stream, and a restart of the hub in between, which its port's name tells from outside.
  async ticket() {
    const token = process.env.FANFARE_TEST_TOKEN;
    await page.goto(hub + "/openapi.yaml").catch(() => {}); // a download; the page below is the hub's own
    await page.goto(hub + "/examples/");
    await page.evaluate(async (token) => {
      const answer = await fetch("/v1/tickets", { method: "POST", headers: { Authorization: `Bearer ${token}` }, body: JSON.stringify({ channels: ["ticks"] }) });
      const { url } = await answer.json();
      window.got = [];
      window.opens = 0;
      window.source = new EventSource(url);
      window.source.onopen = () => window.opens++;
      window.source.onmessage = (e) => window.got.push(e.data);
    }, token);
    await page.waitForFunction(() => window.opens >= 1);
    for (let n = 0, opens = 0; opens < 4; n++) {
      const answer = await fetch(`${hub}/v1/channels/ticks`, { method: "POST", headers: { Authorization: `Bearer ${token}` }, body: String(n) }).catch(() => null);
      if (!answer?.ok) n--;
      await new Promise((resolve) => setTimeout(resolve, 100));
      opens = await page.evaluate(() => window.opens);
      if (await page.evaluate(() => window.source.readyState === EventSource.CLOSED)) throw new Error(`the source stopped for good after ${opens} streams`);
      if (n > 600) throw new Error(`only ${opens} streams in a minute`);
      globalThis.sent = n + 1;
    }
    await page.waitForFunction((n) => window.got.length >= n, globalThis.sent);
    const got = await page.evaluate(() => window.got);
    check(`four streams, and each of ${globalThis.sent} events once, in order`, got.every((data, i) => data === String(i)) && got.length === globalThis.sent);
  },
  // What quotes and the board open with: the newest of each channel, that was published before, and nothing after.
  async state() {
    for (const [name, [place, shown]] of Object.entries(atOnce)) {
      const streams = [];
      const note = (r) => { if (r.url().includes("/v1/events?")) streams.push(new URL(r.url()).searchParams); };
      page.on("request", note);
      await page.goto(`${hub}/examples/${name}/`);
      await waitText(place, shown);
      check(`${name} has the state at once`, await stateOf() === "live" && !/ 99|older/.test(await text(place)));
      await waitText(...settled[name]);
      page.off("request", note);
      check(`${name} has one stream, of the newest`, streams.length === 1 && streams[0].get("replay") === "latest" && streams[0].get("conflate") === "true");
      await accessible(`in ${name}`);
      await shot(`${name}-at-once`);
    }
  },
  // An empty hub: each example shows a line, which publishes its first event exactly as it stands.
  async emptyExamples() {
    for (const name of Object.keys(pasted)) {
      await page.goto(`${hub}/examples/${name}/`);
      await pasteFirst(name);
    }
  },
  // Hubs that do not answer, and streams that end: connecting and live are told apart.
  async connecting() {
    for (const name of Object.keys(pasted)) {
      await page.route("**/v1/tickets", (route) => route.abort());
      await page.goto(`${hub}/examples/${name}/`);
      await waitText("#state", "does not answer; trying again");
      check(`${name} is connecting while no hub answers`, await stateOf() === "connecting");
      await page.unroute("**/v1/tickets");
      await waitText("#state", "Live");
      await waitText("#state", "connecting again"); // its streams live for two seconds
      check(`${name} is connecting when its stream has ended`, await stateOf() === "connecting");
      await waitText("#state", "Live");
      check(`and live again`, await stateOf() === "live");
    }
    await page.goto(`${hub}/examples/quotes/`);
    await waitText("#state", "Live");
    const [again] = await Promise.all([
      page.waitForRequest((r) => r.url().includes("lastEventId=")),
      page.route("**/v1/events?*", (route) => route.fulfill({ status: 401 }), { times: 1 }), // as when its ticket is over
    ]);
    await waitText("#state", "Live");
    check("it goes on with a new ticket after its last event, conflated", /conflate=true.*ticket=ft_.*lastEventId=[0-9A-Z]{13}/.test(again.url()));
    await page.goto(`${hub}/examples/logs/?channel=a*b`);
    await waitText("#state", "Refused: .*may stand only as a whole segment");
    check("what cannot work is refused", await stateOf() === "refused");
  },
  // A hub that has no room for a stream says so with a stream that ends: it is not live.
  async full() {
    await page.addInitScript(() => addEventListener("DOMContentLoaded", () => {
      window.states = [];
      new MutationObserver(() => window.states.push(document.querySelector("#state").dataset.state)).observe(document.querySelector("#state"), { attributes: true });
    }));
    await page.goto(`${hub}/examples/board/`);
    await waitText("#state", "connecting again");
    check("a full hub is not live", !(await page.evaluate(() => window.states)).includes("live"));
  },
  // A hub that asks who somebody is: each example says that it is refused, why, and how a token is made.
  async examplesWithToken() {
    const urls = [];
    page.on("request", (r) => urls.push(r.url()));
    for (const name of Object.keys(pasted)) {
      await page.goto(`${hub}/examples/${name}/`);
      await waitText("#state", "Refused: a token is needed");
      check(`${name} says that it is refused, and why`, await stateOf() === "refused");
      await accessible(`in ${name}, refused`);
      await shot(`${name}-refused`);
      await enter("nonsense");
      await waitText("#state", "Refused: .*not valid");
      await enter(process.env.FANFARE_OTHER_TOKEN);
      await waitText("#state", "Refused: .*no right to subscribe");
      check("and what the token may not do", await stateOf() === "refused");
      const token = run(await text("#help pre")); // as the page says
      await enter(token);
      await waitText("#state", "Live");
      check("a token as the page says makes it live", !(await page.locator("#help input").isVisible()));
      const line = await pasteFirst(name);
      check("the line has the token, no URL has it, and the stream has a ticket", line.includes(`'Authorization: Bearer ${token}'`) &&
        !urls.some((u) => u.includes(token.slice(-20))) && urls.some((u) => u.includes("ticket=ft_")));
      check("and it is kept nowhere", await page.evaluate((t) => !(document.cookie + JSON.stringify([localStorage, sessionStorage])).includes(t), token));
    }
    await page.locator("#send input").fill("hello");
    await page.locator("#send button").click();
    await waitText("#list li:first-child", "You: hello");
    check("a page publishes with the token", true);
  },
  async quotes() {
    await page.goto(hub + "/examples/quotes/");
    await waitText("#rate", "^[1-9]\\d\\d+ changes a second, 50 symbols");
    check("hundreds of changes a second, 50 symbols", true);
    check("the page says that they are generated", (await text("main")).includes("Generated quotes"));
    await page.locator("#quotes button").nth(7).click();
    await waitText("#chosen", "GEN08");
    await page.waitForFunction(() => (document.querySelector("#chart polyline")?.getAttribute("points") || "").split(" ").length > 5);
    check("the chart follows the chosen symbol", true);
    const lag = Number((await text("#lag")).match(/(\d+) ms/)[1]);
    console.log(`lag ${lag} ms`);
    await shot("quotes");
  },
  async board() {
    await page.goto(hub + "/examples/board/?late=5");
    await waitText("#stores", "Store 1[\\s\\S]*PC 1[\\s\\S]*PC 2[\\s\\S]*PC 3[\\s\\S]*Store 2[\\s\\S]*PC 3");
    await waitText("#stores", "● \\d[\\s\\S]*cpu \\d+, memory \\d+");
    check("stores and PCs are there", true);
    await page.waitForFunction(() => document.querySelectorAll("#stores li.late").length === 2, null, { timeout: 60000 });
    check("a PC that went silent is red, and says so", (await text("#stores section:first-of-type li.late")).includes("LATE"));
    await waitText("#summary", "6 PCs, 2 late");
    await shot("board");
  },
};

let failed = false;
try {
  await cases[which]();
  check(`the page has nothing to complain of: ${complaints}`, complaints.length === 0);
} catch (e) {
  failed = true;
  console.log(`FAILED ${e.message}`);
  await shot(`${which}-failed`).catch(() => {});
  console.log(await page.evaluate(() => document.body.innerText).catch(() => ""), complaints);
}
await browser.close();
process.exit(failed ? 1 : 0);
