// Rows of noise, one a site and step. Runs of many steps have too many for text: they come as packed columns.
import { unpackF32, unpackU32 } from "./bytes";
import type { NoiseRow } from "./data";

const kFigures = ["introduced_nmse", "floor_nmse", "ratio", "left_nmse", "exact", "one_ulp", "propagated_nmse"] as const;

export type PackedNoise = { sites: string[] } & Record<"site" | "step" | "values" | "judged" | (typeof kFigures)[number], string>;

export function unpackNoise(noise: NoiseRow[] | PackedNoise): NoiseRow[] {
  if (Array.isArray(noise)) return noise;
  const [site, step, values, judged] = [noise.site, noise.step, noise.values, noise.judged].map(unpackU32) as [Uint32Array, Uint32Array, Uint32Array, Uint32Array];
  const figures = kFigures.map((name) => unpackF32(noise[name]));
  return Array.from(site, (at, i) => {
    const row = { step: step[i]!, site: noise.sites[at]!, values: values[i]! } as NoiseRow;
    kFigures.forEach((name, k) => {
      const value = figures[k]![i]!;
      row[name] = Number.isFinite(value) ? value : null;
      if (!Number.isFinite(value)) row.nonfinite = true;
    });
    if (judged[i] === 0) row.judged = false;
    return row;
  });
}
