// Arrays of numbers as base64 of little-endian words: a third of the size of their decimal text.

function bytesOf(packed: string): DataView {
  const binary = atob(packed);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; ++i) bytes[i] = binary.charCodeAt(i);
  return new DataView(bytes.buffer);
}

export function unpackF32(packed: string): Float32Array {
  const view = bytesOf(packed);
  const out = new Float32Array(view.byteLength >> 2);
  for (let i = 0; i < out.length; ++i) out[i] = view.getFloat32(4 * i, true);
  return out;
}

export function unpackU32(packed: string): Uint32Array {
  const view = bytesOf(packed);
  const out = new Uint32Array(view.byteLength >> 2);
  for (let i = 0; i < out.length; ++i) out[i] = view.getUint32(4 * i, true);
  return out;
}

// For tests and fixtures; the program packs in C++.
export function packF32(values: ArrayLike<number>): string {
  return pack(values.length, (view, i) => view.setFloat32(4 * i, values[i] ?? 0, true));
}

export function packU32(values: ArrayLike<number>): string {
  return pack(values.length, (view, i) => view.setUint32(4 * i, values[i] ?? 0, true));
}

function pack(count: number, put: (view: DataView, i: number) => void): string {
  const view = new DataView(new ArrayBuffer(4 * count));
  for (let i = 0; i < count; ++i) put(view, i);
  let binary = "";
  for (const byte of new Uint8Array(view.buffer)) binary += String.fromCharCode(byte);
  return btoa(binary);
}
