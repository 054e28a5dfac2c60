// A folder as one file: a zip archive without compression, for weights do not compress. Made of pieces as they come, so
// that the browser may keep them on its disk.

export interface IEntry {
  readonly name: string;
  readonly bytes: number;
  readonly open: () => Promise<ReadableStream<Uint8Array>>;
}

/** What the format of 1989 can hold. */
export const LARGEST = 0xffffffff - (1 << 20);

const TABLE = Uint32Array.from({ length: 256 }, (_, start) => {
  let value = start;
  for (let bit = 0; bit < 8; bit++) {
    value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  }
  return value;
});

/** The archive; `progress` gets the bytes so far. Throws an Error if a file is not as long as it should be. */
export async function zip(entries: readonly IEntry[], progress: (bytes: number) => void): Promise<Blob> {
  const parts: BlobPart[] = [];
  const directory: BlobPart[] = [];
  let offset = 0;
  let done = 0;
  for (const entry of entries) {
    const pieces: BlobPart[] = [];
    let sum = 0xffffffff;
    let size = 0;
    const reader = (await entry.open()).getReader();
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      sum = crc(sum, next.value);
      size += next.value.length;
      pieces.push(new Blob([next.value as Uint8Array<ArrayBuffer>]));
      progress((done += next.value.length));
    }
    if (size !== entry.bytes) {
      throw new Error(`${entry.name}: ${size} of ${entry.bytes} bytes came.`);
    }
    const name = new TextEncoder().encode(entry.name);
    const facts = [
      ...shorts(20, 0x0800, 0, 0, 0x21),
      ...longs((sum ^ 0xffffffff) >>> 0, size, size),
      ...shorts(name.length)
    ];
    parts.push(bytesOf(longs(0x04034b50), facts, shorts(0)), name, ...pieces);
    directory.push(bytesOf(longs(0x02014b50), shorts(20), facts, shorts(0, 0, 0, 0), longs(0, offset)), name);
    offset += 30 + name.length + size;
  }
  const listed = new Blob(directory);
  const end = bytesOf(
    longs(0x06054b50),
    shorts(0, 0, entries.length, entries.length),
    longs(listed.size, offset),
    shorts(0)
  );
  return new Blob([...parts, listed, end], { type: 'application/zip' });
}

function crc(sum: number, data: Uint8Array): number {
  for (const byte of data) {
    sum = TABLE[(sum ^ byte) & 0xff]! ^ (sum >>> 8);
  }
  return sum;
}

function shorts(...values: number[]): number[] {
  return values.flatMap(value => [value & 0xff, (value >>> 8) & 0xff]);
}

function longs(...values: number[]): number[] {
  return values.flatMap(value => shorts(value & 0xffff, value >>> 16));
}

function bytesOf(...parts: readonly number[][]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(parts.flat());
}
