// The last cold starts as waterfalls, all on one scale: the process's launch, then the restore, and below it the restore's own parts.
import { bar, element, milliseconds } from "./dom.js";

/** Draws every cold start anew, newest first. */
export function drawColdStarts(starts) {
  const longest = Math.max(0, ...starts.map(total));
  document.querySelector("#starts").replaceChildren(...starts.map((start) => waterfall(start, longest)));
  document.querySelector("#no-starts").hidden = starts.length > 0;
  document.querySelector("#scale").textContent = starts.length ? `The whole width is ${milliseconds(longest)}.` : "";
}

const total = (start) => start.launch_ms + start.restore_ms;

function waterfall(start, longest) {
  const name = element("span", "name", start.model);
  const kind = start.standby ? " · standby" : "";
  const what = element("span", "note", `${when(start.ready_unix_ms)} · launch ${start.launch}${kind}`);
  const head = element("p", "head", name, what, element("span", "total", milliseconds(total(start))));
  const made = element("li", "", head, lanes(start, longest), element("p", "parts note", words(start)));
  made.dataset.model = start.model;
  made.dataset.launch = start.launch;
  return made;
}

/**
 * Where each part began and ended, in ms, one list a lane. Lengths are measured, places follow from what is known: the restore ends with
 * its ready word, and once the file is open, weights and tokenizer are read side by side (an encoder's one after the other).
 */
function spans({ launch_ms: launch, restore_ms: restore, restore: parts }) {
  const ready = launch + restore;
  const restoring = ready - Math.min(restore, parts.total_us / 1e3);
  const opened = Math.min(ready, restoring + parts.open_us / 1e3);
  const until = (from, us) => Math.min(ready, from + us / 1e3);
  return [
    [["launch", 0, launch], ["restore", launch, ready]],
    [["open", restoring, opened], ["weights", opened, until(opened, parts.weights_us)]],
    [["tokenizer", opened, until(opened, parts.tokenizer_us)]],
  ];
}

function lanes(start, longest) {
  const scaled = ([name, from, to]) => bar(name, from / longest, to / longest);
  const made = element("div", "waterfall");
  made.append(...spans(start).map((lane, depth) => element("div", depth ? "lane thin" : "lane", ...lane.map(scaled))));
  // Said in words below.
  made.setAttribute("aria-hidden", "true");
  return made;
}

function words({ launch_ms: launch, restore_ms: restore, restore: parts }) {
  const part = (name, us) => `${name} ${milliseconds(us / 1e3)}`;
  const within = [part("open", parts.open_us), part("tokenizer", parts.tokenizer_us), part("weights", parts.weights_us)];
  return `launch ${milliseconds(launch)}, restore ${milliseconds(restore)} (${within.join(", ")})`;
}

const when = (unixMs) => new Date(unixMs).toLocaleTimeString([], { hour12: false });
