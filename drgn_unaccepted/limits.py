# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every bound on what is read out of a target, in one place.

A dump is untrusted input: a size, a count or a pointer found in it is compared with one of these before
anything is allocated or followed. Reaching a bound is a stated reason, never a silent truncation.
"""

from __future__ import annotations

#: Bytes of bitmap. 256 MiB cover 4 PiB at 2 MiB a unit, the kernel's own stated worst case.
BITMAP_BYTES = 256 << 20

#: Highest physical address plus one that x86-64 can have (52 bits).
PHYSICAL_END = 1 << 52

#: Bytes of BTF. A distribution's vmlinux has 3 to 7 MB; the kernel itself takes no more than 16 MiB of
#: strings and a million types (include/uapi/linux/btf.h BTF_MAX_NAME_OFFSET, BTF_MAX_TYPE).
BTF_BYTES = 32 << 20

#: Types in a chain: typedefs, qualifiers, pointers, arrays, anonymous members. The kernel's own bound for
#: resolving one is 32 (kernel/bpf/btf.c MAX_RESOLVE_DEPTH).
BTF_NESTING = 64

#: Members of a structure, those of anonymous members included. The largest one of a kernel has some hundreds.
BTF_MEMBERS = 1 << 12

#: Bytes of a structure or an array. The largest array of a kernel has 4 MiB.
BTF_TYPE_BYTES = 16 << 20

#: Places in BTF's type section that match one name.
BTF_MATCHES = 1 << 20

#: Copies of one string in BTF's string section. libbpf stores each once.
BTF_SAME_STRINGS = 16

#: Entries of an EFI memory map. Firmware gives some hundreds.
EFI_DESCRIPTORS = 1 << 16

#: Bytes from one EFI memory descriptor to the next. The structure has 40, OVMF uses 48.
EFI_DESCRIPTOR_BYTES = 256

#: Entries of an e820 table: E820_MAX_ENTRIES with the most nodes that x86 can be built for (1,024).
E820_ENTRIES = 128 + 3 * 1024

#: Program headers of an ELF dump. QEMU and the kernel write one for each RAM range.
ELF_SEGMENTS = 1 << 20

#: Bytes of an ELF dump's notes: registers of each CPU, about 1 KiB, and VMCOREINFO.
ELF_NOTE_BYTES = 16 << 20

#: Sections of a vmlinux or a debug file. A distribution's has 50 to 100.
ELF_SECTIONS = 1 << 16

#: Bytes of the sections' names.
ELF_SECTION_NAMES_BYTES = 4 << 20

#: Bytes of a vmlinux's notes; a distribution's has some hundred.
VMLINUX_NOTE_BYTES = 1 << 20

#: Bytes of a vmlinux's symbol tables and their names: 3 million symbols. Distributions have 200 thousand.
VMLINUX_SYMBOLS_BYTES = 128 << 20

#: Bytes that an ELF dump is read in where it is searched.
SEARCH_PIECE_BYTES = 16 << 20

#: Bytes of a dump that are searched for VMCOREINFO, holes not counted. 256 GiB take some minutes.
VMCOREINFO_SEARCH_BYTES = 256 << 30

#: VMCOREINFO of different kernels in one memory: each kexec may leave one behind.
VMCOREINFO_COPIES = 64

#: Bytes of ``linux_banner`` that are looked at: compiler and builder are named in it.
BANNER_BYTES = 256

#: Tables of pages that are kept at once, 4 KiB each.
PAGE_TABLES_KEPT = 2048

#: Bytes of a VMCOREINFO note. The kernel's own has one page.
VMCOREINFO_BYTES = 64 << 10

#: Bytes of text in the printk ring buffer. CONFIG_LOG_BUF_SHIFT goes up to 25; ``log_buf_len=`` may ask for more.
LOG_BYTES = 1 << 25

#: Descriptors of the printk ring buffer; the kernel has one for each 32 bytes of text.
LOG_RECORDS = LOG_BYTES >> 5

#: Entries of the setup_data chain, which is a linked list. The kernel knows 11 types.
SETUP_DATA_ENTRIES = 64

#: Bytes of one setup_data entry; the largest are option ROMs (SETUP_PCI).
SETUP_DATA_BYTES = 256 << 20

#: ``kimage.segment[]``: KEXEC_SEGMENT_MAX in include/linux/kexec.h.
KEXEC_SEGMENTS = 16

#: Bytes of a kernel image in memory: KERNEL_IMAGE_SIZE with KASLR is 1 GiB.
KERNEL_IMAGE_BYTES = 1 << 30

#: Bytes of an initrd, whose size is a number in boot_params.
INITRD_BYTES = 1 << 40

#: Symbols in kallsyms; a distribution's kernel has 100 to 250 thousand.
KALLSYMS_SYMBOLS = 1 << 20

#: Bytes of kallsyms' names in their code, about 12 a symbol.
KALLSYMS_NAMES_BYTES = 16 << 20

#: Bytes of the strings that kallsyms' 256 tokens stand for, about 1 KiB.
KALLSYMS_TOKEN_BYTES = 64 << 10

#: Bytes of a symbol's or type's name with the NUL: the kernel's KSYM_NAME_LEN.
SYMBOL_NAME_BYTES = 512

#: Symbols at one address that are looked through for the next address.
KALLSYMS_ALIASES = 64

#: Ranges of a bitmap that the checks look at. A guest accepts from one end of each zone, so that a bitmap has few;
#: this many are 2 TiB with every second chunk accepted.
CHECKED_RANGES = 250_000

#: Ranges that ``ranges`` lists: 512 GiB with every second unit accepted. Real guests have some hundreds.
DOCUMENT_RANGES = 1 << 18

#: Pieces of one state that ``resolve -f`` keeps in memory; a bitmap that has more is asked address by address.
BULK_PIECES = 1 << 18

#: Pieces into which ``resolve`` divides ranges, each with all columns.
RESOLVED_PIECES = 1 << 14

#: Ranges that one finding lists.
FINDING_RANGES = 1_000

#: Bytes of a snapshot file, and a quarter of it where characters are not ASCII. Real bitmaps compress a hundredfold;
#: one of 4 PiB fits if it compresses to a third. Reading takes some times as much.
SNAPSHOT_FILE_BYTES = 128 << 20

#: Numbers, texts, lists and objects in a snapshot file: as many runs of pages as there can be, and then some.
SNAPSHOT_FILE_VALUES = 3 << 20

#: Unknown fields of a file that are reported by name.
FILE_WARNINGS = 8

#: Elements of a global array whose length comes from the target: node_data, __per_cpu_offset. The most that
#: x86-64 can be configured for is 8192 CPUs (CONFIG_MAXSMP) and 1024 nodes.
GLOBAL_ARRAY_LENGTH = 8192

#: Bytes of ``struct page``: 64, and more with KMSAN.
PAGE_STRUCT_BYTES = 256

#: NUMA nodes: MAX_NUMNODES of the largest configuration.
NODES = 1024

#: Pages of one memory section. x86 has 32768, which are 128 MiB.
SECTION_PAGES = 1 << 20

#: Elements of ``zone->free_area[]``. x86 has 11.
PAGE_ORDERS = 20

#: Chunks on all ``zone->unaccepted_pages`` together: 16 TiB in chunks of 4 MiB.
LISTED_CHUNKS = 4 << 20

#: Runs of neighbouring chunks in one list. The kernel lists memory in order of address and takes it from one end.
LISTED_RUNS = 250_000

#: Bytes that are compressed in a snapshot file: the largest bitmap, and 24 bytes for each chunk of the longest lists.
SNAPSHOT_UNPACKED_BYTES = BITMAP_BYTES + 24 * LISTED_CHUNKS

#: Wrong links of one list that are told one by one.
LIST_PROBLEMS = 8

#: Bytes of a zone's name.
ZONE_NAME_BYTES = 16

#: ``NR_VM_ZONE_STAT_ITEMS``: counters of one zone. Kernels have 10 to 30.
ZONE_STATS = 256

#: Reads of per-CPU counters: populated zones times CPUs.
PER_CPU_READS = 1 << 20

#: How often a list of a running kernel is read before what is wrong with it is reported.
LIVE_ATTEMPTS = 3

#: Entries of ``accepting_list``: each is a task with interrupts off, so that there is one for each CPU at most.
ACCEPTING_ENTRIES = GLOBAL_ARRAY_LENGTH

#: Bytes of ``struct accept_range``, which has 32.
ACCEPT_RANGE_BYTES = 256

#: Tasks, threads included. The kernel itself allows 2^22.
TASKS = 1 << 19

#: Bytes of ``struct task_struct``. Kernels have 3 to 12 KiB of it.
TASK_STRUCT_BYTES = 64 << 10

#: Bytes of a kernel stack: 16 KiB, 64 KiB with KASAN.
STACK_BYTES = 256 << 10

#: ``struct page`` that are looked at: 64 GiB of memory, 1 GiB of structures.
PAGES_SCANNED = 16 << 20

#: Runs of pages of one state.
PAGE_RUNS = 1 << 18

#: Pages whose content is read to see whether it is masked.
MASKED_PAGES = 1 << 16

#: Combinations of members of ``struct page`` whose meaning is remembered.
PAGE_STATES = 1 << 14

#: Memory sections that are looked up: 128 TiB.
SECTIONS = 1 << 20

#: Runs of unaccepted memory outside RAM that a map tells apart. There should be none.
MAP_STRAYS = 4096

#: Zones of a node: ZONES_SHIFT is 3 at most.
ZONES = 8

#: Bytes of ``struct zone``, which has 1 to 3 KiB.
ZONE_BYTES = 64 << 10

#: Changes of state that ``report`` describes: 8 TiB with every second unit accepted. Real guests have some hundreds.
REPORT_PIECES = 1 << 22

#: Bytes of the page that ``report`` writes.
REPORT_BYTES = 2_000_000

#: Runs in which the bitmap, or a list of chunks, differs from the sample before. More are written whole.
RECORDED_RUNS = 1024

#: Bytes of one line of a recording; its first sample is a whole snapshot.
RECORDING_LINE_BYTES = SNAPSHOT_FILE_BYTES

#: Seconds of a recording: a hundred years.
RECORDING_SECONDS = 100 * 366 * 86400

#: Bytes of the header line of a recording, and of a file that the flight recorder keeps beside its snapshots.
RECORDING_HEADER_BYTES = 4096

#: Targets of one scan, and records of one merge.
FLEET_TARGETS = 1 << 22

#: Bytes of one line of a fleet's files: a record, or an entry of a manifest. A finding lists
#: :data:`FINDING_RANGES` ranges of some 30 bytes, and there are about 50 findings at most.
FLEET_LINE_BYTES = 4 << 20

#: Bytes that are kept of what a target's process says on its way out.
FLEET_LAST_WORDS_BYTES = 4096

#: Hosts and examples that a summary names in each of its parts; how many there are is always said.
FLEET_NAMED = 20

#: Seconds in which something has to come through a named pipe.
PIPE_SECONDS = 10

#: Characters between two blanks in the addresses that ``resolve -f`` reads.
ADDRESS_TEXT_BYTES = 4096
