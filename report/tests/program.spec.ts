// Pages that the program itself wrote (tests/python/test_report_html.py makes them): PARITRACE_PAGES names their folder.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import type { Diagnosis } from "../src/data";
import { expect, test } from "./pages";

const kFolder = process.env["PARITRACE_PAGES"] ?? "";
const kPages = readdirSync(kFolder).filter((name) => name.endsWith(".html"));

test("there are pages", async ({ page }) => {
  expect(kPages.length).toBeGreaterThan(0);
  await page.goto(pathToFileURL(join(kFolder, kPages[0]!)).href);
});

for (const name of kPages) {
  test(`${name} says what its JSON says, in every view`, async ({ page }) => {
    const json = JSON.parse(readFileSync(join(kFolder, name.replace(".html", ".json")), "utf8"));
    await page.goto(pathToFileURL(join(kFolder, name)).href);
    await expect(page.locator("h1")).toHaveClass({ identical: "good", within_noise: "good", diverged: "bad", incomparable: "odd" }[json.verdict as string]!);
    const tabs = await page.getByRole("tab").all();
    expect(tabs.length).toBeGreaterThan(0);
    if (json.schema.startsWith("paritrace/diagnosis/")) {
      const diagnosis = json as Diagnosis;
      await expect(page.locator("article.cause:not(.harmless)")).toHaveCount(diagnosis.summary.length);
      for (const group of diagnosis.summary) await expect(page.locator("article.cause").filter({ hasText: group.cause }).first()).toContainText(group.fix, { ignoreCase: true });
      await expect(page.locator(".count")).toHaveText(`${new Set(diagnosis.noise.map((row) => row.site)).size} sites`);
      // Where a defect is blamed its evidence must be there: values, positions.
      if (diagnosis.defects.length > 0) {
        await page.getByRole("tab", { name: "Values" }).click();
        await expect(page.locator("[role=tabpanel] tbody tr").first()).toBeVisible();
        await page.getByRole("tab", { name: "By position" }).click();
        await expect(page.locator(".token").first()).toBeVisible();
      }
    }
    if (json.schema.startsWith("paritrace/diff/")) await expect(page.locator(".count")).toHaveText(`${new Set(json.sites.map((site: { site: string }) => site.site)).size} sites`);
    if (json.schema.startsWith("paritrace/logits/")) await expect(page.locator(".ranked")).toHaveCount(2);
    for (const tab of tabs) {
      await tab.click();
      await expect(page.locator("[role=tabpanel]")).not.toBeEmpty();
    }
  });
}
