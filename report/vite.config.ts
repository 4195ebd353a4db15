/// <reference types="vitest/config" />
import { defineConfig } from "vite";
import { viteSingleFile } from "vite-plugin-singlefile";

// One file, report.html: the program fills in the data (src/report/page.cc) and writes it as it is.
export default defineConfig({
  plugins: [viteSingleFile({ removeViteModuleLoader: true })],
  esbuild: { charset: "ascii" }, // it becomes a C++ literal, which may be cut anywhere
  build: {
    target: "es2022",
    outDir: "dist",
    rollupOptions: { input: "report.html" },
  },
  test: { include: ["src/**/*.test.ts"], reporters: ["default", ["junit", { outputFile: "../build/test-reports/report-unit.xml" }]] },
});
