// Asks the admin port once a second how things are, while somebody looks, and draws what has changed.
import { drawColdStarts } from "./dashboard/cold_starts.js";
import { offer, start } from "./dashboard/playground.js";
import { drawSlices } from "./dashboard/slices.js";
import { drawMemory, drawSlots } from "./dashboard/slots.js";

const EVERY_MS = 1000;
/** An answer that takes longer is none. */
const PATIENCE_MS = 5000;
const SOURCES = ["slots", "cold-starts", "machine", "slices"];

let drawn = [];
let timer = null;
let asking = false;

async function text(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.text();
}

function draw(texts) {
  if (texts.every((each, i) => each === drawn[i])) return;
  const [slots, starts, machine, slices] = texts.map((each) => JSON.parse(each));
  drawSlots(slots);
  drawMemory(slots, machine);
  if (texts[3] !== drawn[3]) drawSlices(slices);
  if (texts[1] !== drawn[1]) drawColdStarts(starts);
  offer(slots.map((slot) => slot.name));
  drawn = texts;
}

async function refresh() {
  // One round at a time, however often we are looked at.
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    draw(await Promise.all(SOURCES.map(text)));
    say("connected", false);
  } catch {
    say("connection lost, retrying", true);
  }
  asking = false;
  if (document.visibilityState === "visible") timer = setTimeout(refresh, EVERY_MS);
}

function say(words, lost) {
  const connection = document.getElementById("connection");
  // Said again it would be read out again.
  if (connection.textContent !== words) connection.textContent = words;
  document.body.classList.toggle("lost", lost);
}

document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") refresh();
});
start();
refresh();
