// Reports as a reader meets them: how long each takes to open, and how it looks in both widths, by day and by night.

import { mkdirSync, statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { Eyes, SCREENS, expect, passed } from "./tools.mjs";

/** Milliseconds from asking for a page until it is laid out and its first pictures are there, and until the first paint. */
async function opening(eyes, address) {
  const context = await eyes.browser.newContext({ viewport: { width: 1280, height: 900 } });
  const page = await context.newPage();
  await page.goto(address, { waitUntil: "load" });
  const times = await page.evaluate(() => {
    const [navigation] = performance.getEntriesByType("navigation");
    const [paint] = performance.getEntriesByName("first-contentful-paint");
    return { load: navigation.loadEventEnd, paint: paint?.startTime };
  });
  await context.close();
  return times;
}

mkdirSync(SCREENS, { recursive: true });
const eyes = await Eyes.open();
try {
  for (const file of process.argv.slice(2)) {
    const address = pathToFileURL(resolve(file)).href;
    const tries = [];
    for (let i = 0; i < 5; i += 1) tries.push(await opening(eyes, address));
    const [fastest, , middle, , slowest] = tries.sort((a, b) => a.load - b.load);
    const said = [fastest, middle, slowest].map(({ load }) => `${load.toFixed(0)} ms`).join(", ");
    const context = await eyes.browser.newContext({ viewport: { width: 1280, height: 900 } });
    const page = await context.newPage();
    page.on("request", (request) => {
      if (!/^(file|data):/.test(request.url())) throw new Error(`it asked ${request.url()}`);
    });
    await page.goto(address);
    const pictures = await page.locator("img").count();
    expect(middle.load < 2000, `${file}: ${pictures} pictures, ${(statSync(file).size / 2 ** 20).toFixed(1)} MiB, open in ${said}; first paint ${middle.paint?.toFixed(0)} ms`);
    await eyes.look(page, `page-${basename(resolve(file, ".."))}`);
    await context.close();
  }
  console.log(`\n${passed()} passed, 0 failed`);
} catch (error) {
  console.error(`\nFAILED: ${error.stack}`);
  process.exitCode = 1;
} finally {
  await eyes.browser.close();
}
