// Who is on each slice, and what of its memory is set aside for them.
import { bar, bytes, element, fixed } from "./dom.js";

/** Draws every slice anew. */
export function drawSlices(slices) {
  document.querySelector("#slices").replaceChildren(...slices.map(slice));
}

/** `whole` is null where nothing bounds the slice: then what is used is the whole width. */
function slice({ name, bytes: whole, used_bytes: used, models }) {
  const head = element("p", "head", element("span", "name", name), element("span", "total", total(used, whole)));
  const made = element("li", "", head, lane(models, whole ?? used), element("ul", "who note", ...who(models)));
  made.dataset.slice = name;
  return made;
}

function total(used, whole) {
  if (whole === null) return `${size(used)}, without a bound`;
  return `${size(used)} of ${size(whole)} · ${fixed(whole ? (100 * used) / whole : 0)} %`;
}

const size = (count) => (count ? bytes(count) : "0");

/** One bar a model, side by side, in the order of the words below, which say the same. */
function lane(models, whole) {
  let from = 0;
  const bars = models.map((model, i) => {
    const to = whole ? Math.min(1, from + model.bytes / whole) : from;
    const drawn = bar(`memory some ${i % 2 ? "other" : ""}`, from, to);
    drawn.dataset.model = model.name;
    from = to;
    return drawn;
  });
  const made = element("div", "lane", ...bars);
  made.setAttribute("aria-hidden", "true");
  return made;
}

function who(models) {
  if (!models.length) return [element("li", "", "nobody")];
  return models.map(({ name, bytes: count, replicas }, i) => {
    const words = `${name}: ${size(count)}, ${replicas} ${replicas === 1 ? "replica" : "replicas"}`;
    return element("li", `key memory ${i % 2 ? "other" : ""}`, words);
  });
}
