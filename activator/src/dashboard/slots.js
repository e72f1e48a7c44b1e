// What each slot is doing, and what of this machine's memory its processes have.
import { bar, bytes, element, fixed } from "./dom.js";

/** A sign for each state, so that colour is never the only one. */
const SIGNS = { cold: "○", starting: "◔", ready: "●", draining: "◒", failed: "✕" };

/** Draws every slot anew. */
export function drawSlots(slots) {
  document.querySelector("#slots tbody").replaceChildren(...slots.flatMap(rows));
}

function rows(slot) {
  const row = element("tr");
  row.dataset.model = slot.name;
  row.append(
    labelled("th", "model", slot.name),
    labelled("td", "state", state(slot.state)),
    labelled("td", "processes", slot.replicas.map((replica) => `pid ${replica.pid}`).join(", ") || "none"),
    labelled("td", "in flight", String(slot.in_flight), "number"),
    labelled("td", "held", String(slot.held), "number"),
    labelled("td", "resident", slot.resident_bytes ? bytes(slot.resident_bytes) : "0", "number"),
  );
  row.firstChild.scope = "row";
  if (!slot.failure) return [row];
  const failure = element("td", "failure", slot.failure);
  failure.colSpan = row.children.length;
  return [row, element("tr", "failure-row", failure)];
}

function state(name) {
  const sign = element("span", "sign", SIGNS[name] ?? "?");
  sign.setAttribute("aria-hidden", "true");
  return element("span", `state ${name in SIGNS ? name : ""}`, sign, ` ${name}`);
}

/** A cell that repeats its column's name, which narrow screens show beside it. */
function labelled(tag, label, content, className) {
  const cell = element(tag, className, content);
  cell.dataset.label = label;
  return cell;
}

/** Draws memory: what each slot's processes have, beside all that there is. */
export function drawMemory(slots, machine) {
  const whole = machine.memory_bytes;
  const cores = `${machine.cores} ${machine.cores === 1 ? "core" : "cores"}`;
  document.querySelector("#machine").textContent =
    `Memory of each slot's processes, pages that they share with others included, beside this machine's ${whole ? bytes(whole) : "memory"} (${cores}).`;
  document.querySelector("#memory").replaceChildren(...slots.map((slot) => memory(slot, whole)));
}

function memory(slot, whole) {
  const part = whole ? Math.min(1, slot.resident_bytes / whole) : 0;
  const lane = element("div", "lane", bar(`memory ${part ? "some" : ""}`, 0, part));
  lane.setAttribute("aria-hidden", "true");
  const share = element("span", "total", `${slot.resident_bytes ? bytes(slot.resident_bytes) : "0"} · ${fixed(100 * part)} %`);
  const made = element("li", "", element("p", "head", element("span", "name", slot.name), share), lane);
  made.dataset.model = slot.name;
  return made;
}
