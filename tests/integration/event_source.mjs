// Reads one stream of events by npm's eventsource, which is looked for in the working directory, and comes back by itself
// until it is told to stop: node event_source.mjs URL
import { createRequire } from "node:module";

const { EventSource } = createRequire(`${process.cwd()}/`)("eventsource");
const source = new EventSource(process.argv[2]);
const events = [];
let failures = 0;
source.addEventListener("message", ({ lastEventId, data }) => events.push([lastEventId, data]));
source.addEventListener("error", ({ code }) => {
  failures += 1;
  if (source.readyState === EventSource.CLOSED) {
    console.log(JSON.stringify({ events, failures, code }));
  }
});
