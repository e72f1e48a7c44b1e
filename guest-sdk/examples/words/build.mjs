// node build.mjs [OUTPUT.wasm]: app.js → a component that imports what `text-hook` in ../../wit may, and nothing else.

import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { componentize } from "@bytecodealliance/componentize-js";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const { component } = await componentize(await readFile(here("app.js"), "utf8"), {
  witPath: here("../../wit"),
  worldName: "text-hook",
  // What a guest has not: no host grants it.
  disableFeatures: ["random", "stdio", "clocks", "http", "fetch-event"],
});
await writeFile(process.argv[2] ?? here("words.wasm"), component);
