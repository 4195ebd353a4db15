import { existsSync } from "node:fs";
import { defineConfig } from "@playwright/test";

// Debian's browser: Playwright's own would have to be downloaded. CHROMIUM names another one.
const chromium = process.env["CHROMIUM"] ?? ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync) ?? "/usr/bin/chromium";

export default defineConfig({
  testDir: "tests",
  testMatch: process.env["PARITRACE_PAGES"] ? "program.spec.ts" : /(?<!program)\.spec\.ts$/,
  outputDir: "test-results",
  workers: 1, // times are measured
  timeout: 60_000,
  reporter: [["list"], ["junit", { outputFile: "../build/test-reports/report-pages.xml" }]],
  use: {
    viewport: { width: 1280, height: 800 },
    colorScheme: "light",
    // Root, as in containers, may not use the sandbox; the pages are our own.
    launchOptions: { executablePath: chromium, args: ["--no-sandbox", "--disable-gpu"] },
  },
});
