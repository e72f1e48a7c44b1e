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

/**
 * Takes a picture, and counts in it the colour that restores are drawn in: that there is some says that they are drawn, how much only how long they
 * took.
 */
export async function picture(page, context, png) {
  await page.evaluate(() => document.activeElement.blur());
  const taken = await page.screenshot({ fullPage: true });
  writeFileSync(png, taken);
  const judge = await context.newPage();
  const [width, colours, restore] = await judge.evaluate(async (data) => {
    const image = new Image();
    image.src = `data:image/png;base64,${data}`;
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
    const drawing = canvas.getContext("2d");
    drawing.drawImage(image, 0, 0);
    const pixels = new Uint32Array(drawing.getImageData(0, 0, image.width, image.height).data.buffer);
    const orange = 0xff0c59e8;
    return [image.width, new Set(pixels).size, pixels.filter((pixel) => pixel === orange).length];
  }, taken.toString("base64"));
  assert.ok(width === 900 && colours > 50 && restore > 10, `${width} wide, ${colours} colours, ${restore} of a restore`);
}
