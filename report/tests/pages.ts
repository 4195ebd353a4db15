// Pages as the program writes them: the built template filled with a result, opened from a file.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { test as base, expect, type Page } from "@playwright/test";
import { packF32, packU32 } from "../src/bytes";
import type { Diagnosis, Diff, Logits, Payload, SiteView } from "../src/data";

const kHere = dirname(fileURLToPath(import.meta.url));
const kTemplate = join(kHere, "..", "dist", "report.html");
const kOut = join(kHere, "..", "test-results", "pages");

export function writePage(name: string, payload: Payload): string {
  mkdirSync(kOut, { recursive: true });
  const file = join(kOut, `${name}.html`);
  const data = JSON.stringify(payload).replaceAll("<", "\\u003c");
  const text = readFileSync(kTemplate, "utf8");
  writeFileSync(file, text.replace("{{paritrace:title}}", "test").replace("{{paritrace:sentence}}", "test").replace('"{{paritrace:data}}"', () => data));
  return pathToFileURL(file).href;
}

const kRoles = ["in", "attn.norm", "attn.q", "attn.k", "attn.v", "attn.q_rope", "attn.k_rope", "attn.scores", "attn.probs", "attn.ctx", "attn.out", "attn.residual", "mlp.norm", "mlp.gate", "mlp.up", "mlp.act", "mlp.out", "out"];
export const kTokens = ["<s>", " The", " return", "\n", " value", " is", " 値", " 🙂", " a", " list", " of", " names"];

// Numbers that look random and are the same in every run.
function* noise(): Generator<number, never> {
  let state = 1;
  for (;;) yield ((state = (state * 16807) % 2147483647) / 2147483647) * 2 - 1;
}

export function viewOf(heads: number, factor: number): SiteView {
  const random = noise();
  const count = kTokens.length;
  const next = (): number => random.next().value;
  const expected = Array.from({ length: 128 }, next);
  return {
    values: 768,
    tokens: { bin: 1, error: packF32(kTokens.map((_, i) => (i === 0 ? 0 : factor * 1e-6 * i))), floor: packF32(kTokens.map(() => 1e-6)) },
    ...(heads > 0 ? { heads: { count: heads, bin: 1, ratio: packF32(Array.from({ length: heads * count }, (_, i) => (i % count === 0 ? 0 : factor))) } } : {}),
    samples: { rows: packU32(expected.map((_, i) => i % count)), columns: packU32(expected.map((_, i) => i)), reference: packF32(expected), subject: packF32(expected.map((x) => x + factor * 1e-6 * next())), worst: 32 },
    histogram: { low: -1, high: 1, reference: [1, 5, 9, 5, 1], subject: [1, 4, 9, 6, 1], outside: 0 },
  };
}

export interface Made {
  payload: Payload;
  diagnosis: Diagnosis;
}

export function diagnosisPage(layers: number, faulty: string[] = ["attn.q_rope", "attn.k_rope"], steps = 1): Made {
  const sites = ["embed", ...Array.from({ length: layers }, (_, i) => kRoles.map((role) => `layers.${i}.${role}`)).flat(), "final_norm", "logits"];
  const bad = (site: string): boolean => faulty.some((role) => site.endsWith(role));
  const random = noise();
  const defects = sites.filter(bad).map((site) => ({
    side: "subject", step: 0, site, inputs: [site.replace("_rope", "")], ratio: 5120,
    cause: { id: "rope.interleaved", confidence: 0.99, statement: "q and k are turned in neighbouring pairs, the model pairs lanes half a head apart", fix: "turn half-split pairs, or permute the rows when converting" },
    alternatives: [{ id: "linear.permuted", confidence: 0.01 }], where: {},
  }));
  const diagnosis: Diagnosis = {
    schema: "paritrace/diagnosis/1", verdict: defects.length ? "diverged" : "within_noise", arithmetic: "ggml-cpu", defects,
    summary: defects.length ? [{ side: "subject", cause: "rope.interleaved", sites: defects.map((d) => d.site), statement: defects[0]!.cause.statement, fix: defects[0]!.cause.fix }] : [],
    cleared: [{ what: "norms", evidence: "10 sites within noise" }],
    noise: Array.from({ length: steps }, (_, step) => sites.map((site) => ({
      step, site, introduced_nmse: bad(site) ? 1e-4 : 1e-12, floor_nmse: 1e-12, ratio: bad(site) ? 5120 : Math.abs(random.next().value) * 1.05, left_nmse: 0, exact: 0.999, one_ulp: 1, propagated_nmse: 1e-13, values: 768,
    }))).flat(),
    explained: { values: 768 * sites.length, exact: 0.9991, one_ulp: 0.9999 },
    routing: [
      { step: 0, layer: 1, token: 3, reference: [4, 1], subject: [4, 7], margin: 1e-5, error: 4e-5, benign: true },
      { step: 0, layer: 1, token: 5, reference: [0, 2], subject: [6, 2], margin: 0.2, error: 1e-5, benign: false },
    ],
    equivalences: [], remarks: [],
    subject: { engine: { name: "llama.cpp" }, run: { tokens: [kTokens.map((_, i) => i)], steps: [{ step: 0, start: 0, count: kTokens.length }] } },
  };
  const views: Record<string, SiteView> = {};
  for (const site of sites.slice(0, 400)) views[site] = viewOf(site.includes("attn.") ? 4 : 0, bad(site) ? 5120 : 0.9);
  return {
    diagnosis,
    payload: {
      page: {
        command: "diagnose", title: "paritrace diagnose", tone: defects.length ? "bad" : "good", version: "0.0", facts: [["subject", "llama.cpp"]], remarks: ["A remark."], sections: [],
        sentence: defects.length ? `Diverged: rope.interleaved at attn.q_rope and attn.k_rope of layers 0-${layers - 1}.` : "Within noise: ggml-cpu's rounding explains every recorded site.",
        markdown: "**Diverged**\n", tokens: kTokens,
      },
      result: diagnosis,
      views: { sites: views, reference_label: "replay in f64", subject_label: "recorded" },
    },
  };
}

export function diffPage(count: number): Payload {
  const layers = Math.ceil(count / kRoles.length);
  const names = Array.from({ length: layers }, (_, i) => kRoles.map((role) => `layers.${i}.${role}`)).flat().slice(0, count);
  const from = Math.floor(count / 2);
  const positions = { nmse: packF32(kTokens.map((_, i) => i * 1e-6)), max_abs: packF32(kTokens.map((_, i) => i * 1e-3)), bin: 1 };
  const diff: Diff = {
    schema: "paritrace/diff/1", verdict: "diverged", reference: {}, subject: { run: { tokens: [kTokens.map((_, i) => i)] } },
    first_divergence: { step: 0, site: names[from]!, position: 3 }, counts: { within_noise: from, diverged: count - from, total: count },
    sites: names.map((site, i) => ({
      step: 0, site, shape: [12, 64], status: i < from ? "within_noise" : "diverged", max_abs: 0.1, max_abs_at: [1, 2], mean_abs: 0.01, rms_reference: 1, rms_subject: 1, cosine: 0.99,
      nmse: i < from ? 1e-13 : 1e-5, allowed_nmse: 1e-12, first_position: 0, positions,
    })),
  };
  return {
    page: { command: "diff", title: "paritrace diff", tone: "bad", version: "0.0", facts: [], remarks: [], sections: [], sentence: `Diverged from ${names[from]} on, at position 3.`, markdown: "**Diverged**\n", tokens: kTokens },
    result: diff,
  };
}

export function logitsPage(): Payload {
  const best = (shift: number) => Array.from({ length: 5 }, (_, i) => ({ id: i + shift, text: kTokens[i + shift]!, logit: 9 - i, probability: 0.5 / (i + 1) }));
  const logits: Logits = {
    schema: "paritrace/logits/1", verdict: "diverged", first_divergence: { step: 0, position: 2 },
    positions: kTokens.map((text, position) => ({
      step: 0, position, cosine: 0.999, max_abs: 1e-3 * (position + 1), kl_reference_subject: 1e-6 * (position + 1), top_reference: { id: position, text }, top_subject: { id: position === 4 ? 5 : position, text: kTokens[position === 4 ? 5 : position]! },
      rank_in_subject: position === 4 ? 2 : 1, margin_reference: 0.1, margin_to_flip: 0, noise: 1e-4, status: position < 2 ? "within_noise" : "diverged", greedy_differs: position === 4, benign_tie: false, best_reference: best(0), best_subject: best(1),
    })),
  };
  return { page: { command: "logits", title: "paritrace logits", tone: "bad", version: "0.0", facts: [["mean KL", "1e-5 nats"]], remarks: [], sections: [], sentence: "Diverged from position 2 on.", markdown: "**Diverged**\n" }, result: logits };
}

// Every test watches that the page asks for nothing and throws nothing.
export const test = base.extend<{ quiet: void }>({
  quiet: [async ({ page }, use) => {
    const noise: string[] = [];
    let opened = false;
    page.on("request", (request) => {
      if (request.isNavigationRequest() && request.url().startsWith("file:")) opened = true;
      else noise.push(`request ${request.url().slice(0, 80)}`);
    });
    page.on("pageerror", (error) => noise.push(`error ${error.message}`));
    page.on("console", (message) => message.type() === "error" && noise.push(`console ${message.text()}`));
    await use();
    expect(noise).toEqual([]);
    expect(opened).toBe(true);
  }, { auto: true }],
});
export { expect };

// The canvas centre of a site's cell cannot be asked from outside; the map says what is under the pointer.
export async function mapSite(page: Page, x: number, y: number): Promise<string> {
  const box = (await page.locator(".map canvas").boundingBox())!;
  await page.mouse.move(box.x + x, box.y + y);
  return (await page.locator(".map .says").textContent()) ?? "";
}
