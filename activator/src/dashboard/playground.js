// Asks a model as any client does, and shows the answer as it comes and where its time went.
import { element, fixed, milliseconds } from "./dom.js";

const PATH = "playground/v1/chat/completions";
const part = (id) => document.getElementById(id);
let asking = null;

/** Makes the form ask. */
export function start() {
  part("playground").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  part("stop").addEventListener("click", () => asking?.abort());
  part("user").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) part("playground").requestSubmit();
  });
}

/** Offers these models; the one that is chosen stays so. */
export function offer(names) {
  const select = part("model");
  if (names.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => Object.assign(element("option", "", name), { value: name })));
  if (names.includes(chosen)) select.value = chosen;
}

function body() {
  const messages = [["system", part("system").value], ["user", part("user").value]];
  const number = (id) => (part(id).value === "" ? undefined : part(id).valueAsNumber);
  return {
    model: part("model").value,
    messages: messages.filter(([, content]) => content !== "").map(([role, content]) => ({ role, content })),
    temperature: number("temperature"),
    max_tokens: number("max-tokens"),
    stream: part("stream").checked,
  };
}

async function ask() {
  if (asking) return;
  asking = new AbortController();
  busy(true);
  ["answer", "problem", "timings"].forEach((id) => part(id).replaceChildren());
  try {
    const wanted = body();
    const [headers, signal] = [{ "content-type": "application/json" }, asking.signal];
    if (part("key").value) headers.authorization = `Bearer ${part("key").value}`;
    const answer = await fetch(PATH, { method: "POST", headers, signal, body: JSON.stringify(wanted) });
    if (answer.headers.get("content-type")?.startsWith("text/event-stream")) await events(answer.body);
    else whole(await answer.json());
  } catch (error) {
    part("problem").textContent = error.name === "AbortError" ? "stopped" : error.message;
  } finally {
    asking = null;
    busy(false);
  }
}

function busy(is) {
  part("ask").disabled = is;
  part("stop").disabled = !is;
  part("answer").setAttribute("aria-busy", String(is));
}

/** Shows one event of a stream, or an answer that came whole. */
function whole(answer) {
  if (answer.error) throw new Error(answer.error.message);
  const choice = answer.choices?.[0];
  const text = (choice?.delta ?? choice?.message)?.content;
  if (text) part("answer").append(text);
  if (answer.timings) part("timings").textContent = words(answer.timings);
}

/** Server-sent events: blocks of lines with a blank one between; comments say that somebody is still there. */
async function events(stream) {
  let rest = "";
  for await (const text of texts(stream)) {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const line of blocks.flatMap((block) => block.split("\n"))) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      whole(JSON.parse(line.slice(6)));
    }
  }
  throw new Error("the answer broke off");
}

async function* texts(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

function words(timings) {
  // The first token's time is told apart, so what follows it is what was generated meanwhile.
  const speed = timings.predicted_n > 1 && timings.predicted_ms > 0 ? (1e3 * (timings.predicted_n - 1)) / timings.predicted_ms : 0;
  const cold = `cold: launch ${milliseconds(timings.launch_ms)}, restore ${milliseconds(timings.restore_ms)}`;
  return [
    timings.cold ? cold : "hot",
    `first token after ${milliseconds(timings.first_token_ms)}`,
    `${timings.prompt_n} tokens of prompt, ${timings.predicted_n} generated${speed ? `, ${fixed(speed)} tokens/s` : ""}`,
  ].join(" · ");
}
