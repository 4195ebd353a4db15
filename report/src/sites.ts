// The sites of a result as the map and the list show them, whatever command made it.
import type { Diagnosis, Diff } from "./data";
import { rangesText } from "./format";

export interface Cell {
  index: number; // in order of execution
  step: number;
  site: string;
  role: string; // the site without its layer
  layer: number | null;
  ratio: number | null; // error over what rounding explains; null where it is not known
  marked: boolean; // what the answer speaks of: a defect, the first divergence
  // Relative to the output's rms. For a diff, `error` is the whole difference and there is no `propagated`.
  error: number | null;
  floor: number | null;
  propagated: number | null;
  note: string;
  stray: boolean; // of one side only, by an engine's own name: nothing to compare it with
}

// "layers.3.attn.q" -> [3, "attn.q"]; engines' own names have their layer somewhere: "model.layers.3.mlp" -> [3, "model.layers.*.mlp"].
export function splitSite(site: string): [number | null, string] {
  const canonical = /^layers\.(\d+)\.(.+)$/.exec(site);
  if (canonical) return [Number(canonical[1]), canonical[2]!];
  const own = /^(.*?[._/-])(\d+)([._/-].*)$/.exec(site);
  if (own) return [Number(own[2]), `${own[1]}*${own[3]}`];
  return [null, site];
}

const rootOf = (nmse: number | null | undefined): number | null =>
  nmse === null || nmse === undefined ? null : Math.sqrt(nmse);

// null with "nonfinite" beside it is infinity or NaN: worse than any number.
function ratioOf(ratio: number | null, nonfinite: boolean | undefined): number | null {
  if (ratio !== null) return ratio;
  return nonfinite ? Infinity : null;
}

export function cellsOfDiagnosis(diagnosis: Diagnosis): Cell[] {
  const faulty = new Set(diagnosis.defects.filter((d) => d.side === "subject").map((d) => d.site));
  return diagnosis.noise.map((row, index) => {
    const [layer, role] = splitSite(row.site);
    const judged = row.judged !== false;
    const ratio = judged ? ratioOf(row.ratio, row.nonfinite) : null;
    const marked = faulty.has(row.site);
    return {
      index, step: row.step, site: row.site, role, layer, ratio, marked,
      error: judged ? rootOf(row.introduced_nmse) : null,
      floor: judged ? rootOf(row.floor_nmse) : null,
      propagated: rootOf(row.propagated_nmse),
      note: judged ? "" : "not judged: its inputs are not finite",
      stray: false,
    };
  });
}

// Sites outside the layers, as the contract names them.
const kTop = new Set(["embed", "embed.norm", "final_norm", "logits", "pooled"]);

export function cellsOfDiff(diff: Diff): Cell[] {
  const first = diff.first_divergence;
  return diff.sites.map((site, index) => {
    const [layer, role] = splitSite(site.site);
    const error = rootOf(site.nmse);
    const floor = rootOf(site.allowed_nmse);
    let ratio: number | null = null;
    if (error === 0) ratio = 0;
    else if (error !== null && floor !== null) ratio = floor > 0 ? error / floor : Infinity;
    else if (site.status === "diverged" || site.status === "shape_mismatch") ratio = Infinity;
    return {
      index, step: site.step, site: site.site, role, layer, ratio,
      marked: first !== null && first.step === site.step && first.site === site.site,
      error, floor, propagated: null,
      note: site.note ?? site.status.replaceAll("_", " "),
      stray: site.status.startsWith("missing_") && !kTop.has(site.site) && !site.site.startsWith("layers."),
    };
  });
}

const badness = (cell: Cell): number => (cell.marked ? 1e300 : 0) + (cell.ratio === null ? -1 : Math.min(cell.ratio, 1e290));

// One cell a site: that of `step`, or the worst of all steps.
export function cellsOfStep(cells: Cell[], step: number | null): Cell[] {
  if (step !== null) return cells.filter((cell) => cell.step === step);
  const worst = new Map<string, Cell>();
  for (const cell of cells) {
    const known = worst.get(cell.site);
    if (!known || badness(cell) > badness(known)) worst.set(cell.site, cell);
  }
  return [...worst.values()].sort((a, b) => a.index - b.index);
}

// Where the map puts each cell: layers down and roles across, what has no layer above or below in the order it ran.
export interface MapLayout {
  roles: string[];
  layers: number[];
  grid: Map<string, Cell>; // "layer/role"
  before: Cell[];
  after: Cell[];
  strip: boolean; // names that follow no pattern: no grid, all of them in `before`, in order
}

const kMostRoles = 64;

export function layOut(cells: Cell[]): MapLayout {
  const grid = new Map<string, Cell>();
  const roles = new Set<string>();
  const layers = new Set<number>();
  let firstInGrid = Infinity;
  for (const cell of cells) {
    if (cell.layer === null) continue;
    roles.add(cell.role);
    layers.add(cell.layer);
    grid.set(`${cell.layer}/${cell.role}`, cell);
    firstInGrid = Math.min(firstInGrid, cell.index);
  }
  const loose = cells.filter((cell) => cell.layer === null);
  if (roles.size > kMostRoles || loose.length > kMostRoles) {
    return { roles: [], layers: [], grid: new Map(), before: cells, after: [], strip: true };
  }
  return {
    roles: [...roles],
    layers: [...layers].sort((a, b) => a - b),
    grid,
    before: loose.filter((cell) => cell.index < firstInGrid),
    after: loose.filter((cell) => cell.index > firstInGrid),
    strip: false,
  };
}

// All words must occur, in any order: "3 rope" finds layers.3.attn.q_rope.
export function filterSites(cells: Cell[], query: string): Cell[] {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return cells;
  return cells.filter((cell) => {
    const name = cell.site.toLowerCase();
    return words.every((word) => (/^\d+$/.test(word) ? new RegExp(`(^|\\D)${word}(\\D|$)`).test(name) : name.includes(word)));
  });
}

// Roles that stand in the same layers share a phrase: "attn.q_rope, attn.k_rope of layers 0-4".
export function describeSites(sites: readonly string[]): string {
  const layersOf = new Map<string, number[]>();
  for (const site of sites) {
    const [layer, role] = splitSite(site);
    const layers = layersOf.get(role) ?? [];
    if (layer !== null && !layers.includes(layer)) layers.push(layer);
    layersOf.set(role, layers);
  }
  const rolesOf = new Map<string, string[]>();
  for (const [role, layers] of layersOf) {
    const key = rangesText(layers.sort((a, b) => a - b));
    rolesOf.set(key, [...(rolesOf.get(key) ?? []), role]);
  }
  return [...rolesOf].map(([layers, roles]) => roles.join(", ") + (layers ? ` of layer${/[-,]/.test(layers) ? "s" : ""} ${layers}` : "")).join("; ");
}
