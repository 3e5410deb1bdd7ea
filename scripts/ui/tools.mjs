// The server under test, the browser that looks at it, and what is expected of both.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const HERE = new URL(".", import.meta.url).pathname;

export const SCREENS = `${HERE}scratch/screens`;
export const PLACE = `${HERE}scratch/place`;
export const PHOTOS = `${HERE}../../assets/subjects/clock`;

let checks = 0;

/** Ends everything with a word if something is not as it should be. */
export function expect(fact, what) {
  if (!fact) throw new Error(`not so: ${what}`);
  checks += 1;
  console.log(`ok   ${what}`);
}

export const passed = () => checks;

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until something is so. */
export async function until(what, test, seconds = 120) {
  const start = Date.now();
  for (;;) {
    const found = await test();
    if (found) {
      expect(true, `${what} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
      return found;
    }
    if (Date.now() - start > seconds * 1000) throw new Error(`not within ${seconds} s: ${what}`);
    await pause(100);
  }
}

/** `eqdiff ui` on a port that is free, or on the one before. */
export class Server {
  async start(port = this.port ?? 0) {
    this.process = spawn(process.env.EQDIFF, ["ui", PLACE, "--port", String(port)], { stdio: ["ignore", "pipe", "inherit"] });
    this.ended = new Promise((resolve) => this.process.on("exit", (code, signal) => resolve(code ?? signal)));
    let said = "";
    this.process.stdout.on("data", (piece) => (said += piece));
    this.address = await until("the server says its address", () => said.match(/http:\S+/)?.[0], 20);
    this.port = Number(new URL(this.address).port);
    this.origin = new URL(this.address).origin;
    this.token = new URL(this.address).searchParams.get("token");
  }

  async end(signal = "SIGINT") {
    this.process.kill(signal);
    return this.ended;
  }

  /** Asks without a browser. */
  fetch(path, options = {}) {
    return fetch(this.origin + path, { ...options, headers: { authorization: `Bearer ${this.token}`, ...options.headers } });
  }

  json = async (path) => (await this.fetch(path)).json();

  job = async (kind) => (await this.json("/api/state")).jobs.filter((job) => job.kind === kind).at(-1);

  /** Resident memory in MiB. */
  memory() {
    const status = readFileSync(`/proc/${this.process.pid}/status`, "utf8");
    return Number(status.match(/VmRSS:\s+(\d+)/)[1]) / 1024;
  }

  /** Processor time in hundredths of a second. */
  time() {
    const fields = readFileSync(`/proc/${this.process.pid}/stat`, "utf8").split(") ")[1].split(" ");
    return Number(fields[11]) + Number(fields[12]);
  }
}

/** A browser whose pages ask nobody but the server. */
export class Eyes {
  static async open(server) {
    const eyes = new Eyes();
    eyes.server = server;
    eyes.browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
    return eyes;
  }

  async page(options = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options });
    const page = await context.newPage();
    page.on("request", (request) => {
      const { protocol, origin } = new URL(request.url());
      if (!["data:", "blob:"].includes(protocol) && origin !== this.server.origin) throw new Error(`it asked ${request.url()}`);
    });
    page.on("pageerror", (error) => {
      throw error;
    });
    page.on("console", (message) => {
      // a server that was killed is noticed there too
      if (message.type() === "error" && !/net::|status of/.test(message.text())) throw new Error(message.text());
    });
    page.setDefaultTimeout(60_000);
    await page.goto(this.server.address);
    if (process.env.PAGE_FILES) {
      await page.route("**/page/*", (route) => route.fulfill({ path: `${process.env.PAGE_FILES}/${new URL(route.request().url()).pathname.split("/").pop()}` }));
      await page.reload();
    }
    return page;
  }

  /** Looks at a screen in both widths, by day and by night, and lets axe look too. */
  async look(page, name) {
    const size = page.viewportSize();
    // what stays where the window is would lie over the middle of the page
    await page.evaluate(() => scrollTo(0, 0));
    for (const width of [1280, 390]) {
      await page.setViewportSize({ width, height: width === 390 ? 844 : 900 });
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
        await pause(250);
        const tall = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth + 1);
        expect(!tall, `${name}, ${width}: nothing sticks out`);
        const violations = await this.axe(page);
        expect(!violations.length, `${name}, ${width} ${colorScheme}: axe finds nothing${violations.map((v) => `\n${v}`).join("")}`);
        const open = await page.locator("dialog[open]").count();
        await page.screenshot({ path: `${SCREENS}/${name}-${width}-${colorScheme}.png`, fullPage: !open });
      }
    }
    await page.setViewportSize(size);
    await page.emulateMedia({ colorScheme: "light" });
  }

  async axe(page) {
    await page.evaluate(AXE); // by the debugger: the page itself would not let a foreign script in
    const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
    return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 160)} ${failureSummary.slice(0, 300)}`).join(" | ")}`);
  }
}

/** Presses Tab until what has the focus is called so. */
export async function tabTo(page, name, most = 90) {
  for (let i = 0; i < most; i += 1) {
    await page.keyboard.press("Tab");
    const found = await page.evaluate(() => {
      const element = document.activeElement;
      if (element === document.body) return ""; // between the last and the first
      const label = element.labels?.[0]?.textContent ?? "";
      return `${element.getAttribute("aria-label") ?? ""} ${label} ${element.textContent}`.trim();
    });
    if (found.includes(name)) return;
  }
  throw new Error(`the keyboard does not reach ${name}`);
}
