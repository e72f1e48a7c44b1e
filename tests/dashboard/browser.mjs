// Debian's Chromium, without a sandbox, a GPU or an outside: as it runs in a container of continuous integration.
import { createRequire } from "node:module";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

/** Headless, with a new and empty profile. `tools` is the folder that has playwright-core. */
export function launch(tools, executablePath) {
  const { chromium } = createRequire(`${tools}/`)("playwright-core");
  return chromium.launch({ executablePath, headless: true, args: FLAGS });
}

/** Says what the page complained of, and whom it asked that is not the admin port: a list that grows. */
export function watch(page, adminUrl) {
  const complaints = [];
  page.on("console", (line) => line.type() === "error" && complaints.push(line.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => {
    if (!request.url().startsWith(adminUrl) && !request.url().startsWith("data:")) complaints.push(`asked ${request.url()}`);
  });
  return complaints;
}

/** Bytes come at most this fast, until what is returned is called. */
export async function slow(page, downloadThroughput) {
  const session = await page.context().newCDPSession(page);
  const conditions = { offline: false, latency: 0, downloadThroughput, uploadThroughput: -1 };
  await session.send("Network.emulateNetworkConditions", conditions);
  return () => session.detach();
}
