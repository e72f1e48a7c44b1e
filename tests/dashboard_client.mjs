// Drives the dashboard in headless Chromium as a person would, and says `ok …` for each thing that held. Exit code 1: one did not.
//
// usage: node dashboard_client.mjs TOOLS CHROMIUM ADMIN_URL API_URL MODEL PNG
//   TOOLS     the folder that scripts/node-tools printed
//   MODEL     a model that is cold
//   PNG       where to write a picture of the page
import assert from "node:assert/strict";
import { launch, slow, watch } from "./dashboard/browser.mjs";
import { isForEverybody, picture } from "./dashboard/looks.mjs";

const [tools, chromiumPath, adminUrl, apiUrl, model, png] = process.argv.slice(2);
const PATIENCE_MS = 60_000;

const admin = async (path) => (await fetch(new URL(path, adminUrl))).json();
const ok = (what) => console.log(`ok ${what}`);

const row = (page) => page.locator(`#slots tr[data-model="${model}"]`);
const stateIs = (page, state) => row(page).locator(`.state.${state}`).waitFor({ timeout: PATIENCE_MS });

async function opens(page) {
  await page.goto(adminUrl);
  await page.getByText("connected", { exact: true }).waitFor();
  await stateIs(page, "cold");
  assert.match(await row(page).textContent(), /○ cold.*none/);
  const names = (await admin("/slots")).map((slot) => slot.name);
  assert.deepEqual(await page.locator("#slots th[scope=row]").allTextContents(), names);
  assert.deepEqual(await page.locator("#model option").allTextContents(), names);
  assert.equal(await page.locator("main b").count(), 0, "a name became markup");
  ok("the page shows the slots, and names as text");
}

/** Fills the playground in and asks; waits for the end unless told not to. */
async function ask(page, { user, tokens, stream = true, wait = true }) {
  await page.getByLabel("model", { exact: true }).selectOption(model);
  await page.getByLabel("system").fill("Answer in one sentence.");
  await page.getByLabel("user").fill(user);
  await page.getByLabel("temperature").fill("0");
  await page.getByLabel("max tokens").fill(String(tokens));
  await page.getByLabel("stream").setChecked(stream);
  await page.getByRole("button", { name: "Ask" }).click();
  if (wait) await page.locator("#ask:enabled").waitFor({ timeout: PATIENCE_MS });
  return page.locator("#answer").textContent();
}

/** What the API port answers to the same. */
async function reference(user, tokens) {
  const messages = [{ role: "system", content: "Answer in one sentence." }, { role: "user", content: user }];
  const body = JSON.stringify({ model, messages, temperature: 0, max_tokens: tokens });
  const headers = { "content-type": "application/json" };
  const answer = await (await fetch(new URL("/v1/chat/completions", apiUrl), { method: "POST", headers, body })).json();
  return answer.choices[0].message.content;
}

async function wakes(page) {
  const user = "What is a lighthouse?";
  await page.evaluate(() => {
    window.pieces = 0;
    new MutationObserver((changes) => { window.pieces += changes.filter((change) => change.addedNodes.length).length; })
      .observe(document.getElementById("answer"), { childList: true });
  });
  const answer = await ask(page, { user, tokens: 48 });
  assert.equal(await page.locator("#problem").textContent(), "");
  assert.ok(answer.length > 0);
  assert.equal(answer, await reference(user, 48));
  assert.ok(await page.evaluate(() => window.pieces) > 3, "the answer came in pieces");
  assert.match(await page.locator("#timings").textContent(), /^cold: launch [\d.]+ ms, restore [\d.]+ ms · first token after [\d.]+ ms · .*tokens\/s$/);
  ok("a question wakes the model, and its answer comes in pieces, the same as the API port's");
}

async function showsReady(page) {
  await stateIs(page, "ready");
  const slot = (await admin("/slots")).find((each) => each.name === model);
  const text = await row(page).textContent();
  assert.ok(text.includes("● ready") && text.includes(`pid ${slot.replicas[0].pid}`) && text.includes("iB"), text);
  const memory = page.locator(`#memory li[data-model="${model}"]`);
  assert.match(await memory.textContent(), /iB · [\d.]+ %/);
  // In one go, as the list is drawn anew when anything changes.
  const width = await page.evaluate((name) => [...document.querySelectorAll("#memory > li")]
    .find((each) => each.dataset.model === name).querySelector(".bar").getBoundingClientRect().width, model);
  assert.ok(width >= 3, `${width}`);
  ok("the slot is ready, with its process and its memory");
}

async function showsWhoIsOnSlices(page) {
  const slices = await admin("/slices");
  const mebibytes = (count) => `${(count / 2 ** 20).toFixed(count < 10 * 2 ** 20 ? 1 : 0)}\u00a0MiB`;
  const [slice, share] = slices.flatMap((each) => each.models.map((one) => [each, one])).find(([, one]) => one.name === model);
  const words = `${model}: ${mebibytes(share.bytes)}, 1 replica`;
  await page.locator("#slices .who li").getByText(words, { exact: true }).waitFor();
  const drawn = await page.evaluate(() => [...document.querySelectorAll("#slices > li")].map((each) => ({
    name: each.dataset.slice,
    said: each.querySelector(".total").textContent,
    bars: [...each.querySelectorAll(".bar")].map((bar) => [bar.dataset.model, bar.style.width, bar.getBoundingClientRect().width]),
  })));
  assert.deepEqual(drawn.map((each) => each.name), slices.map((each) => each.name));
  const { said, bars } = drawn.find((each) => each.name === slice.name);
  assert.match(said, /iB of [\d.]+\u00a0.iB · [\d.]+ %$/);
  assert.deepEqual(bars.map(([name]) => name), slice.models.map((one) => one.name));
  const [, width, pixels] = bars.find(([name]) => name === model);
  assert.ok(Math.abs(parseFloat(width) - (100 * share.bytes) / slice.bytes) < 0.01 && pixels >= 3, `${width}, ${pixels} pixels`);
  ok("a slice is a bar of who has how much of it, and says so in words");
}

async function showsTheColdStart(page, before) {
  const starts = await admin("/cold-starts");
  const start = starts[0];
  assert.deepEqual([starts.length, start.model], [before + 1, model]);
  const item = page.locator("#starts > li").first();
  await page.waitForFunction((count) => document.querySelectorAll("#starts > li").length === count, before + 1);
  const text = await item.textContent();
  const { launch_ms: launch, restore_ms: restore, restore: parts } = start;
  for (const words of [model, `launch ${launch.toFixed(1)} ms`, `restore ${restore.toFixed(1)} ms`,
    `weights ${(parts.weights_us / 1e3).toFixed(1)} ms`, `${(launch + restore).toFixed(1)} ms`]) {
    assert.ok(text.includes(words), `${words}: ${text}`);
  }
  const [launched, restored] = await item.evaluate((drawn) => ["launch", "restore"]
    .map((part) => drawn.querySelector(`.bar.${part}`).getBoundingClientRect().width));
  assert.ok(Math.abs(launched / (launched + restored) - launch / (launch + restore)) < 0.02, `${launched} ${restored}`);
  ok("one more cold start is drawn, to scale, with the numbers of /cold-starts");
}

async function stops(page) {
  // So that the answer cannot be there before anybody could stop it.
  const fastAgain = await slow(page, 10_000);
  await page.evaluate(() => {
    const answer = document.getElementById("answer");
    new MutationObserver((_, observer) => {
      if (!answer.textContent) return;
      observer.disconnect();
      document.getElementById("stop").click();
    }).observe(answer, { childList: true });
  });
  const answer = await ask(page, { user: "Count to a thousand, in words.", tokens: 400 });
  assert.ok(answer.length > 0);
  assert.equal(await page.locator("#problem").textContent(), "stopped");
  await fastAgain();
  await page.waitForFunction(async () => (await (await fetch("slots")).json()).every((slot) => slot.in_flight === 0));
  ok("Stop ends the answer, and the request");
}

async function refuses(page) {
  await ask(page, { user: "Hi", tokens: 1_000_000 });
  assert.match(await page.locator("#problem").textContent(), /context|max_tokens/);
  ok("an error of the model is shown in its words");
}

async function losesTheConnection(page, context) {
  await context.setOffline(true);
  await page.getByText("connection lost, retrying").waitFor();
  await context.setOffline(false);
  await page.getByText("connected", { exact: true }).waitFor();
  ok("a lost connection is said, and found again");
}

const browser = await launch(tools, chromiumPath);
try {
  const context = await browser.newContext({ viewport: { width: 900, height: 740 }, colorScheme: "light" });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  const complaints = watch(page, adminUrl);
  const before = (await admin("/cold-starts")).length;
  await opens(page);
  await wakes(page);
  await showsReady(page);
  await showsWhoIsOnSlices(page);
  await showsTheColdStart(page, before);
  await stops(page);
  assert.deepEqual(complaints, []);
  ok("nothing was asked elsewhere, and the browser had nothing to say");
  // Browsers report what follows as errors, rightly.
  await refuses(page);
  await losesTheConnection(page, context);
  await isForEverybody(page);
  ok("labels, the keyboard, the dark, and a phone's width");
  await ask(page, { user: "What is a lighthouse?", tokens: 48, stream: false });
  await picture(page, context, png);
  ok("the picture shows it");
} finally {
  await browser.close();
}
