// The model as a picture: layers down, sites across, each cell coloured by error over noise floor. One canvas, so that ten
// thousand cells cost one drawing.
import { kShades, kUnknown, shadeOf } from "../colour";
import { h, replace, sizeCanvas } from "../dom";
import { ratioText } from "../format";
import { placeCells, type Box, type Picture } from "../picture";
import { cellsOfStep, layOut, type Cell } from "../sites";
import type { Store } from "../state";
import { colour, onTheme, theme } from "../theme";

const kFont = "11px system-ui, sans-serif";

function legend({ measured, marked }: MapOptions): HTMLElement {
  const swatch = (label: string, fill: string, extra = ""): HTMLElement =>
    h("span", { class: "swatch" }, h("i", { style: `background:${fill}`, class: extra }), label);
  return h("p", { class: "legend" }, `${measured}: `,
    ...kShades.map((shade) => swatch(shade.label, `var(--shade-${kShades.indexOf(shade)})`)),
    swatch(kUnknown.label, "var(--shade-unknown)"), swatch(marked, "none", "ring"));
}

function defineShades(): void {
  const root = document.documentElement.style;
  kShades.forEach((shade, i) => root.setProperty(`--shade-${i}`, shade.fill[theme()]));
  root.setProperty("--shade-unknown", kUnknown.fill[theme()]);
}

export interface MapOptions {
  heading: string;
  measured: string; // what the colour is: "error over noise floor"
  marked: string; // what a ring means: "blamed"
}

export function modelMap(cells: Cell[], store: Store, options: MapOptions): HTMLElement {
  const steps = [...new Set(cells.map((cell) => cell.step))].sort((a, b) => a - b);
  const canvas = h("canvas", { tabindex: 0, role: "application", "aria-label": "Map of the model: arrow keys move between sites, Enter shows the selected one" });
  const says = h("p", { class: "says", "aria-live": "polite" });
  const holder = h("div", { class: "map-holder" }, canvas);
  const stepChoice = h("select", { "aria-label": "Forward call shown in the map" },
    h("option", { value: "" }, "worst of all steps"),
    ...steps.map((step) => h("option", { value: step }, step === 0 ? "prefill" : `decode step ${step}`)));
  stepChoice.addEventListener("change", () => store.set({ step: stepChoice.value === "" ? null : Number(stepChoice.value) }));

  let picture: Picture = { boxes: [], headings: [], rows: [], top: 0, width: 0, height: 0 };
  let shown: number | null | undefined;
  let hovered: Box | null = null;

  const describe = (cell: Cell): string =>
    `${cell.site}${steps.length > 1 ? `, step ${cell.step}` : ""}: ${cell.marked ? `${options.marked}, ` : ""}${cell.ratio === null ? cell.note : `${options.measured} ${ratioText(cell.ratio)}`}`;

  function layOutAgain(): void {
    const width = Math.max(240, Math.floor(holder.clientWidth) - 4);
    const context = canvas.getContext("2d");
    if (!context) return;
    context.font = kFont;
    const widths = new Map<string, number>();
    const measure = (text: string): number => {
      let known = widths.get(text);
      if (known === undefined) widths.set(text, (known = Math.ceil(context.measureText(text).width)));
      return known;
    };
    shown = store.selection.step;
    const first = picture.boxes.length === 0;
    picture = placeCells(layOut(cellsOfStep(cells, shown).filter((cell) => !cell.stray)), width, measure);
    draw();
    if (first) reveal();
  }

  // A map of very many layers scrolls: what is selected, at first what is blamed, stays in sight.
  function reveal(): void {
    const box = picture.boxes.find((other) => other.cell.site === store.selection.site);
    if (!box) return;
    if (box.y < holder.scrollTop) holder.scrollTop = box.y - 20;
    else if (box.y + box.height > holder.scrollTop + holder.clientHeight) holder.scrollTop = box.y + box.height + 20 - holder.clientHeight;
  }

  function draw(): void {
    const context = sizeCanvas(canvas, picture.width, picture.height);
    const mode = theme();
    const ink = colour("ink");
    context.font = kFont;
    context.textBaseline = "middle";
    context.fillStyle = colour("soft-ink");
    const emphasise = (marked: boolean): void => {
      context.font = marked ? `bold ${kFont}` : kFont;
      context.fillStyle = marked ? ink : colour("soft-ink");
    };
    for (const row of picture.rows) {
      emphasise(row.marked);
      context.fillText(row.text, 0, row.y);
    }
    const flat = picture.headings.every((heading, i) => i === 0 || context.measureText(heading.text).width < heading.x - picture.headings[i - 1]!.x);
    for (const heading of picture.headings) {
      context.save();
      emphasise(heading.marked);
      context.translate(heading.x, picture.top - 2);
      if (flat) context.textAlign = "center";
      else context.rotate(-Math.PI / 2);
      context.fillText(heading.text, 0, flat ? -6 : 0);
      context.restore();
    }
    for (const box of picture.boxes) {
      const shade = shadeOf(box.cell.ratio);
      context.font = box.cell.marked ? `bold ${kFont}` : kFont;
      context.fillStyle = shade.fill[mode];
      context.fillRect(box.x, box.y, box.width, box.height);
      if (box.label !== null) {
        context.fillStyle = shade.ink[mode];
        context.textAlign = "center";
        context.fillText(box.label, box.x + box.width / 2, box.y + box.height / 2 + 0.5, box.width - 2);
      }
    }
    // A ring on the fill and one of paper around it: together they stand out from any neighbour.
    for (const box of picture.boxes) {
      if (!box.cell.marked) continue;
      const ring = Math.min(2.5, box.width / 4, box.height / 4);
      context.lineWidth = ring;
      context.strokeStyle = ink;
      context.strokeRect(box.x + ring / 2, box.y + ring / 2, box.width - ring, box.height - ring);
      context.lineWidth = 1;
      context.strokeStyle = colour("paper");
      context.strokeRect(box.x - 0.5, box.y - 0.5, box.width + 1, box.height + 1);
      if (box.label === null && box.width > 8 && box.height > 8) {
        context.fillStyle = ink;
        context.beginPath();
        context.arc(box.x + box.width / 2, box.y + box.height / 2, 2, 0, 7);
        context.fill();
      }
    }
    const selected = picture.boxes.find((box) => box.cell.site === store.selection.site);
    for (const [box, dash] of [[hovered, [2, 2]], [selected, []]] as const) {
      if (!box) continue;
      context.setLineDash([...dash]);
      context.strokeStyle = colour("accent");
      context.lineWidth = 3;
      context.strokeRect(box.x - 1, box.y - 1, box.width + 2, box.height + 2);
    }
    context.setLineDash([]);
  }

  const boxAt = (event: MouseEvent): Box | null => {
    const bounds = canvas.getBoundingClientRect();
    const x = event.clientX - bounds.left;
    const y = event.clientY - bounds.top;
    return picture.boxes.find((box) => x >= box.x && x < box.x + box.width + 1 && y >= box.y && y < box.y + box.height + 1) ?? null;
  };
  canvas.addEventListener("mousemove", (event) => {
    const box = boxAt(event);
    if (box === hovered) return;
    hovered = box;
    canvas.style.cursor = box ? "pointer" : "";
    const selected = picture.boxes.find((other) => other.cell.site === store.selection.site);
    replace(says, box ? describe(box.cell) : selected ? describe(selected.cell) : "");
    draw();
  });
  canvas.addEventListener("mouseleave", () => {
    hovered = null;
    draw();
  });
  canvas.addEventListener("click", (event) => {
    const box = boxAt(event);
    if (box) store.set({ site: box.cell.site, position: null, head: null });
  });
  canvas.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Enter") document.getElementById("detail")?.focus();
    if (!direction || picture.boxes.length === 0) return;
    event.preventDefault();
    const here = picture.boxes.find((box) => box.cell.site === store.selection.site) ?? picture.boxes[0]!;
    const [dx, dy] = direction as [number, number];
    // The nearest box in that direction; one that lies askew counts as three times as far.
    let best: Box | null = null;
    let least = Infinity;
    for (const box of picture.boxes) {
      const along = (box.x + box.width / 2 - here.x - here.width / 2) * dx + (box.y + box.height / 2 - here.y - here.height / 2) * dy;
      const askew = Math.abs(box.x + box.width / 2 - here.x - here.width / 2) * Math.abs(dy) + Math.abs(box.y + box.height / 2 - here.y - here.height / 2) * Math.abs(dx);
      if (along > 1 && along + 3 * askew < least) {
        least = along + 3 * askew;
        best = box;
      }
    }
    if (best) store.set({ site: best.cell.site, position: null, head: null });
  });

  onTheme(() => {
    defineShades();
    draw();
  });
  defineShades();
  new ResizeObserver(() => layOutAgain()).observe(holder);
  store.watch((selection) => {
    stepChoice.value = selection.step === null ? "" : String(selection.step);
    const selected = picture.boxes.find((box) => box.cell.site === selection.site);
    replace(says, selected ? describe(selected.cell) : "");
    if (shown !== undefined && shown !== selection.step) layOutAgain();
    else draw();
    reveal();
  });
  const strays = cells.filter((cell) => cell.stray).length;
  return h("section", { class: "map", "aria-labelledby": "map-heading" },
    h("div", { class: "map-head" }, h("h2", { id: "map-heading" }, options.heading), steps.length > 1 && stepChoice),
    holder, says, legend(options),
    strays > 0 && h("p", { class: "note" }, `Not in the map, but in the list: ${strays} tensor${strays === 1 ? "" : "s"} that only one side has and no rule names.`));
}
