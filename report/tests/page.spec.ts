// What holds for every page: dark and light, small screens, size, accessibility, nothing loaded, nothing executed from names.
import { readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { packF32, packU32 } from "../src/bytes";
import type { NoiseRow } from "../src/data";
import { diagnosisPage, diffPage, expect, logitsPage, test, writePage } from "./pages";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

test("follows the system's dark mode, and the reader's own choice", async ({ page }) => {
  await page.emulateMedia({ colorScheme: "dark" });
  await page.goto(writePage("diagnosis", diagnosisPage(5).payload));
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const cell = () => page.evaluate(() => {
    const canvas = document.querySelector<HTMLCanvasElement>(".map canvas")!;
    return [...canvas.getContext("2d")!.getImageData(4, 4, 1, 1).data].join();
  });
  expect(await paper()).toBe("rgb(15, 20, 25)");
  const dark = await cell();
  await page.keyboard.press("t");
  expect(await paper()).toBe("rgb(255, 255, 255)");
  expect(await cell()).not.toBe(dark);
  await page.reload();
  expect(await paper()).toBe("rgb(255, 255, 255)");
  await page.emulateMedia({ colorScheme: "light" });
  expect(await paper()).toBe("rgb(255, 255, 255)");
});

const kPages = {
  diagnosis: () => diagnosisPage(22).payload,
  diff: () => diffPage(90),
  logits: logitsPage,
};
for (const [name, make] of Object.entries(kPages)) {
  for (const colorScheme of ["light", "dark"] as const) {
    for (const width of [1280, 400]) {
      test(`${name}, ${colorScheme}, ${width} px: fits and is accessible in every view`, async ({ page }) => {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize({ width, height: 800 });
        await page.goto(writePage(`${name}-${colorScheme}-${width}`, make()));
        const count = await page.getByRole("tab").count();
        for (let i = 0; i < count; ++i) {
          await page.getByRole("tab").nth(i).click();
          expect(await page.evaluate(() => document.scrollingElement!.scrollWidth)).toBeLessThanOrEqual(width);
          await page.evaluate(axe);
          const found = await page.evaluate(async () => {
            const run = (window as unknown as { axe: { run: (o: object) => Promise<{ violations: { id: string; impact: string; nodes: { html: string; failureSummary: string }[] }[] }> } }).axe.run;
            return (await run({})).violations.map((v) => `${v.impact} ${v.id}: ${v.nodes[0]!.html.slice(0, 120)} ${v.nodes[0]!.failureSummary.slice(0, 300)}`);
          });
          expect(found).toEqual([]);
        }
      });
    }
  }
}

test("ten thousand sites open in under a second and scroll smoothly", async ({ page }) => {
  const url = writePage("ten-thousand", diffPage(10_000));
  const times: number[] = [];
  // The machine may be busy with something else: the best of three is what the page takes.
  for (let i = 0; i < 3; ++i) {
    await page.goto("about:blank");
    await page.goto(url);
    await page.locator(".site").first().waitFor();
    times.push(await page.evaluate(() => new Promise<number>((done) => requestAnimationFrame(() => done(performance.now())))));
  }
  console.log(`10,000 sites: ${times.map((t) => t.toFixed(0)).join(", ")} ms`);
  expect(Math.min(...times)).toBeLessThan(1000);
  expect(await page.locator(".site").count()).toBeLessThan(80);
  const frames = await page.evaluate(async () => {
    const list = document.querySelector(".list")!;
    const spent: number[] = [];
    for (let i = 0; i < 60; ++i) {
      const started = performance.now();
      list.scrollTop += 1500;
      await new Promise((done) => requestAnimationFrame(done));
      spent.push(performance.now() - started);
    }
    return spent.sort((a, b) => a - b);
  });
  console.log(`scrolling: median frame ${frames[30]!.toFixed(1)} ms, 90 % ${frames[54]!.toFixed(1)} ms`);
  expect(frames[30]!).toBeLessThan(34);
  await expect(page.locator(".site").first()).not.toContainText("layers.0.in");
});

test("a run of 256 steps, its noise packed, opens and scrolls", async ({ page }) => {
  const { payload, diagnosis } = diagnosisPage(22, ["attn.q_rope"], 1);
  const sites = diagnosis.noise.map((row) => row.site);
  const steps = 256;
  const column = (of: (row: NoiseRow) => number) => packF32(Array.from({ length: steps * sites.length }, (_, i) => of(diagnosis.noise[i % sites.length]!)));
  const whole = (of: (i: number) => number) => packU32(Array.from({ length: steps * sites.length }, (_, i) => of(i)));
  (diagnosis as { noise: unknown }).noise = {
    sites, site: whole((i) => i % sites.length), step: whole((i) => Math.floor(i / sites.length)), values: whole(() => 768), judged: whole(() => 1),
    introduced_nmse: column((r) => r.introduced_nmse!), floor_nmse: column((r) => r.floor_nmse!), ratio: column((r) => r.ratio!), left_nmse: column(() => 0),
    exact: column(() => 1), one_ulp: column(() => 1), propagated_nmse: column(() => 0),
  };
  await page.goto(writePage("steps-256", payload));
  await expect(page.locator(".count")).toHaveText(`${sites.length} sites`);
  await expect(page.locator("#detail h2")).toContainText("layers.0.attn.q_rope");
  await page.locator(".list").focus();
  await page.keyboard.press("End");
  await expect(page.locator(".site").last()).toContainText("logits");
  await expect(page.locator("#detail h2")).toContainText("logits");
  await page.locator(".map select").selectOption("255");
  await expect(page.locator("#detail h2")).toContainText("logits step 255");
});

test("names that look like markup stay text", async ({ page }) => {
  const evil = '</script><img src="http://example.invalid/x" onerror="window.hit=1">';
  const { payload, diagnosis } = diagnosisPage(2);
  diagnosis.noise[3]!.site = evil;
  diagnosis.defects[0]!.site = evil;
  diagnosis.summary[0]!.sites[0] = evil;
  diagnosis.summary[0]!.statement = evil;
  payload.page.sentence = evil;
  payload.page.tokens = [evil];
  for (const view of ["depth", "positions", "values"]) {
    await page.goto(`${writePage("evil", payload)}#site=${encodeURIComponent(evil)}&view=${view}`);
    await expect(page.locator("h1")).toHaveText(evil);
    expect(await page.evaluate(() => "hit" in window)).toBe(false);
    await expect(page.locator("img")).toHaveCount(0);
  }
});

test("an unfilled template and a truncated page say so", async ({ page }) => {
  await page.goto(new URL("../dist/report.html", import.meta.url).href);
  await expect(page.locator("h1")).toContainText("This page cannot be shown");
});

test("the page itself is small", async ({ page }) => {
  await page.goto(writePage("logits", logitsPage()));
  expect(statSync(fileURLToPath(new URL("../dist/report.html", import.meta.url))).size).toBeLessThan(250_000);
});
