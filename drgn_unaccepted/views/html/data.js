// SPDX-License-Identifier: LGPL-2.1-or-later
// What the page carries, unpacked: runs of addresses and the bitmap. Addresses are below 2^52, so numbers are exact.

const PAGE = 4096;
const END = 2 ** 52;
const UNITS = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]];

async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const hex = (address) => "0x" + address.toString(16);
const span = (start, end) => `${hex(start)}-${hex(end)}`;
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** Bytes exactly, in the largest unit that needs no fraction. */
function exact(bytes) {
  if (bytes === null || bytes === undefined) return "unknown";
  for (const [unit, name] of UNITS) if (bytes && bytes % unit === 0) return `${(bytes / unit).toLocaleString("en")} ${name}`;
  return plural(bytes, "byte");
}

/** Bytes for a glance, one decimal at most. */
function about(bytes) {
  if (bytes === null || bytes === undefined) return "unknown";
  for (const [unit, name] of UNITS) if (bytes >= unit) return `${Math.round((bytes / unit) * 10) / 10} ${name}`;
  return plural(bytes, "byte");
}

/** Sorted, disjoint ranges of addresses; ends are exclusive. */
class Runs {
  constructor(starts, ends) {
    this.starts = starts;
    this.ends = ends;
    this.before = new Float64Array(starts.length + 1); // bytes in all runs before this one
    for (let i = 0; i < starts.length; i++) this.before[i + 1] = this.before[i] + (ends[i] - starts[i]);
  }

  static of(pairs) {
    return new Runs(Float64Array.from(pairs, (p) => p[0]), Float64Array.from(pairs, (p) => p[1]));
  }

  static async unpack(packed) {
    const bytes = await inflate(packed.data);
    const starts = new Float64Array(packed.count), ends = new Float64Array(packed.count);
    let at = 0, last = 0;
    const number = () => {
      let value = 0, scale = 1, byte;
      do {
        byte = bytes[at++];
        value += (byte & 0x7f) * scale;
        scale *= 128;
      } while (byte & 0x80);
      return value * packed.grain;
    };
    for (let i = 0; i < packed.count; i++) {
      starts[i] = last + number();
      last = ends[i] = starts[i] + number();
    }
    return new Runs(starts, ends);
  }

  get length() {
    return this.starts.length;
  }

  get total() {
    return this.before[this.length];
  }

  /** Index of the first run that ends after the address. */
  after(address) {
    let low = 0, high = this.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.ends[middle] > address) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  has(address) {
    const i = this.after(address);
    return i < this.length && this.starts[i] <= address;
  }

  below(address) {
    const i = this.after(address);
    return this.before[i] + (i < this.length ? Math.max(0, address - this.starts[i]) : 0);
  }

  /** Bytes of [low, high) that lie in the runs. */
  inside(low, high) {
    return this.below(high) - this.below(low);
  }

  /** The next edge of a run after the address, or before it; null where there is none. */
  edge(address, forward) {
    const i = this.after(address);
    if (forward) {
      if (i === this.length) return null;
      return this.starts[i] > address ? this.starts[i] : this.ends[i];
    }
    if (i < this.length && this.starts[i] < address) return this.starts[i];
    return i ? this.ends[i - 1] : null;
  }
}

const POPCOUNT = Uint8Array.from({ length: 256 }, (_, byte) => {
  let count = 0;
  for (; byte; byte >>= 1) count += byte & 1;
  return count;
});

/** The bitmap of struct efi_unaccepted_memory: bit i is byte i >> 3, mask 1 << (i & 7). */
class Bitmap {
  constructor(base, unit, bytes) {
    this.base = base;
    this.unit = unit;
    this.bytes = bytes;
    this.units = bytes.length * 8;
    this.end = base + this.units * unit;
    this.before = new Uint32Array(Math.ceil(bytes.length / 64) + 1); // set bits before each 64 bytes
    for (let block = 0, count = 0; block * 64 < bytes.length; block++) {
      const end = Math.min(bytes.length, block * 64 + 64);
      for (let i = block * 64; i < end; i++) count += POPCOUNT[bytes[i]];
      this.before[block + 1] = count;
    }
  }

  covers(address) {
    return this.base <= address && address < this.end;
  }

  index(address) {
    return Math.floor((address - this.base) / this.unit);
  }

  bit(index) {
    return (this.bytes[Math.floor(index / 8)] >> index % 8) & 1;
  }

  below(index) {
    const byte = Math.floor(index / 8);
    let count = this.before[byte >>> 6];
    for (let i = byte & ~63; i < byte; i++) count += POPCOUNT[this.bytes[i]];
    return index % 8 ? count + POPCOUNT[this.bytes[byte] & ((1 << index % 8) - 1)] : count;
  }

  get total() {
    return this.below(this.units) * this.unit;
  }

  /** Unaccepted bytes of [low, high), counted by whole and parts of units. */
  inside(low, high) {
    const upTo = (address) => {
      const offset = Math.min(Math.max(address, this.base), this.end) - this.base;
      const index = Math.floor(offset / this.unit), rest = offset % this.unit;
      return this.below(index) * this.unit + (rest ? this.bit(index) * rest : 0);
    };
    return upTo(high) - upTo(low);
  }

  /** The next address after this one where the bit changes, or the last before it. */
  edge(address, forward) {
    const step = forward ? 1 : -1;
    let index = forward ? this.index(address) : this.index(address - 1);
    if (!forward && address <= this.base) return null;
    if (forward && address >= this.end) return null;
    if (index < 0) index = -1;
    if (index >= this.units) index = this.units;
    const at = (i) => (i < 0 || i >= this.units ? 0 : this.bit(i));
    const value = at(index);
    const uniform = value ? 0xff : 0;
    for (index += step; index >= 0 && index < this.units; index += step) {
      // A whole byte that changes nothing.
      if (index % 8 === (forward ? 0 : 7) && this.bytes[Math.floor(index / 8)] === uniform) index += 7 * step;
      else if (this.bit(index) !== value) return this.base + (forward ? index : index + 1) * this.unit;
    }
    if (forward && value) return this.end;
    return !forward && value ? this.base : null;
  }

  /** The runs of set bits. */
  runs() {
    const starts = [], ends = [];
    let inside = 0;
    for (let byte = 0; byte < this.bytes.length; byte++) {
      const value = this.bytes[byte];
      if (value === (inside ? 0xff : 0)) continue;
      for (let bit = 0; bit < 8; bit++) {
        if (((value >> bit) & 1) === inside) continue;
        (inside ? ends : starts).push(this.base + (byte * 8 + bit) * this.unit);
        inside ^= 1;
      }
    }
    if (inside) ends.push(this.end);
    return new Runs(Float64Array.from(starts), Float64Array.from(ends));
  }
}
