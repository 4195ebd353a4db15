// What the program embeds in the page: the command's JSON, what the page says around it, and what only the views need.
// Types of the fields that are read here; docs/commands.md describes all of them.

export interface Section {
  heading: string;
  columns: { heading: string; text: boolean }[];
  rows: string[][];
  marked: number[];
}

export interface Page {
  command: string; // "diagnose"
  title: string;
  tone: "good" | "bad" | "odd";
  sentence: string;
  facts: [string, string][];
  remarks: string[];
  sections: Section[];
  markdown: string;
  version: string;
  tokens?: string[]; // texts by position, where a vocabulary was found
}

export interface NoiseRow {
  step: number;
  site: string;
  introduced_nmse: number | null;
  floor_nmse: number | null;
  ratio: number | null;
  left_nmse: number | null;
  exact: number | null;
  one_ulp: number | null;
  propagated_nmse: number | null;
  values: number;
  judged?: boolean;
  nonfinite?: boolean;
}

export interface Where {
  tokens?: number[];
  heads?: number[];
  channels?: number[];
  experts?: number[];
}

export interface Defect {
  side: string;
  step: number;
  site: string;
  inputs: string[];
  ratio: number | null;
  cause: { id: string; confidence: number; statement: string; fix: string; expected?: unknown; found?: unknown };
  alternatives: { id: string; confidence: number }[];
  where: Where;
}

export interface Flip {
  step: number;
  layer: number;
  token: number;
  reference: number[];
  subject: number[];
  margin: number | null;
  error: number | null;
  benign: boolean;
}

export interface Header {
  engine?: { name?: string; version?: string };
  run?: { tokens?: number[][]; steps?: { step: number; start: number; count: number }[]; arithmetic?: string };
  path?: string;
}

export interface Diagnosis {
  schema: string;
  verdict: string;
  arithmetic: string;
  arithmetic_inferred?: boolean;
  defects: Defect[];
  summary: { side?: string; cause: string; sites: string[]; statement: string; fix: string }[];
  cleared: { what: string; evidence: string }[];
  noise: NoiseRow[];
  explained: { values: number; exact: number; one_ulp: number };
  routing: Flip[];
  equivalences: { site: string; statement: string }[];
  remarks?: string[];
  counterfactual?: string;
  unproven?: unknown[]; // without weights: what could not be told
  subject?: Header;
}

// Positions are packed as [count] f32 (see bytes.ts); `bin` positions share an entry, the worst of them stands there.
export interface PackedPositions {
  nmse: string;
  max_abs: string;
  bin: number;
}

export interface DiffSite {
  step: number;
  site: string;
  shape: number[];
  status: string;
  max_abs: number | null;
  max_abs_at: number[] | null;
  mean_abs: number | null;
  rms_reference: number | null;
  rms_subject: number | null;
  cosine: number | null;
  nmse: number | null;
  allowed_nmse?: number | null;
  first_position?: number;
  positions?: PackedPositions;
  nonfinite?: boolean;
  note?: string;
}

export interface Diff {
  schema: string;
  verdict: string;
  reference: Header;
  subject: Header;
  first_divergence: { step: number; site: string; position: number | null } | null;
  sites: DiffSite[];
  counts: Record<string, number>;
}

export interface Token {
  id: number;
  text?: string;
}

export interface RankedToken extends Token {
  logit: number;
  probability: number;
}

export interface LogitsPosition {
  step: number;
  position: number;
  cosine: number | null;
  max_abs: number | null;
  kl_reference_subject: number | null;
  top_reference: Token | null;
  top_subject: Token | null;
  rank_in_subject: number | null;
  margin_reference: number | null;
  margin_to_flip: number | null;
  noise: number | null;
  status: string;
  greedy_differs: boolean;
  benign_tie: boolean;
  best_reference?: RankedToken[];
  best_subject?: RankedToken[];
}

export interface Logits {
  schema: string;
  verdict: string;
  positions: LogitsPosition[];
  first_divergence: { step: number; position: number } | null;
  reference?: Header;
}

export interface Trend {
  site: string;
  points: { layer?: number; position?: number; error: number }[];
  slope_decades: number;
  p_value: number;
  enough: boolean;
  trend: boolean;
}

export interface Growth {
  schema: string;
  verdict: string;
  by_layer: Trend;
  by_position: Trend;
}

// A site's values and errors, for the views only. Strings are packed arrays (bytes.ts).
export interface SiteView {
  values: number; // how many there are; the samples are a part of them
  tokens?: { bin: number; error: string; floor: string }; // rms of the error and of the noise floor, [tokens / bin]
  heads?: { count: number; bin: number; ratio: string }; // error over noise floor, [count, tokens / bin]
  samples?: { rows: string; columns: string; reference: string; subject: string; worst: number };
  histogram?: { low: number; high: number; reference: number[]; subject: number[]; outside: number };
}

export interface Payload {
  page: Page;
  result: { schema?: string };
  views?: { sites: Record<string, SiteView>; reference_label: string; subject_label: string };
}

export function readPayload(document: Document): Payload {
  const element = document.getElementById("paritrace-data");
  const payload: unknown = JSON.parse(element?.textContent ?? "null");
  if (typeof payload !== "object" || payload === null || !("page" in payload)) {
    throw new Error("this page holds no result: it is the template that paritrace fills in");
  }
  return payload as Payload;
}
