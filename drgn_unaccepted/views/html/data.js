// SPDX-License-Identifier: LGPL-2.1-or-later
// The data of the page, unpacked: runs of addresses. Addresses are below 2^52, so that numbers are exact.

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

/** Bytes for a glance: whole, or with three digits. */
function about(bytes) {
  if (bytes === null || bytes === undefined) return "unknown";
  for (const [unit, name] of UNITS) {
    const filled = bytes / unit;
    if (filled >= 1) return `${filled.toFixed(bytes % unit === 0 || filled >= 99.95 ? 0 : filled >= 9.995 ? 1 : 2)} ${name}`;
  }
  return plural(Math.round(bytes), "byte");
}

/** The first of `count` indexes for which `isBeyond` holds, as it does for all after it; `count` if there is none. */
function bisect(count, isBeyond) {
  let low = 0, high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (isBeyond(middle)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Sorted, disjoint ranges of addresses; ends are exclusive. */
class Runs {
  constructor(starts, ends) {
    this.starts = starts;
    this.ends = ends;
    this.length = starts.length;
    this.before = new Float64Array(starts.length + 1); // bytes in all runs before this one
    for (let i = 0; i < starts.length; i++) this.before[i + 1] = this.before[i] + (ends[i] - starts[i]);
    this.total = this.before[this.length];
  }

  static of(pairs) {
    return new Runs(Float64Array.from(pairs, (p) => p[0]), Float64Array.from(pairs, (p) => p[1]));
  }

  /** Disjoint runs as one. */
  static join(all) {
    if (all.length === 1) return all[0];
    const pairs = all.flatMap((runs) => Array.from(runs.starts, (start, i) => [start, runs.ends[i]])).sort((a, b) => a[0] - b[0]);
    const joined = [];
    for (const [start, end] of pairs) {
      const last = joined[joined.length - 1];
      if (last && last[1] === start) last[1] = end;
      else joined.push([start, end]);
    }
    return Runs.of(joined);
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

  /** Index of the first run that ends after the address. */
  after(address) {
    return bisect(this.length, (i) => this.ends[i] > address);
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

  /** The next edge of a run after the address, or the last before it; null where there is none. */
  edge(address, forward) {
    const i = this.after(forward ? address : address - 1);
    if (forward) return i === this.length ? null : this.starts[i] > address ? this.starts[i] : this.ends[i];
    if (i < this.length && this.starts[i] < address) return this.starts[i];
    return i ? this.ends[i - 1] : null;
  }
}
