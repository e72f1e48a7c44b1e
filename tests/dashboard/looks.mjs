// How the dashboard looks: to the keyboard and to readers of screens, in the dark, on a phone, and in a picture.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";

/** Checks what is the same for every model. */
export async function isForEverybody(page) {
  const unnamed = await page.evaluate(() => [...document.querySelectorAll("input, select, textarea")]
    .filter((field) => !field.labels.length).map((field) => field.id));
  assert.deepEqual(unnamed, []);
  // What is drawn is said in words beside it, once.
  const [bars, read] = await page.evaluate(() => {
    const drawn = [...document.querySelectorAll(".bar")];
    return [drawn.length, drawn.filter((bar) => !bar.closest("[aria-hidden=true]")).length];
  });
  assert.ok(bars > 0 && read === 0, `${read} of ${bars} bars are read out`);
  const unsaid = await page.evaluate(() => [...document.querySelectorAll("#slices > li")]
    .filter((slice) => slice.querySelectorAll(".who li").length !== Math.max(1, slice.querySelectorAll(".bar").length)).length);
  assert.equal(unsaid, 0, "slices whose words are not their bars");
  const order = [];
  await page.locator("#model").focus();
  while (order.at(-1) !== "ask" && order.length < 20) {
    order.push(await page.evaluate(() => document.activeElement.id));
    await page.keyboard.press("Tab");
  }
  assert.deepEqual(order, ["model", "key", "system", "user", "temperature", "max-tokens", "stream", "ask"]);
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await paper();
  await page.emulateMedia({ colorScheme: "dark" });
  assert.notEqual(await paper(), light);
  await page.setViewportSize({ width: 360, height: 740 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 360, "wider than a phone");
  await page.setViewportSize({ width: 900, height: 740 });
  await page.emulateMedia({ colorScheme: "light" });
}

/** Takes a picture, and counts in it, where restores are drawn, their colour. A restore that was short beside its launch is a narrow bar. */
export async function picture(page, context, png) {
  await page.evaluate(() => document.activeElement.blur());
  const bars = await page.evaluate(() => [...document.querySelectorAll(".bar.restore")].map((bar) => {
    const { left, top, width, height } = bar.getBoundingClientRect();
    return [left + scrollX, top + scrollY, width, height];
  }));
  const taken = await page.screenshot({ fullPage: true });
  writeFileSync(png, taken);
  const judge = await context.newPage();
  const [width, colours, ...restores] = await judge.evaluate(async ([data, bars]) => {
    const image = new Image();
    image.src = `data:image/png;base64,${data}`;
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    const drawing = canvas.getContext("2d");
    drawing.drawImage(image, 0, 0);
    const pixels = (...where) => new Uint32Array(drawing.getImageData(...where).data.buffer);
    const orange = 0xff0c59e8;
    const within = ([left, top, width, height]) => pixels(Math.floor(left), Math.floor(top), Math.ceil(width) + 1, Math.ceil(height) + 1);
    const restores = bars.map((bar) => within(bar).filter((pixel) => pixel === orange).length);
    return [image.width, new Set(pixels(0, 0, image.width, image.height)).size, ...restores];
  }, [taken.toString("base64"), bars]);
  assert.ok(width === 900 && colours > 50, `${width} wide, ${colours} colours`);
  assert.ok(restores.length > 0 && restores.every((pixels) => pixels > 0), `${restores} pixels of restores at ${JSON.stringify(bars)}`);
}
