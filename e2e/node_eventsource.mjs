// A client for the tests: npm's eventsource. Prints what it dispatches as eventsource.mjs does, until standard input ends.
//
// usage: node node_eventsource.mjs STREAM_URL
import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
const tell = (kind) => (e) => console.log(JSON.stringify({ stream: 0, kind, data: e.data ?? "", id: e.lastEventId ?? "", state: source.readyState }));
source.onopen = tell("open");
source.onerror = tell("error");
source.onmessage = tell("message");
for (const type of ["heartbeat", "gap"]) source.addEventListener(type, tell(type));
process.stdin.resume(); // it would let Node exit between two streams
process.stdin.on("end", () => process.exit(0));
