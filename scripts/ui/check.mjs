// The whole way, as a person goes it.

import { mkdirSync, readFileSync, readdirSync } from "node:fs";
import { Eyes, PHOTOS, PLACE, Server, expect, passed, pause, tabTo, until } from "./tools.mjs";
import { hostile } from "./hostile.mjs";

mkdirSync(PLACE, { recursive: true });
const server = new Server();
await server.start();
const eyes = await Eyes.open(server);
const page = await eyes.page();
expect(page.url() === `${server.origin}/`, "the token is gone from the address");

const go = async (name) => {
  await page.goto(`${server.origin}/#/${name}`);
  await page.locator("h1").first().waitFor();
};
const state = async (kind) => (await server.job(kind))?.state;
const toastGone = () => page.locator(".toast").first().waitFor({ state: "detached" }).catch(() => {});

async function photos() {
  await eyes.look(page, "01-empty");
  await page.getByRole("button", { name: "New subject" }).click();
  const window = page.getByRole("dialog");
  await window.getByLabel("Name", { exact: true }).fill("clock");
  await window.getByLabel("What is it?").fill("clock");
  const files = readdirSync(PHOTOS).filter((name) => name.endsWith(".png")).map((name) => `${PHOTOS}/${name}`);
  await window.locator("input[type=file]").setInputFiles(files);
  await eyes.look(page, "02-new-subject");
  await window.getByRole("button", { name: "Begin" }).click();
  await page.locator(".photos li").nth(files.length - 1).waitFor();
  expect((await page.locator(".photos li").count()) === files.length, `${files.length} photos are taken in`);
  await eyes.look(page, "03-without-masks");
  await go("train/clock");
  const lacking = page.getByText("photos have no mask yet");
  expect(await lacking.isVisible(), "the method needs masks");
  await page.getByText("More", { exact: true }).click();
  await page.getByText("DreamBooth", { exact: true }).click();
  expect(!(await lacking.isVisible()), "another needs none");
  await page.getByText("As published", { exact: true }).click();
  await go("photos/clock");
  await page.getByRole("button", { name: "Propose masks" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Propose" }).click();
  await page.locator(".photos .shade").nth(files.length - 1).waitFor();
  expect(await page.getByRole("link", { name: "Train" }).last().isVisible(), "with masks it can be trained");

  // in another order, and back
  const names = () => page.locator(".photos li").evaluateAll((items) => items.map((item) => item.dataset.file.slice(4)));
  const before = await names();
  await page.getByRole("button", { name: `Move ${before[1]} forward` }).click();
  await until("the order changes", async () => (await names())[0] === before[1], 20);
  // removed, and back
  await page.getByRole("button", { name: `Remove ${before[1]}` }).click();
  await until("a photo is removed", async () => (await names()).length === files.length - 1, 20);
  await page.getByRole("button", { name: "Undo" }).click();
  await until("and comes back", async () => (await names()).length === files.length, 20);
  await page.getByRole("button", { name: `Crop ${before[1]}` }).click();
  await page.getByLabel("Left edge, %").fill("10");
  await page.getByLabel("Top edge, %").fill("10");
  await eyes.look(page, "04-crop");
  const widths = async () => (await server.json("/api/subjects"))[0].photos.map((photo) => photo.width);
  const whole = await widths();
  await page.getByRole("button", { name: "Cut" }).click();
  await until("a photo is cropped", async () => Math.min(...(await widths())) < Math.min(...whole), 20);
  await page.getByRole("button", { name: "Undo" }).click();
  await until("and whole again", async () => String(await widths()) === String(whole), 20);
}

/** A subject that has no photos yet, and is given up. */
async function nothing() {
  await server.fetch("/api/subjects", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ name: "nothing", class: "cup" }) });
  await go("photos/nothing");
  await page.getByText("It has no photos yet.").waitFor();
  expect((await page.locator(".head .actions").innerText()).trim() === "Add photos", "without photos there is one thing to do");
  await eyes.look(page, "07-no-photos");
  await page.getByRole("button", { name: "Delete the subject" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Delete" }).click();
  await page.getByRole("heading", { name: "Photos", level: 1 }).waitFor();
  await until("it is gone", async () => (await server.json("/api/subjects")).every(({ name }) => name !== "nothing"), 20);
  const said = page.locator(".toast", { hasText: "nothing is deleted" });
  await pause(13_000);
  expect(await said.getByRole("button", { name: "Undo" }).isVisible(), "what can be undone is offered until it is read");
  await said.getByRole("button", { name: "Close" }).click();
  await said.waitFor({ state: "detached" });
}

async function masks() {
  await go("photos/clock");
  await page.locator(".photos .photo").first().click();
  const easel = page.locator("canvas.easel");
  await easel.waitFor();
  await page.keyboard.press("Escape");
  await easel.waitFor({ state: "detached" });
  expect(true, "a mask that nobody has touched is left without a word");
  await page.locator(".photos .photo").first().click();
  await easel.waitFor();
  const share = () => server.json("/api/subjects").then((subjects) => subjects[0].photos[0].coverage);
  const before = await share();
  const box = await easel.boundingBox();
  await pause(300);
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2 - 60);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width / 2 + 150, box.y + box.height / 2 - 160, { steps: 8 });
  await page.mouse.up();
  await eyes.look(page, "05-mask");
  const keys = async (...names) => {
    for (const name of names) await page.keyboard.press(name);
  };
  await easel.focus();
  await keys("Control+z", "Control+y", "i", "i", "+", "0", "e", "b", "]", "[");
  // Escape, the cross and "Cancel" ask before they throw strokes away
  const window = page.getByRole("dialog", { name: /^Mask of/ });
  const question = page.getByRole("dialog", { name: "Leave without keeping what you have painted?" });
  for (const leave of [
    () => page.keyboard.press("Escape"),
    () => page.keyboard.press("Escape"),
    () => window.locator("header").getByRole("button", { name: "Close" }).click(),
    () => window.getByRole("button", { name: "Cancel" }).click(),
  ]) {
    await leave();
    await question.waitFor();
    await page.keyboard.press("Escape");
    await question.waitFor({ state: "detached" });
  }
  expect(await easel.isVisible(), "a painted mask is not left by mistake");
  await page.getByRole("button", { name: "Keep the mask" }).click();
  await until("the stroke is in the mask", async () => (await share()) > before, 20);
  await page.locator(".photos .photo").first().waitFor();
  await eyes.look(page, "06-photos");
}

/** EQDIFF_BASE names another base than the built-in one: the smallest there is, where only the page is to be checked. */
async function chooseBase() {
  if (!process.env.EQDIFF_BASE) return;
  await page.getByLabel("Another one").check();
  await page.getByLabel("Which base").fill(process.env.EQDIFF_BASE);
}

async function training() {
  await go("train/clock");
  await page.getByLabel("Stable Diffusion 1.4").check();
  await page.getByLabel("By the paper's letter").check();
  await page.getByLabel("Steps", { exact: true }).fill("7");
  await go("photos/clock");
  await page.locator(".photos li").first().waitFor();
  await go("train/clock");
  const chosen = await Promise.all(["Stable Diffusion 1.4", "By the paper's letter"].map((name) => page.getByLabel(name).isChecked()));
  const steps = page.getByLabel("Steps", { exact: true });
  expect(chosen.every(Boolean) && (await steps.inputValue()) === "7", "what was chosen is still so after a way elsewhere");
  await page.getByLabel("The built-in one").check();
  await page.getByLabel("As published").check();
  await chooseBase();
  await steps.fill("20");
  await page.locator("summary", { hasText: "More" }).click();
  await page.getByLabel("Previews").selectOption("3");
  await page.getByLabel("Class images").fill("0");
  await page.getByRole("button", { name: "Train", exact: true }).click();
  await until("the training runs", async () => (await state("train")) === "running", 30);
  await page.locator("path.mean").waitFor({ timeout: 240_000 });
  await page.reload();
  await page.locator("path.mean").waitFor();
  expect(true, "after a reload the curve is there again");

  await server.end("SIGKILL");
  await page.getByText("The program does not answer").waitFor();
  expect(true, "the page says that the server is gone");
  await page.screenshot({ path: `${new URL(".", import.meta.url).pathname}scratch/screens/08-gone.png` });
  await server.start();
  await page.getByText("The program does not answer").waitFor({ state: "hidden" });
  expect(true, "and finds the next one");
  await eyes.look(page, "08-training");
  await until("the training that outlived its server is done", async () => (await state("train")) === "done", 900);
  await page.locator(".previews img").first().waitFor();
  const [adapter] = await server.json("/api/adapters");
  expect(adapter.steps === 20 && adapter.previews.length >= 2, "20 steps are trained, with previews");
  await toastGone();
  await eyes.look(page, "09-trained");
}

async function drawing() {
  await go("train");
  await page.getByRole("link", { name: "Draw with it" }).click();
  await page.getByRole("button", { name: "at the beach" }).waitFor();
  const prompt = page.locator("#prompt");
  await prompt.fill("");
  await page.getByRole("button", { name: "Put in S* clock" }).click();
  await page.getByRole("button", { name: "at the beach" }).click();
  expect((await prompt.inputValue()) === "S* clock at the beach", "words are put in where the cursor is");
  await page.getByLabel("Pictures of each").fill("2");
  await page.getByLabel("Draw the same without the adapter too").check();
  await page.getByLabel("Likeness to the photo", { exact: true }).fill("0.5");
  expect(await page.locator("output", { hasText: "50 %" }).isVisible(), "the dial says how far it is turned");
  await page.getByRole("button", { name: "Draw lots for the seed" }).click();
  await page.locator("summary", { hasText: "More" }).click();
  await page.getByLabel("Steps", { exact: true }).fill("8");
  await page.getByLabel("Edges and texture", { exact: true }).fill("1.5");
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  await page.locator(".toast", { hasText: "It begins" }).waitFor();
  await page.locator(".gallery .picture").first().waitFor();
  await until("both drawings are done", async () => (await page.locator(".gallery .picture").count()) === 4 && (await state("draw")) === "done");
  await page.locator(".gallery .pending").waitFor({ state: "detached" });
  await eyes.look(page, "10-draw");

  await page.getByRole("button", { name: /Show S\* clock/ }).last().click();
  const window = page.getByRole("dialog");
  await window.getByText("Sampler").waitFor();
  await eyes.look(page, "11-picture");
  const [download] = await Promise.all([page.waitForEvent("download"), window.getByRole("link", { name: "Download" }).click()]);
  const png = readFileSync(await download.path());
  const says = ["S* clock at the beach", "S high: 1.5", "Reference strength: 0.5"];
  expect(png.subarray(1, 4).toString() === "PNG" && says.every((words) => png.includes(words)), "the downloaded picture has its prompt and how it was turned");
  await window.getByRole("button", { name: "Compare without the adapter" }).click();
  await page.getByRole("heading", { name: "Side by side" }).waitFor();
  await eyes.look(page, "12-compare");
  await page.keyboard.press("Escape");

  await page.locator(".gallery li").first().hover();
  await page.getByRole("button", { name: /^Star / }).first().click();
  await until("a picture is starred", async () => (await server.json("/api/pictures")).some((picture) => picture.star), 20);
  await page.locator(".gallery li").first().hover();
  await page.locator(".gallery li").first().getByRole("button", { name: /^Delete / }).click();
  await until("a picture is deleted", async () => (await server.json("/api/pictures")).length === 3, 20);
  await page.getByRole("button", { name: "Undo" }).click();
  await until("and comes back with its star", async () => (await server.json("/api/pictures")).filter((p) => p.star).length === 1, 20);
  const zip = Buffer.from(await (await server.fetch("/api/pictures.zip")).arrayBuffer());
  expect(zip.subarray(0, 2).toString() === "PK" && zip.readUInt16LE(zip.length - 12) === 4, "all pictures come in one file");
  await page.locator("#seed").fill("1");
  await page.getByRole("button", { name: "Likeness to the photo: as trained" }).click();
  expect(await page.locator("output", { hasText: "as trained" }).first().isVisible(), "the dial is turned back");
  await page.getByRole("button", { name: /Show S\* clock/ }).last().click();
  await page.getByRole("dialog").getByRole("button", { name: "Reuse" }).click();
  const taken = [await page.locator("#seed").inputValue(), await page.getByLabel("Likeness to the photo", { exact: true }).inputValue()];
  expect(taken[0] !== "1" && taken[1] === "0.5", "a picture's settings are taken over");

  const photo = (n) => page.getByRole("radio", { name: `Photo ${n}`, exact: true });
  const which = page.getByLabel("With", { exact: true });
  await photo(2).check();
  await page.getByLabel("Which pictures").selectOption("without-adapter");
  await page.getByRole("button", { name: /Show S\* clock/ }).first().click();
  await page.getByRole("dialog").getByRole("button", { name: "Reuse" }).click();
  await page.getByLabel("Base", { exact: true }).waitFor();
  const base = await page.getByLabel("Base", { exact: true }).inputValue();
  expect((await which.inputValue()) === "" && base === (process.env.EQDIFF_BASE ?? "mini"), "what the base drew alone is drawn by it again");
  await which.selectOption("clock");
  await photo(1).waitFor();
  expect(await photo(1).isChecked(), "the photo that one adapter looked at is not chosen for the next");
}

async function runs() {
  await go("runs");
  await page.getByRole("button", { name: "Score" }).click();
  await page.getByLabel("Prompts").selectOption("2");
  await eyes.look(page, "13-score");
  await page.getByRole("dialog").getByRole("button", { name: "Score" }).click();
  await until("it is scored", async () => (await state("evaluate")) === "done", 600);
  await page.getByRole("link", { name: /Report/ }).waitFor();
  const [adapter] = await server.json("/api/adapters");
  const report = await server.fetch(adapter.evaluations[0].report);
  expect((await report.text()).includes("DINO-I") && report.headers.get("content-security-policy").startsWith("sandbox"), "the report is there, and may do nothing");
  const layouts = (await server.json("/api/state")).layouts.map(({ name }) => name);
  for (const layout of layouts) {
    await page.getByRole("button", { name: "Export" }).click();
    await page.locator(`input[name=layout][value=${layout}]`).check();
    if (layout === "webui") await eyes.look(page, "14-export");
    await page.getByRole("dialog").getByRole("button", { name: "Export" }).click();
    const exported = async () => (await server.json("/api/adapters"))[0].exports.some((known) => known.layout === layout);
    await until(`it is exported for ${layout}`, async () => (await state("export")) === "done" && (await exported()));
  }
  await offered();
  await page.locator(".exported summary", { hasText: "webui" }).click();
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("link", { name: "eqdiff-clock.safetensors" }).click()]);
  const embedding = readFileSync(await download.path());
  const header = JSON.parse(embedding.subarray(8, 8 + Number(embedding.readBigUInt64LE(0))).toString());
  expect(header["eqdiff-clock"].shape.length === 2, "the exported files can be had: the embedding is one");
  await toastGone();
  await eyes.look(page, "15-runs");
}

/** An embedding alone is no LoRA and no base: the window offers what there can be. */
async function offered() {
  const json = (value) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) });
  const wish = { kind: "train", subject: "clock", base: process.env.EQDIFF_BASE ?? "mini", preset: "ti", steps: 1, previews: 0, crop: false };
  const { jobs: [id] } = await (await server.fetch("/api/jobs", json(wish))).json();
  await until("an embedding is trained", async () => (await server.job("train")).id === id && (await state("train")) === "done");
  await page.getByRole("button", { name: "Export clock-2" }).click();
  const values = await page.locator("input[name=layout]").evaluateAll((inputs) => inputs.map((input) => input.value));
  expect(String(values) === "diffusers,webui", "an adapter is exported to where it can go");
  await page.keyboard.press("Escape");
  // the next adapter is to have that name
  await server.fetch("/api/adapters/clock-2", { method: "DELETE" });
  await server.fetch(`/api/jobs/${id}`, { method: "DELETE" });
  await page.getByRole("button", { name: "Export clock-2" }).waitFor({ state: "detached" });
}

async function faults() {
  await go("train/clock");
  await chooseBase();
  await page.getByLabel("Steps", { exact: true }).fill("4000");
  await page.locator("summary", { hasText: "More" }).click();
  await page.getByLabel("Previews").selectOption("0");
  await page.getByLabel("Class images").fill("0");
  await page.getByRole("button", { name: "Train", exact: true }).click();
  const steps = async () => (await server.json("/api/adapters")).find((adapter) => adapter.name === "clock-2")?.steps ?? 0;
  await until("a long training has begun", async () => (await steps()) >= 1);
  await go("draw");
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  await page.locator(".toast", { hasText: "It waits" }).waitFor();
  const waiting = (await server.json("/api/state")).jobs.filter((job) => job.state === "queued");
  for (const { id } of waiting) await server.fetch(`/api/jobs/${id}`, { method: "DELETE" });
  await go("jobs");
  await page.locator(".job", { hasText: "Train clock-2" }).getByRole("button", { name: "Stop" }).click();
  await until("it is stopped", async () => (await state("train")) === "stopped");
  const saved = await steps();
  await page.getByRole("button", { name: "Go on" }).click();
  await until("it goes on", async () => (await state("train")) === "running", 30);

  const { process: worker } = JSON.parse(readFileSync(`${PLACE}/outputs/ui/journal.json`, "utf8")).jobs.find((job) => job.state === "running");
  await pause(3000);
  process.kill(worker.id, "SIGKILL");
  await until("a job that is killed is marked", async () => (await state("train")) === "died", 30);
  await page.getByText("it ended without a word").first().waitFor();
  await toastGone();
  await eyes.look(page, "16-jobs");
  await page.locator(".job", { hasText: "Train clock-2" }).getByRole("button", { name: "Log" }).click();
  await page.getByRole("log").getByText("Subject: clock").first().waitFor();
  await eyes.look(page, "17-log");
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Go on" }).click();
  await until("and goes on with one click", async () => (await state("train")) === "running", 30);
  await pause(4000);

  expect((await server.end("SIGINT")) === 130, "Ctrl-C ends the server");
  await server.start();
  await until("and the next one has its job go on", async () => (await state("train")) === "running", 30);
  expect((await steps()) >= saved, "no step is lost");
  const id = (await server.job("train")).id;
  await server.fetch(`/api/jobs/${id}/stop`, { method: "POST" });
  await until("it stops for good", async () => (await state("train")) === "stopped");
}

/** From nothing to a picture without a mouse. */
async function keyboard() {
  const page = await eyes.page();
  const press = async (...names) => {
    for (const name of names) await page.keyboard.press(name);
  };
  await page.locator("h1").waitFor();
  await tabTo(page, "New subject");
  await press("Enter");
  await tabTo(page, "Photos");
  await page.keyboard.type("teapot");
  await tabTo(page, "Begin");
  await press("Enter");
  await page.getByRole("heading", { name: "teapot", level: 1 }).waitFor();
  await page.locator(".photos .shade").first().waitFor();
  await tabTo(page, "Correct the mask");
  await press("Enter");
  await page.locator("canvas.easel").waitFor();
  await pause(500);
  await press(" ", "ArrowRight", "ArrowDown", " ");
  await tabTo(page, "Keep the mask");
  await press("Enter");
  await page.getByText("The mask is kept").waitFor();
  await tabTo(page, "Draw");
  await press("Enter");
  await page.getByRole("heading", { name: "Draw", level: 1 }).waitFor();
  await tabTo(page, "Pictures of each");
  await press("Control+a");
  await page.keyboard.type("1");
  await tabTo(page, "Likeness to the photo");
  await press("ArrowLeft", "ArrowLeft");
  const before = (await server.json("/api/pictures")).length;
  await press("Control+Enter");
  await until("the keyboard alone leads to a picture", async () => (await server.json("/api/pictures")).length > before);
  const [newest] = await server.json("/api/pictures");
  expect(newest.settings["Reference strength"] === "0.9", "turned with the arrow keys");
  await tabTo(page, "Runs");
  await press("Enter");
  await page.getByRole("heading", { name: "Runs", level: 1 }).waitFor();
  await tabTo(page, "Score clock");
  await press("Enter");
  await page.getByRole("dialog").waitFor();
  await press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  const focused = await page.evaluate(() => document.activeElement.getAttribute("aria-label"));
  expect(focused?.startsWith("Score clock"), "a window that is closed gives the keyboard back");
  await page.context().close();
}

async function quiet() {
  await page.goto("about:blank");
  await pause(4000);
  expect(server.memory() < 60, `idle it takes ${server.memory().toFixed(0)} MiB`);
  const before = server.time();
  await pause(5000);
  expect(server.time() - before <= 1, `and ${server.time() - before} hundredths of a second in five`);
}

const started = Date.now();
try {
  // all parts, or those that are named: each goes on where the ones before it have left the folder
  const parts = { photos, masks, nothing, training, drawing, runs, faults, keyboard, hostile: () => hostile(server), quiet };
  const named = process.argv.slice(2);
  for (const [name, part] of Object.entries(parts)) if (!named.length || named.includes(name)) await part();
  console.log(`\n${passed()} passed, 0 failed (${((Date.now() - started) / 1000).toFixed(0)} s)`);
} catch (error) {
  await page.screenshot({ path: `${new URL(".", import.meta.url).pathname}scratch/screens/failed.png` }).catch(() => {});
  console.error(`\nFAILED: ${error.stack}`);
  process.exitCode = 1;
} finally {
  await eyes.browser.close();
  await server.end();
}
