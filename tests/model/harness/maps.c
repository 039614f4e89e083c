/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Around efi_merge_regions(), efi_print_memmap() and e820__update_table(), cut out of the kernel's files. */
#include "kernel.h"

#define EFI_RESERVED_TYPE 0
#define E820_MAX_ENTRIES_ZEROPAGE 128
#define MAX_NUMNODES 64

static struct {
	struct {
		void *map, *map_end;
		unsigned long desc_size;
	} memmap;
} efi;

#define for_each_efi_memory_desc(md) \
	for (md = efi.memmap.map; (void *)md < efi.memmap.map_end; md = (void *)md + efi.memmap.desc_size)

static char *text;
static size_t room;

/* pr_fmt() of arch/x86/platform/efi/efi.c puts "efi: " in front. */
static void pr_info(const char *format, ...)
{
	va_list arguments;
	int length = snprintf(text, room, "efi: ");

	va_start(arguments, format);
	length += vsnprintf(text + length, room - length, format, arguments);
	va_end(arguments);
	text += length;
	room -= length;
}

static void sort(void *base, size_t number, size_t size, int (*compare)(const void *, const void *), void *swap)
{
	qsort(base, number, size, compare);
}

#include "attributes.inc"
#include "efi.inc"
#include "e820.inc"

static void use(void *entries, int number, int stride)
{
	efi.memmap.map = entries;
	efi.memmap.map_end = (char *)entries + (size_t)number * stride;
	efi.memmap.desc_size = stride;
}

void merge(void *entries, int number, int stride)
{
	use(entries, number, stride);
	efi_merge_regions();
}

void print(void *entries, int number, int stride, char *to, size_t size)
{
	text = to;
	room = size;
	use(entries, number, stride);
	efi_print_memmap();
}

int update(void *table)
{
	return e820__update_table(table);
}
