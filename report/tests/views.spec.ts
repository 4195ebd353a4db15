// Every view, and the selection that links them.
import type { Diff } from "../src/data";
import { diagnosisPage, diffPage, expect, kTokens, logitsPage, mapSite, test, viewOf, writePage } from "./pages";

test("the first screen says what is wrong, where, and what to do", async ({ page }) => {
  await page.goto(writePage("diagnosis", diagnosisPage(5).payload));
  await expect(page.locator("h1")).toHaveText("Diverged: rope.interleaved at attn.q_rope and attn.k_rope of layers 0-4.");
  const cause = page.locator("article.cause");
  await expect(cause).toContainText("rope.interleaved");
  await expect(cause).toContainText("attn.q_rope, attn.k_rope of layers 0-4");
  await expect(cause).toContainText("Turn half-split pairs");
  for (const part of [page.locator("h1"), cause, page.locator(".map canvas"), page.locator(".legend")]) {
    const box = (await part.boundingBox())!;
    expect(box.y + box.height).toBeLessThanOrEqual(800);
  }
});

test("a clean run says so", async ({ page }) => {
  await page.goto(writePage("clean", diagnosisPage(3, []).payload));
  await expect(page.locator("h1")).toHaveClass("good");
  await expect(page.locator("article.cause.harmless")).toContainText("Nothing is wrong");
  await expect(page.locator(".site.marked")).toHaveCount(0);
});

test("what could not be judged is not called right", async ({ page }) => {
  const { payload, diagnosis } = diagnosisPage(3, []);
  diagnosis.verdict = "incomparable";
  diagnosis.noise = [];
  payload.page.tone = "odd";
  payload.page.sentence = "Nothing to compare: other tokens.";
  await page.goto(writePage("incomparable", payload));
  await expect(page.locator("h1")).toHaveClass("odd");
  await expect(page.locator("body")).not.toContainText("Nothing is wrong");
});

test("a click in the map selects everywhere, and the link brings it back", async ({ page }) => {
  const url = writePage("diagnosis", diagnosisPage(5).payload);
  await page.goto(url);
  const box = (await page.locator(".map canvas").boundingBox())!;
  let said = "";
  let at = [0, 0];
  for (let y = box.height - 60; y > 0 && !said.startsWith("layers.2.mlp.up"); y -= 10) {
    for (let x = 60; x < box.width && !said.startsWith("layers.2.mlp.up"); x += 16) {
      said = await mapSite(page, x, y);
      at = [x, y];
    }
  }
  expect(said).toMatch(/^layers\.2\.mlp\.up: error over noise floor /);
  await page.mouse.click(box.x + at[0]!, box.y + at[1]!);
  await expect(page.locator("#detail h2")).toContainText("layers.2.mlp.up");
  await expect(page.locator(".site[aria-selected=true]")).toContainText("layers.2.mlp.up");
  await page.getByRole("tab", { name: "By position" }).click();
  await page.locator(".token").nth(4).click();
  expect(page.url()).toContain("site=layers.2.mlp.up");
  expect(page.url()).toContain("view=positions");
  expect(page.url()).toContain("position=4");
  await page.goto("about:blank").catch(() => {});
  await page.goto(`${url}#view=values&site=layers.3.attn.k&position=2`);
  await expect(page.getByRole("tab", { name: "Values" })).toHaveAttribute("aria-selected", "true");
  await expect(page.locator("#detail h2")).toContainText("layers.3.attn.k");
  await expect(page.locator("[role=tabpanel]")).toContainText("Position 2 only");
});

test("keys move through sites and through what is blamed", async ({ page }) => {
  await page.goto(writePage("diagnosis", diagnosisPage(5).payload));
  const chosen = page.locator("#detail h2");
  await expect(chosen).toContainText("layers.0.attn.q_rope");
  await page.keyboard.press("n");
  await expect(chosen).toContainText("layers.0.attn.k_rope");
  await page.keyboard.press("n");
  await expect(chosen).toContainText("layers.1.attn.q_rope");
  await page.keyboard.press("p");
  await expect(chosen).toContainText("layers.0.attn.k_rope");
  await page.keyboard.press("j");
  await expect(chosen).toContainText("layers.0.attn.scores");
  await page.locator(".map canvas").focus();
  await page.keyboard.press("ArrowDown");
  await expect(chosen).toContainText("layers.1.attn.scores");
  await page.keyboard.press("ArrowLeft");
  await expect(chosen).toContainText("layers.1.attn.k_rope");
  await page.keyboard.press("?");
  await expect(page.getByRole("dialog")).toBeVisible();
});

test("search finds a site and selects it", async ({ page }) => {
  await page.goto(writePage("diagnosis", diagnosisPage(22).payload));
  await page.keyboard.press("/");
  await expect(page.locator("#search")).toBeFocused();
  await page.keyboard.type("13 k_rope");
  await expect(page.locator(".site")).toHaveCount(1);
  await expect(page.locator(".count")).toHaveText(/^1 of \d+$/);
  await page.keyboard.press("Enter");
  await expect(page.locator("#detail h2")).toContainText("layers.13.attn.k_rope");
  await page.keyboard.press("/");
  await page.keyboard.press("Escape");
  await expect(page.locator(".count")).toHaveText(/^\d+ sites$/);
});

test("each view of a diagnosis shows its evidence", async ({ page }) => {
  await page.goto(writePage("diagnosis", diagnosisPage(5).payload));
  const panel = page.locator("[role=tabpanel]");
  await expect(panel.locator(".uplot canvas")).toBeVisible();
  await expect(panel).toContainText("noise floor");
  await page.getByRole("tab", { name: "By position" }).click();
  await expect(panel.locator(".token")).toHaveCount(kTokens.length);
  await expect(panel.locator(".token").nth(3)).toHaveText("\\n");
  await expect(panel.locator(".uplot canvas")).toBeVisible();
  const tint = (i: number) => panel.locator(".token").nth(i).evaluate((e) => getComputedStyle(e).backgroundColor);
  expect(await tint(0)).not.toBe(await tint(5));
  await page.getByRole("tab", { name: "Values" }).click();
  await expect(panel).toContainText("A sample: 128 of 768 values, the 32 largest errors");
  await expect(panel.locator(".uplot")).toHaveCount(2);
  await expect(panel.locator("tbody tr").nth(10)).toBeAttached();
  await page.getByRole("tab", { name: "Heads" }).click();
  await panel.locator("canvas").focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowDown");
  await expect(panel.locator(".says")).toContainText("head 1, position 1: error 5.1e3 times its noise floor");
  await page.getByRole("tab", { name: "Expert routing (2)" }).click();
  await expect(panel).toContainText("2 changed choices: 1 benign");
  await expect(panel.locator("tr.marked")).toContainText("not explained");
});

test("a site without heads or views says so", async ({ page }) => {
  const { payload } = diagnosisPage(2);
  delete payload.views;
  await page.goto(`${writePage("no-views", payload)}#view=heads&site=logits`);
  await expect(page.locator("[role=tabpanel]")).toContainText("not split into heads");
  await page.getByRole("tab", { name: "Values" }).click();
  await expect(page.locator("[role=tabpanel]")).toContainText("No values were kept");
});

test("a diff whose trace tells its heads shows them, any other has no such tab", async ({ page }) => {
  const payload = diffPage(40);
  await page.goto(writePage("diff-no-heads", payload));
  await expect(page.getByRole("tab", { name: "Values" })).toBeVisible();
  await expect(page.getByRole("tab", { name: "Heads" })).toHaveCount(0);
  const { site, step } = (payload.result as Diff).sites[3]!;
  payload.views = { reference_label: "reference", subject_label: "subject", sites: { [`${step}/${site}`]: viewOf(2, 7) } };
  await page.goto(`${writePage("diff-heads", payload)}#view=heads&site=${site}`);
  const panel = page.locator("[role=tabpanel]");
  await panel.locator("canvas").focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowDown");
  await expect(panel.locator(".says")).toContainText("head 1, position 1: error 7.00 times what rounding explains at this site");
  await page.getByRole("tab", { name: "Values" }).click();
  await expect(panel).toContainText("All values");
});

test("decode steps can be told apart in the map", async ({ page }) => {
  await page.goto(writePage("steps", diagnosisPage(2, ["attn.q_rope"], 3).payload));
  await page.locator(".map select").selectOption("2");
  expect(page.url()).toContain("step=2");
  await expect(page.locator("#detail h2")).toContainText("step 2");
});

test("a diff shows the first divergence and positions", async ({ page }) => {
  await page.goto(writePage("diff", diffPage(90)));
  await expect(page.locator("article.cause")).toContainText("First divergence");
  await expect(page.locator("#detail h2")).toContainText("first divergence");
  await page.getByRole("tab", { name: "By position" }).click();
  await expect(page.locator(".token")).toHaveCount(kTokens.length);
});

test("logits show both sides' best tokens where one clicks", async ({ page }) => {
  await page.goto(writePage("logits", logitsPage()));
  await expect(page.locator("h3", { hasText: "Position 2" })).toBeVisible();
  await page.locator(".token", { hasText: "→" }).click();
  await expect(page.locator("h3", { hasText: "Position 4" })).toBeVisible();
  await expect(page.locator(".ranked")).toHaveCount(2);
  await expect(page.locator(".ranked").first()).toContainText("not among the other's");
});

test("growth shows lines and what they are worth; an unknown command shows its tables", async ({ page }) => {
  const { page: around } = logitsPage();
  const points = [0, 1, 2, 3, 4, 5].map((layer) => ({ layer, error: 1e-6 * 2 ** layer }));
  const growth = { schema: "paritrace/growth/1", verdict: "diverged", by_layer: { site: "layers.*.out", points, slope_decades: 0.301, p_value: 0.002, enough: true, trend: true }, by_position: { site: "logits", points: [], slope_decades: 0, p_value: 1, enough: false, trend: false } };
  await page.goto(writePage("growth", { page: { ...around, command: "growth" }, result: growth }));
  await expect(page.locator("[role=tabpanel]")).toContainText("times 2 a layer, p = 0.002");
  await expect(page.locator(".uplot")).toHaveCount(1);
  const sections = [{ heading: "runs", columns: [{ heading: "run", text: true }, { heading: "error", text: false }], rows: [["a <b>", "1"], ["c", "2"]], marked: [1] }];
  await page.goto(writePage("sweep", { page: { ...around, command: "sweep", sections }, result: { schema: "paritrace/sweep/1" } }));
  await expect(page.locator("tr.marked")).toHaveText("c2");
  await expect(page.locator("tbody td").first()).toHaveText("a <b>");
});

test("copies Markdown with the selected site", async ({ page, context }) => {
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.goto(`${writePage("diagnosis", diagnosisPage(5).payload)}#site=layers.1.attn.k_rope`);
  await page.getByRole("button", { name: "Copy as Markdown" }).click();
  await expect(page.locator(".copied")).toHaveText("copied");
  const text = await page.evaluate(() => navigator.clipboard.readText());
  expect(text).toContain("**Diverged**");
  expect(text).toContain("### `layers.1.attn.k_rope`");
  expect(text).toContain("| 0 | 0.01 | 1.00e-6 | 5.1e3 | blamed |");
});
