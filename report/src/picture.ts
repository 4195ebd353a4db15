// Where each cell of the map is drawn, in CSS pixels.
import { ratioText } from "./format";
import type { Cell, MapLayout } from "./sites";

export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
  cell: Cell;
  label: string | null; // written into the cell
}

export interface Picture {
  boxes: Box[];
  headings: { text: string; x: number; marked: boolean }[];
  rows: { text: string; y: number; marked: boolean }[];
  top: number; // of the headings' foot
  width: number;
  height: number;
}

// Cells without a layer, as named boxes in lines from `y` on; returns where the next thing may start.
function placeNamed(cells: Cell[], width: number, y: number, measure: (text: string) => number, boxes: Box[]): number {
  let x = 0;
  for (const cell of cells) {
    const box = Math.min(width, measure(cell.site) + 16);
    if (x > 0 && x + box > width) {
      x = 0;
      y += 24;
    }
    boxes.push({ x, y, width: box, height: 22, cell, label: cell.site });
    x += box + 4;
  }
  return cells.length > 0 ? y + 30 : y;
}

export function placeCells(layout: MapLayout, width: number, measure: (text: string) => number): Picture {
  const picture: Picture = { boxes: [], headings: [], rows: [], top: 0, width, height: 0 };
  if (layout.strip) {
    const size = layout.before.length > 2000 ? 10 : 14;
    const columns = Math.max(1, Math.floor(width / size));
    layout.before.forEach((cell, i) =>
      picture.boxes.push({ x: (i % columns) * size, y: Math.floor(i / columns) * size, width: size - 1, height: size - 1, cell, label: null }));
    picture.height = Math.ceil(layout.before.length / columns) * size;
    return picture;
  }
  let y = placeNamed(layout.before, width, 0, measure, picture.boxes);
  if (layout.layers.length > 0) {
    const left = measure(`layer ${layout.layers[layout.layers.length - 1]}`) + 8;
    const cellWidth = Math.max(9, Math.min(52, Math.floor((width - left) / layout.roles.length)));
    const cellHeight = Math.max(3, Math.min(24, Math.floor(400 / layout.layers.length)));
    const flat = layout.roles.every((role) => measure(role) < cellWidth);
    picture.top = y + (flat ? 16 : Math.max(...layout.roles.map(measure)) + 6);
    y = picture.top + 4;
    picture.headings = layout.roles.map((text, i) => ({
      text, x: left + (i + 0.5) * cellWidth, marked: layout.layers.some((layer) => layout.grid.get(`${layer}/${text}`)?.marked),
    }));
    const every = Math.ceil(12 / cellHeight);
    layout.layers.forEach((layer, row) => {
      const marked = layout.roles.some((role) => layout.grid.get(`${layer}/${role}`)?.marked);
      if (row % every === 0) picture.rows.push({ text: row === 0 ? `layer ${layer}` : String(layer), y: y + cellHeight / 2, marked });
      layout.roles.forEach((role, column) => {
        const cell = layout.grid.get(`${layer}/${role}`);
        if (!cell) return;
        const text = cell.ratio !== null && cell.ratio > 0 && cell.ratio < 0.01 ? "0.00" : ratioText(cell.ratio);
        const fits = cellHeight >= 14 && measure(text) + 3 <= cellWidth;
        const gap = cellHeight > 7 ? 1 : 0;
        picture.boxes.push({ x: left + column * cellWidth, y, width: cellWidth - 1, height: cellHeight - gap, cell, label: fits ? text : null });
      });
      y += cellHeight;
    });
    picture.width = Math.max(width, left + cellWidth * layout.roles.length);
    y += 8;
  }
  picture.height = placeNamed(layout.after, width, y, measure, picture.boxes);
  return picture;
}
