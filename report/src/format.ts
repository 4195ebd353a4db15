// Numbers as people read them.

// 0.98, 34, 5.1e+3, inf
export function ratioText(ratio: number | null): string {
  if (ratio === null) return "?";
  if (!Number.isFinite(ratio)) return "inf";
  if (ratio === 0) return "0";
  if (ratio >= 1000 || ratio < 0.01) return ratio.toExponential(1).replace("e+", "e");
  return ratio >= 100 ? ratio.toFixed(0) : ratio >= 10 ? ratio.toFixed(1) : ratio.toFixed(2);
}

export function numberText(value: number | null | undefined, digits = 3): string {
  if (value === null || value === undefined) return "-";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  if (value === 0) return "0";
  const magnitude = Math.abs(value);
  return magnitude >= 1e5 || magnitude < 1e-3 ? value.toExponential(digits - 1).replace("e+", "e") : String(Number(value.toPrecision(digits)));
}

// Never rounds up to 100 what is less.
export function percentText(share: number | null): string {
  if (share === null) return "-";
  if (share >= 1) return "100 %";
  return share > 0.9999 ? "99.99 %" : `${(100 * share).toFixed(2)} %`;
}

// [0, 1, 2, 5] -> "0-2, 5"
export function rangesText(numbers: readonly number[]): string {
  const parts: string[] = [];
  for (let i = 0; i < numbers.length; ) {
    let j = i;
    while (j + 1 < numbers.length && numbers[j + 1] === numbers[j]! + 1) ++j;
    parts.push(i === j ? `${numbers[i]}` : j === i + 1 ? `${numbers[i]}, ${numbers[j]}` : `${numbers[i]}-${numbers[j]}`);
    i = j + 1;
  }
  return parts.join(", ");
}

// A token's text with what cannot be seen written out.
export function visibleText(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n").replaceAll("\r", "\\r").replaceAll("\t", "\\t").replace(/[\u0000-\u001f\u007f\u200b-\u200f\u202a-\u202e\ufffd]/gu, "\u00b7");
}
