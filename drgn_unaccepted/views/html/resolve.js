// SPDX-License-Identifier: LGPL-2.1-or-later
// What the command `resolve` answers, for any address, in the same keys.

class Guest {
  static async unpack(data) {
    const guest = new Guest();
    guest.data = data;
    const table = data.table;
    guest.bitmap = null;
    if (data.bitmap !== null) guest.bitmap = new Bitmap(table.phys_base, table.unit_size, await inflate(data.bitmap));
    guest.states = [];
    for (const group of data.states) guest.states.push({ ...group, runs: await Runs.unpack(group.runs) });
    for (const name of ["ram", "reserved", "filled", "guards"]) guest[name] = await Runs.unpack(data[name]);
    guest.listed = data.listed === null ? null : await Runs.unpack(data.listed);
    guest.accepting = data.accepting_ranges === null ? null : Runs.of(data.accepting_ranges);
    guest.unit = data.unit_size;
    guest.exactSource = data.exact;
    // What of unaccepted memory can be counted.
    guest.unaccepted = guest.exactSource ? guest.bitmap : guest.merged("unaccepted");
    guest.accepted = guest.exactSource ? null : guest.merged("accepted");
    return guest;
  }

  /** The groups of one state as one; their runs are disjoint. */
  merged(state) {
    const pairs = [];
    for (const group of this.states) {
      if (group.state === state) for (let i = 0; i < group.runs.length; i++) pairs.push([group.runs.starts[i], group.runs.ends[i]]);
    }
    pairs.sort((a, b) => a[0] - b[0]);
    const joined = [];
    for (const pair of pairs) {
      if (joined.length && joined[joined.length - 1][1] === pair[0]) joined[joined.length - 1][1] = pair[1];
      else joined.push(pair);
    }
    return Runs.of(joined);
  }

  state(address) {
    if (!this.exactSource) {
      const group = this.states.find((g) => g.runs.has(address)) || this.data.otherwise;
      return { state: group.state, covered: group.covered, reason: group.reason };
    }
    if (!this.bitmap.covers(address)) {
      return { state: "accepted", covered: false, reason: "outside the bitmap: the kernel takes it as accepted" };
    }
    const bit = this.bitmap.bit(this.bitmap.index(address));
    return { state: bit ? "unaccepted" : "accepted", covered: true, reason: `its bit is ${bit}` };
  }

  unitOf(address) {
    const table = this.data.table;
    const bytes = this.data.covered_bytes;
    if (bytes === null || address < table.phys_base || address >= table.phys_base + bytes) return null;
    const index = Math.floor((address - table.phys_base) / table.unit_size);
    const start = table.phys_base + index * table.unit_size;
    const bit = this.bitmap ? this.bitmap.bit(index) : null;
    return { index, start, end: start + table.unit_size, bit: this.data.doubted && bit === 0 ? null : bit };
  }

  /** pfn_is_unaccepted_memory(); null where it cannot be told. */
  kernelPredicate(address) {
    if (this.data.table.state === "absent") return false;
    if (this.bitmap === null || this.data.saved) return null;
    const found = this.pageContains(Math.floor(address / PAGE) * PAGE);
    return this.data.doubted && !found ? null : found;
  }

  /** range_contains_unaccepted_memory() of a page: where it ends with its unit, the next unit counts too. */
  pageContains(page) {
    const { base, unit, units } = this.bitmap;
    let start = page, end = page + PAGE;
    if (end < base) return false;
    start = Math.max(start, base) - base;
    end -= base;
    if (end % unit === 0) end += unit;
    end = Math.min(end, units * unit);
    if (end <= start) return false;
    const first = Math.floor(start / unit);
    return this.bitmap.below(first + Math.ceil((end - start) / unit)) > this.bitmap.below(first);
  }

  zoneOf(address) {
    const holders = (this.data.zones || []).filter((z) => z.start <= address && address < z.end);
    return holders.length === 1 ? holders[0] : null;
  }

  inFlight(address) {
    const list = this.data.accepting;
    if (list.accepting === null) return null;
    if (!list.accepting.length) return list.problems.length ? null : false;
    // Where unit 0 is was not told, by the table or the EFI map.
    if (this.accepting === null) return null;
    const found = this.accepting.has(address);
    return list.problems.length && !found ? null : found;
  }

  /** What a walk that ended early did not find can be listed. */
  isListed(address) {
    if (this.listed === null || !this.data.zones.length) return null;
    const found = this.listed.has(address);
    return this.data.lists_cut && !found ? null : found;
  }

  resolve(address) {
    const said = this.state(address);
    const zone = this.zoneOf(address);
    const listed = this.isListed(address);
    const inFlight = this.inFlight(address);
    let reason = said.reason;
    if (listed && said.state === "accepted") reason += "; listed all the same, as a chunk with a guard can be (check: list-entries-without-bits)";
    if (inFlight && said.state === "unknown") reason += "; an accept of it is in flight (see accepting)";
    return {
      address,
      state: said.state,
      covered: said.covered,
      unit: this.unitOf(address),
      kernel_predicate: this.kernelPredicate(address),
      efi: holder(this.data.efi.descriptors, address),
      e820: holder(this.data.e820.tables.current, address),
      node: zone ? zone.node : null,
      zone: zone ? zone.name : null,
      listed,
      in_flight: inFlight,
      reason,
    };
  }

  /** RAM, reserved or nothing, for the words beside the state. */
  kind(address) {
    if (this.data.memory_from === null) return null;
    if (this.ram.has(address)) return "RAM";
    return this.reserved.has(address) ? "reserved" : "no RAM";
  }
}

/** The first entry that holds the address; maps need not be sorted. */
function holder(entries, address) {
  const found = (entries || []).find((e) => e.start <= address && address < e.end);
  return found ? { type: found.type, name: found.name, start: found.start, end: found.end } : null;
}

const SUFFIXES = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** An address as the command line takes it; throws an Error with one line that says what is wrong. */
function parseAddress(text) {
  const trimmed = text.trim();
  let address = null;
  if (/^0x[0-9a-f]+$/i.test(trimmed)) address = Number(BigInt(trimmed));
  else if (/^[0-9]+[KMGT]$/i.test(trimmed)) address = Number(trimmed.slice(0, -1)) * SUFFIXES[trimmed.slice(-1).toUpperCase()];
  else if (/^0+$/.test(trimmed)) address = 0;
  else if (/^[0-9]+$/.test(trimmed)) throw new Error(`decimal or hexadecimal? write 0x${trimmed}, or a suffix K, M, G or T`);
  if (address === null) throw new Error("not an address (0x and hexadecimal digits, or a number with K, M, G or T)");
  if (address >= END) throw new Error(`beyond the last physical address, ${hex(END - 1)}`);
  return address;
}
