// SPDX-License-Identifier: LGPL-2.1-or-later
// The answer of the command `resolve` for any address, with the same keys, looked up in the data of the page.

class Guest {
  static async unpack(data) {
    const guest = new Guest();
    guest.data = data;
    guest.unit = data.unit_size;
    guest.groups = []; // all addresses, by state and reason
    for (const group of data.states) guest.groups.push({ ...group, runs: await Runs.unpack(group.runs) });
    guest.layers = {};
    for (const [name, runs] of Object.entries(data.layers)) guest.layers[name] = await Runs.unpack(runs);
    guest.filled = await Runs.unpack(data.filled);
    guest.listed = await Runs.unpack(data.listed);
    guest.accepting = Runs.of(data.accepting_ranges);
    guest.unaccepted = Runs.join(guest.groups.filter((group) => group.state === "unaccepted").map((group) => group.runs));
    if (data.recording) data.recording = JSON.parse(new TextDecoder().decode(await inflate(data.recording)));
    guest.bits = data.bits ? await Runs.unpack(data.bits) : guest.unaccepted;
    return guest;
  }

  unitOf(address) {
    const { phys_base: base } = this.data.table;
    if (this.data.covered === null || address < base || address >= this.data.covered[1]) return null;
    const index = Math.floor((address - base) / this.unit), start = base + index * this.unit;
    return { index, start, end: start + this.unit, bit: this.bits.has(start) ? 1 : this.data.elsewhere.bit };
  }

  /** range_contains_unaccepted_memory() of the page: where it ends with its unit, the next unit counts too. */
  kernelPredicate(address) {
    const page = address - (address % PAGE);
    return (!this.data.saved && this.bits.inside(page, page + 2 * PAGE) > 0) || this.data.elsewhere.kernel_predicate;
  }

  resolve(address) {
    const { data } = this, said = this.groups.find((group) => group.runs.has(address));
    const zones = (data.zones || []).filter((zone) => zone.start <= address && address < zone.end);
    const zone = zones.length === 1 ? zones[0] : { node: null, name: null };
    const listed = this.listed.has(address) || data.elsewhere.listed;
    const inFlight = this.accepting.has(address) || data.elsewhere.in_flight;
    let reason = said.reason;
    if (listed && said.state === "accepted") reason += "; listed all the same, as a chunk with a guard can be (check: list-entries-without-bits)";
    if (inFlight && said.state === "unknown") reason += "; an accept of it is in flight (see accepting)";
    return {
      address,
      state: said.state,
      covered: said.covered,
      unit: this.unitOf(address),
      kernel_predicate: this.kernelPredicate(address),
      efi: holder(data.efi.descriptors, address),
      e820: holder(data.e820.tables.current, address),
      node: zone.node,
      zone: zone.name,
      listed,
      in_flight: inFlight,
      reason,
    };
  }

  /** RAM, reserved or no RAM, for the words beside the state. */
  kind(address) {
    if (this.data.memory_from === null) return null;
    if (this.layers.ram.has(address)) return "RAM";
    return this.layers.reserved.has(address) ? "reserved" : "no RAM";
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
