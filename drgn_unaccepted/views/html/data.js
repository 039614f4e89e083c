// SPDX-License-Identifier: LGPL-2.1-or-later
// What Python found out about addresses, unpacked. Addresses are below 2^52, so that numbers are exact.

const END = 2 ** 52;
const SIZES = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

const hex = (address) => "0x" + address.toString(16);
const span = (start, end) => `${hex(start)}-${hex(end)}`;

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

async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

/** Sorted, disjoint ranges of addresses; ends are exclusive. */
class Ranges {
  /** From the numbers that steps() in views/report.py describes. */
  constructor([grain, ...steps]) {
    this.length = steps.length / 2;
    this.starts = new Float64Array(this.length);
    this.ends = new Float64Array(this.length);
    this.before = new Float64Array(this.length + 1); // bytes in all ranges before this one
    for (let i = 0, last = 0; i < this.length; i++) {
      this.starts[i] = last + steps[2 * i] * grain;
      last = this.ends[i] = this.starts[i] + steps[2 * i + 1] * grain;
      this.before[i + 1] = this.before[i] + steps[2 * i + 1] * grain;
    }
  }

  /** Index of the first range that ends after the address. */
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

  /** Bytes of [low, high) that lie in the ranges. */
  inside(low, high) {
    return this.below(high) - this.below(low);
  }
}

/** What is known of an address: a pair of name and words from each track that has any. */
function said(tracks, address) {
  const words = (track) => track.entries.filter((entry) => entry.ranges.has(address)).map((entry) => entry.words).join("; ");
  return tracks.map((track) => [track.name, words(track) || track.none]).filter(([, text]) => text);
}

/** An address as the command line takes it; throws an Error with one line that says what is wrong. */
function parseAddress(text) {
  const trimmed = text.trim();
  let address = null;
  if (/^0x[0-9a-f]+$/i.test(trimmed)) address = Number(BigInt(trimmed));
  else if (/^[0-9]+[KMGT]$/i.test(trimmed)) address = Number(trimmed.slice(0, -1)) * SIZES[trimmed.slice(-1).toUpperCase()];
  else if (/^0+$/.test(trimmed)) address = 0;
  else if (/^[0-9]+$/.test(trimmed)) throw new Error(`decimal or hexadecimal? write 0x${trimmed}, or a suffix K, M, G or T`);
  if (address === null) throw new Error("not an address (0x and hexadecimal digits, or a number with K, M, G or T)");
  if (address >= END) throw new Error(`beyond the last physical address, ${hex(END - 1)}`);
  return address;
}
