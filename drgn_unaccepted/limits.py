# SPDX-License-Identifier: LGPL-2.1-or-later
"""All bounds on what is read from a target.

A dump is untrusted input: a size, a count or a pointer found in it is compared with one of these before
memory is allocated or the pointer is followed. An answer that reached a bound says so; nothing is truncated silently.
"""

from __future__ import annotations

BITMAP_BYTES = 256 << 20  #: Bytes of bitmap: 4 PiB in units of 2 MiB, the worst case in the kernel's documentation.
PHYSICAL_END = 1 << 52  #: End (exclusive) of the physical addresses of x86-64, which have 52 bits.
BTF_BYTES = 32 << 20  #: Bytes of BTF. Distributions have 3 to 7 MB; BTF_MAX_NAME_OFFSET allows 16 MiB of names.
BTF_NESTING = 64  #: Types in a chain: typedefs, qualifiers, pointers, ...; the kernel's MAX_RESOLVE_DEPTH is 32.
BTF_MEMBERS = 1 << 12  #: Members of a structure, with those of anonymous members. Kernels have some hundreds.
BTF_TYPE_BYTES = 16 << 20  #: Bytes of a structure or an array. The largest array of a kernel has 4 MiB.
BTF_MATCHES = 1 << 20  #: Matches of one name in BTF's type section.
BTF_SAME_STRINGS = 16  #: Copies of one string in BTF's string section. libbpf stores each once.
EFI_DESCRIPTORS = 1 << 16  #: Entries of an EFI memory map. Firmware gives some hundreds.
EFI_DESCRIPTOR_BYTES = 256  #: Bytes from one EFI memory descriptor to the next. The structure has 40, OVMF uses 48.
E820_ENTRIES = 128 + 3 * 1024  #: Entries of an e820 table: E820_MAX_ENTRIES with the 1,024 nodes that x86 can have.
ELF_SEGMENTS = 1 << 20  #: Program headers of an ELF dump. QEMU and the kernel write one for each RAM range.
ELF_NOTE_BYTES = 16 << 20  #: Bytes of an ELF dump's notes: registers of each CPU, about 1 KiB, and VMCOREINFO.
KERNEL_FILE_BYTES = 512 << 20  #: Bytes of a kernel image, packed and unpacked; a distribution's has 60 MB unpacked.
ELF_SECTION_NAMES_BYTES = 4 << 20  #: Bytes of the sections' names.
VMLINUX_NOTE_BYTES = 1 << 20  #: Bytes of a vmlinux's notes; a distribution's has some hundred.
UNPACKED_BYTES = 16 << 40  #: Bytes of a compressed dump when unpacked; room on the disk ends it before.
KDUMP_BITMAP_BYTES = 1 << 29  #: Bytes of a bitmap of a kdump-compressed file: 16 TiB.
KDUMP_DESCRIPTORS = 1 << 28  #: Page descriptors of such a file that are checked: 1 TiB, about 10 seconds.
KDUMP_SEGMENTS = 1 << 18  #: Segments of the flattened form: 4 GiB as QEMU writes it.
KDUMP_HOLES = 1 << 16  #: Places in such a file with page descriptors that lead nowhere.
XZ_MEMORY_BYTES = 1 << 30  #: Bytes of memory for unpacking .xz. ``xz -9`` needs 65 MiB.
SEARCH_PIECE_BYTES = 16 << 20  #: Bytes read at once when an ELF dump is searched.
VMCOREINFO_SEARCH_BYTES = 256 << 30  #: Bytes of a dump that are searched for VMCOREINFO, without holes: minutes.
VMCOREINFO_COPIES = 64  #: VMCOREINFO texts of different kernels in one memory: each kexec may leave one behind.
KERNEL_SEARCH_BYTES = 256 << 20  #: Bytes of a kernel's memory that are searched for kallsyms.
KERNEL_SEARCHES = 4  #: Kernels that are searched; all CPUs are in one, unless their registers are damaged.
BANNER_BYTES = 256  #: Bytes of ``linux_banner`` that are read.
COMMAND_LINE_BYTES = 4096  #: Bytes of the kernel's command line; COMMAND_LINE_SIZE of x86 is 2048.
FUNCTION_BYTES = 16 << 10  #: Bytes of a kernel function that is searched for a call.
PAGE_TABLES_KEPT = 2048  #: Page tables that are cached, 4 KiB each.
VMCOREINFO_BYTES = 64 << 10  #: Bytes of a VMCOREINFO note. The kernel's own has one page.
LOG_BYTES = 1 << 25  #: Bytes of text in the printk ring buffer. CONFIG_LOG_BUF_SHIFT goes up to 25.
LOG_FILE_BYTES = 4 << 30  #: Bytes of a log file: a console log has some MB, an exported journal can have some GB.
LOG_NUL_BYTES = 1 << 20  #: NULs at the beginning of a log file; a file system can leave some blocks after a crash.
LOG_LINE_BYTES = 1 << 11  #: Bytes of a line of a log file; the rest of a longer one counts as another.
SOS_FILE_BYTES = 16 << 20  #: Bytes of one file of an sos report.
LOG_SHARED = 1 << 14  #: Last lines of each boot in a log file that are compared with those in a dump.
LOG_BOOTS = 1 << 5  #: Boots in a log file; of more, the last ones.
LOG_RECORDS = LOG_BYTES >> 5  #: Descriptors of the printk ring buffer; the kernel has one for each 32 bytes of text.
SETUP_DATA_ENTRIES = 64  #: Entries of the setup_data chain, which is a linked list. The kernel knows 11 types.
SETUP_DATA_BYTES = 256 << 20  #: Bytes of one setup_data entry; the largest are option ROMs (SETUP_PCI).
KEXEC_SEGMENTS = 16  #: ``kimage.segment[]``: KEXEC_SEGMENT_MAX in include/linux/kexec.h.
KERNEL_IMAGE_BYTES = 1 << 30  #: Bytes of a kernel image in memory: KERNEL_IMAGE_SIZE with KASLR is 1 GiB.
INITRD_BYTES = 1 << 40  #: Bytes of an initrd, whose size is a number in boot_params.
KALLSYMS_SYMBOLS = 1 << 20  #: Symbols in kallsyms; a distribution's kernel has 100 to 250 thousand.
KALLSYMS_NAMES_BYTES = 16 << 20  #: Bytes of kallsyms' compressed names, about 12 for each symbol.
KALLSYMS_TOKEN_BYTES = 64 << 10  #: Bytes of kallsyms' token table; its 256 strings take about 1 KiB.
KALLSYMS_TABLES = 64  #: Places in a kernel's memory that look like kallsyms' token table; there are about 6.
SYMBOL_NAME_BYTES = 512  #: Bytes of the name of a symbol or type, with the NUL: the kernel's KSYM_NAME_LEN.
KALLSYMS_ALIASES = 64  #: Symbols at one address that are skipped to find the next address.
CHECKED_RANGES = 250_000  #: Ranges of a bitmap that are checked: 2 TiB with every second chunk accepted.
DOCUMENT_RANGES = 1 << 18  #: Ranges that ``ranges`` lists: 512 GiB with every second unit accepted.
BULK_PIECES = 1 << 18  #: Pieces of one state that ``resolve -f`` keeps; of more, each address is looked up alone.
RESOLVED_PIECES = 1 << 14  #: Pieces into which ``resolve`` splits ranges.
FINDING_RANGES = 1_000  #: Ranges that one finding lists.

#: Bytes of a snapshot file; a quarter of it if there are characters beyond ASCII. Real bitmaps compress a hundredfold;
#: one for 4 PiB fits if it compresses to a third. Reading takes several times as much memory.
SNAPSHOT_FILE_BYTES = 128 << 20
SNAPSHOT_FILE_VALUES = 3 << 20  #: JSON values in a snapshot file: enough for PAGE_RUNS.
FILE_WARNINGS = 8  #: Unknown fields of a file that are reported by name.
PER_CPU_LISTS = 64  #: Lists of one ``struct per_cpu_pages``: NR_PCP_LISTS is 12 to 14.
PER_CPU_PAGES = 1 << 20  #: Pages on all per-CPU lists together: 4 GiB.
GLOBAL_ARRAY_LENGTH = 8192  #: Elements of node_data and __per_cpu_offset: x86-64 has 8192 CPUs at most (CONFIG_MAXSMP).
PAGE_STRUCT_BYTES = 256  #: Bytes of ``struct page``: 64, and more with KMSAN.
NODES = 1024  #: NUMA nodes: MAX_NUMNODES of the largest configuration.
SECTION_PAGES = 1 << 20  #: Pages of one memory section. x86 has 32768, which are 128 MiB.
PAGE_ORDERS = 20  #: Elements of ``zone->free_area[]``. x86 has 11.
LISTED_CHUNKS = 4 << 20  #: Chunks on all ``zone->unaccepted_pages`` together: 16 TiB in chunks of 4 MiB.
LISTED_RUNS = 250_000  #: Runs of neighbouring chunks in one list. The kernel lists by address and takes from one end.
SNAPSHOT_UNPACKED_BYTES = BITMAP_BYTES + 24 * LISTED_CHUNKS  #: Bytes of compressed parts when unpacked.
LIST_PROBLEMS = 8  #: Wrong links of one list that are reported one by one.
ZONE_NAME_BYTES = 16  #: Bytes of a zone's name.
ZONE_STATS = 256  #: ``NR_VM_ZONE_STAT_ITEMS``: counters of one zone. Kernels have 10 to 30.
PER_CPU_READS = 1 << 20  #: Reads of per-CPU counters: populated zones times CPUs.
LIVE_ATTEMPTS = 3  #: Reads of a live list before it counts as damaged.
ACCEPTING_ENTRIES = GLOBAL_ARRAY_LENGTH  #: Entries of ``accepting_list``: one for each CPU, since interrupts are off.
ACCEPT_RANGE_BYTES = 256  #: Bytes of ``struct accept_range``, which has 32.
TASKS = 1 << 19  #: Tasks, threads included. The kernel itself allows 2^22.
TASK_STRUCT_BYTES = 64 << 10  #: Bytes of ``struct task_struct``, which has 3 to 12 KiB.
STACK_BYTES = 256 << 10  #: Bytes of a kernel stack: 16 KiB, 64 KiB with KASAN.
PAGES_SCANNED = 16 << 20  #: ``struct page`` that are scanned: 64 GiB of memory, 1 GiB of structures.
PAGE_RUNS = 1 << 18  #: Runs of pages in one state.
MASKED_PAGES = 1 << 16  #: Pages whose content is read to test whether it is masked.
PAGE_STATES = 1 << 14  #: Cached combinations of members of ``struct page``.
SECTIONS = 1 << 20  #: Memory sections that are looked up: 128 TiB.
ZONES = 8  #: Zones of a node: ZONES_SHIFT is 3 at most.
ZONE_BYTES = 64 << 10  #: Bytes of ``struct zone``, which has 1 to 3 KiB.
REPORT_PIECES = 1 << 22  #: Changes of state that ``report`` describes: 8 TiB with every second unit accepted.
REPORT_BYTES = 2_000_000  #: Bytes of packed ranges in the page of ``report``, in which its script looks addresses up.
REPORT_ROWS = 500  #: Rows of each table of the page of ``report``.
REPORT_CHOICES = 20  #: Choices that filter such a table, and ranges of one finding.
RECORDED_RUNS = 1024  #: Runs in which a bitmap or list differs from the sample before; of more, all is written.
RECORDING_LINE_BYTES = SNAPSHOT_FILE_BYTES  #: Bytes of one line of a recording; its first sample is a whole snapshot.
RECORDING_SECONDS = 100 * 366 * 86400  #: Seconds of a recording: a hundred years.
RECORDING_HEADER_BYTES = 4096  #: Bytes of a recording's header line.
FLEET_TARGETS = 1 << 22  #: Targets of one scan, and records of one merge.
FLEET_LINE_BYTES = 4 << 20  #: Bytes of a line of a fleet's files: 50 findings of FINDING_RANGES ranges, 30 bytes each.
FLEET_LAST_WORDS_BYTES = 4096  #: Bytes that are kept of a dying target process's stderr.
FLEET_ROWS = 1000  #: Releases, and platforms, that a summary has a row for; the others share one.
FLEET_TEXT = 4096  #: Characters of a text that a summary repeats.
FLEET_NAMED = 20  #: Hosts and examples that each part of a summary names; it always states how many there are.
PIPE_SECONDS = 10  #: Seconds to wait for data from a named pipe, or for QMP's greeting.
ADDRESS_TEXT_BYTES = 4096  #: Characters of one address that ``resolve -f`` reads.
