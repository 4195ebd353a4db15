import { describe, expect, it } from "vitest";
import { packF32, packU32, unpackF32, unpackU32 } from "./bytes";
import { contrast, kShades, kUnknown, luminance, shadeOf } from "./colour";
import type { Diagnosis, Diff, NoiseRow } from "./data";
import { unpackNoise } from "./noise";
import { positionsOfDiff, ratiosOf } from "./errors";
import { numberText, percentText, rangesText, ratioText, visibleText } from "./format";
import { placeCells } from "./picture";
import { cellsOfDiagnosis, cellsOfDiff, cellsOfStep, describeSites, filterSites, layOut, splitSite } from "./sites";
import { fromHash, toHash } from "./state";

const row = (site: string, ratio: number | null, more: Partial<NoiseRow> = {}): NoiseRow => ({
  step: 0, site, introduced_nmse: 1e-6, floor_nmse: 1e-6, ratio, left_nmse: 0, exact: 1, one_ulp: 1, propagated_nmse: 0, values: 8, ...more,
});
const diagnosisOf = (noise: NoiseRow[], faulty: string[] = [], side = "subject"): Diagnosis =>
  ({
    schema: "paritrace/diagnosis/1", verdict: "diverged", arithmetic: "f32", summary: [], cleared: [], routing: [], equivalences: [], noise,
    explained: { values: 8, exact: 1, one_ulp: 1 },
    defects: faulty.map((site) => ({ side, step: 0, site, inputs: [], ratio: 2, cause: { id: "unknown", confidence: 0, statement: "", fix: "" }, alternatives: [], where: {} })),
  }) as Diagnosis;

describe("numbers", () => {
  it.each([[0, "0"], [0.978, "0.98"], [34.4, "34.4"], [512, "512"], [5120, "5.1e3"], [Infinity, "inf"], [null, "?"], [0.0001, "1.0e-4"]])("ratio %s is %s", (ratio, text) => {
    expect(ratioText(ratio)).toBe(text);
  });
  it.each([[NaN, "nan"], [-Infinity, "-inf"], [0, "0"], [1.23456e-9, "1.23e-9"], [undefined, "-"], [123456, "1.23e5"]])("number %s is %s", (value, text) => {
    expect(numberText(value)).toBe(text);
  });
  it("never rounds a share up to all", () => {
    expect(percentText(0.999999)).toBe("99.99 %");
    expect(percentText(1)).toBe("100 %");
    expect(percentText(null)).toBe("-");
  });
  it("writes ranges", () => expect(rangesText([0, 1, 2, 5, 6, 9])).toBe("0-2, 5, 6, 9"));
  it("shows what cannot be seen", () => expect(visibleText("a\n\u202eb\u0000")).toBe("a\\n·b·"));
});

describe("packed arrays", () => {
  it("come back with NaN, infinities and both zeros", () => {
    const back = unpackF32(packF32([1.5, NaN, Infinity, -0, 1e-40]));
    expect(Object.is(back[3], -0)).toBe(true);
    expect([...back]).toEqual([1.5, NaN, Infinity, -0, Math.fround(1e-40)]);
    expect([...unpackU32(packU32([0, 1, 4294967295]))]).toEqual([0, 1, 4294967295]);
  });
  it("have the byte order the program writes", () => expect(packF32([1])).toBe("AACAPw=="));
});

describe("colours", () => {
  it.each(["light", "dark"] as const)("are legible and ordered by lightness in %s", (theme) => {
    for (const shade of [...kShades, kUnknown]) expect(contrast(shade.fill[theme], shade.ink[theme]), shade.label).toBeGreaterThanOrEqual(4.5);
    const steps = kShades.map((shade) => luminance(shade.fill[theme]));
    const sorted = [...steps].sort((a, b) => (theme === "light" ? b - a : a - b));
    expect(steps).toEqual(sorted);
  });
  it("never calls what is not known good", () => {
    expect(shadeOf(NaN)).toBe(kUnknown);
    expect(shadeOf(null)).toBe(kUnknown);
    expect(shadeOf(Infinity)).toBe(kShades.at(-1));
    expect(shadeOf(1)).toBe(kShades[1]);
    expect(shadeOf(1.0001)).toBe(kShades[2]);
  });
});

describe("sites", () => {
  it.each([["layers.12.attn.q_rope", 12, "attn.q_rope"], ["logits", null, "logits"], ["model.layers.3.mlp.up", 3, "model.layers.*.mlp.up"], ["blk.0.attn_q", 0, "blk.*.attn_q"]])("%s", (site, layer, role) => {
    expect(splitSite(site)).toEqual([layer, role]);
  });
  it("marks the subject's defects only, also below the noise", () => {
    const noise = [row("layers.0.mlp.act", 1.007), row("layers.1.mlp.act", 1.007)];
    expect(cellsOfDiagnosis(diagnosisOf(noise, ["layers.1.mlp.act"])).map((cell) => cell.marked)).toEqual([false, true]);
    expect(cellsOfDiagnosis(diagnosisOf(noise, ["layers.1.mlp.act"], "reference")).some((cell) => cell.marked)).toBe(false);
  });
  it("reads null beside nonfinite as infinite, and what was not judged as unknown", () => {
    const cells = cellsOfDiagnosis(diagnosisOf([row("a", null, { nonfinite: true }), row("b", 0, { judged: false })]));
    expect(cells.map((cell) => cell.ratio)).toEqual([Infinity, null]);
  });
  it("takes the worst step of a site, the blamed one before all", () => {
    const cells = cellsOfDiagnosis(diagnosisOf([row("a", 1), row("a", 3, { step: 1 }), row("a", null, { step: 2, judged: false })]));
    expect(cellsOfStep(cells, null).map((cell) => cell.step)).toEqual([1]);
    expect(cellsOfStep(cells, 0).map((cell) => cell.ratio)).toEqual([1]);
  });
  it("finds words in any order, numbers whole", () => {
    const cells = cellsOfDiagnosis(diagnosisOf([row("layers.3.attn.q_rope", 1), row("layers.13.attn.q_rope", 1), row("logits", 1)]));
    expect(filterSites(cells, "rope 3").map((cell) => cell.site)).toEqual(["layers.3.attn.q_rope"]);
    expect(filterSites(cells, "").length).toBe(3);
    expect(filterSites(cells, "(").length).toBe(0);
  });
  it("names many sites in one phrase", () => {
    expect(describeSites([0, 1, 2].flatMap((i) => [`layers.${i}.attn.q_rope`, `layers.${i}.attn.k_rope`]))).toBe("attn.q_rope, attn.k_rope of layers 0-2");
    expect(describeSites(["logits"])).toBe("logits");
  });
  it("counts a diff's unmeasured difference as more than any number", () => {
    const site = { step: 0, site: "x", shape: [1], max_abs: null, max_abs_at: null, mean_abs: null, rms_reference: 1, rms_subject: 1, cosine: null };
    const diff = { sites: [{ ...site, status: "diverged", nmse: null, nonfinite: true }, { ...site, status: "missing_in_subject", nmse: null }, { ...site, status: "within_noise", nmse: 4e-12, allowed_nmse: 1e-12 }], first_divergence: { step: 0, site: "x", position: 0 } } as unknown as Diff;
    expect(cellsOfDiff(diff).map((cell) => cell.ratio)).toEqual([Infinity, null, 2]);
  });
});

describe("packed noise", () => {
  it("comes back as the rows of the JSON", () => {
    const packed = {
      sites: ["embed", "logits"], site: packU32([0, 1, 1]), step: packU32([0, 0, 5]), values: packU32([8, 9, 9]), judged: packU32([1, 1, 0]),
      introduced_nmse: packF32([0.25, Infinity, 0]), floor_nmse: packF32([1, 1, 0]), ratio: packF32([0.5, Infinity, 0]), left_nmse: packF32([0, NaN, 0]),
      exact: packF32([1, 0, 1]), one_ulp: packF32([1, 0, 1]), propagated_nmse: packF32([0, 0, 0]),
    };
    const rows = unpackNoise(packed);
    expect(rows[0]).toEqual({ step: 0, site: "embed", introduced_nmse: 0.25, floor_nmse: 1, ratio: 0.5, left_nmse: 0, exact: 1, one_ulp: 1, propagated_nmse: 0, values: 8 });
    expect(rows[1]).toMatchObject({ site: "logits", introduced_nmse: null, ratio: null, left_nmse: null, nonfinite: true });
    expect(rows[2]).toMatchObject({ step: 5, judged: false });
    expect(cellsOfDiagnosis(diagnosisOf(rows)).map((cell) => cell.ratio)).toEqual([0.5, Infinity, null]);
    expect(unpackNoise([row("a", 1)])).toEqual([row("a", 1)]);
  });
});

describe("the map", () => {
  const noise = [row("embed", 1), ...[0, 1].flatMap((i) => ["in", "attn.q"].map((role) => row(`layers.${i}.${role}`, 1))), row("logits", 1)];
  it("keeps the order of execution around the grid", () => {
    const layout = layOut(cellsOfDiagnosis(diagnosisOf(noise)));
    expect(layout.before.map((cell) => cell.site)).toEqual(["embed"]);
    expect(layout.after.map((cell) => cell.site)).toEqual(["logits"]);
    expect([layout.roles, layout.layers]).toEqual([["in", "attn.q"], [0, 1]]);
  });
  it("gives every cell a box, and no two the same place", () => {
    for (const width of [360, 1200]) {
      const boxes = placeCells(layOut(cellsOfDiagnosis(diagnosisOf(noise))), width, (text) => 6 * text.length).boxes;
      expect(boxes.length).toBe(noise.length);
      for (const a of boxes) for (const b of boxes) if (a !== b) expect(a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height).toBe(false);
    }
  });
  it("lays names without a pattern out as a strip", () => {
    const many = Array.from({ length: 300 }, (_, i) => row(`tensor_${String.fromCharCode(97 + (i % 26))}${i}x`, 1));
    expect(layOut(cellsOfDiagnosis(diagnosisOf(many))).strip).toBe(true);
  });
});

describe("positions", () => {
  it("hold what cannot be measured as unknown, and no floor as unknown", () => {
    expect(ratiosOf({ first: 0, bin: 1, error: [0, NaN, 2, 2, 2], floor: [1, 1, NaN, 0, 1] })).toEqual([0, null, null, Infinity, 2]);
  });
  it("come from a packed diff", () => {
    const site = { positions: { nmse: packF32([4, 0]), max_abs: packF32([1, 0]), bin: 1 }, allowed_nmse: 1, first_position: 7 };
    const errors = positionsOfDiff(site as never);
    expect(errors).toEqual({ first: 7, bin: 1, error: [2, 0], floor: [1, 1] });
  });
});

describe("links", () => {
  const empty = { view: "", site: null, step: null, position: null, head: null };
  it("come back whole", () => {
    const selection = { view: "heads", site: "layers.0.a&b=c #1", step: 2, position: 0, head: 3 };
    expect(fromHash(toHash(selection), empty)).toEqual(selection);
  });
  it("are not trusted", () => expect(fromHash("#step=-1&position=1e9&head=x", empty)).toEqual(empty));
});
