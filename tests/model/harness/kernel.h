/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Just enough of an environment to compile a few functions of the kernel as they are, in user space. */
#ifndef HARNESS_KERNEL_H
#define HARNESS_KERNEL_H

#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint32_t __u32;
typedef unsigned long long u64;
typedef u64 phys_addr_t;
typedef unsigned long efi_status_t;
typedef int efi_guid_t;

#define __init
#define __initdata
#define BITS_PER_BYTE 8
#define PAGE_SHIFT 12
#define PAGE_SIZE (1ULL << PAGE_SHIFT)
#define EFI_PAGE_SHIFT 12
#define BIT_ULL(bit) (1ULL << (bit))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define BUG_ON(condition) do { if (condition) abort(); } while (0)
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define round_down(n, to) ((n) / (to) * (to))
#define round_up(n, to) round_down((n) + (to) - 1, to)
#define PAGE_ALIGN(address) round_up(address, PAGE_SIZE)
#define PAGE_ALIGN_DOWN(address) round_down(address, PAGE_SIZE)

typedef struct {
	u32 type;
	u32 pad;
	u64 phys_addr;
	u64 virt_addr;
	u64 num_pages;
	u64 attribute;
} efi_memory_desc_t;

struct efi_unaccepted_memory {
	u32 version;
	u32 unit_size;
	u64 phys_base;
	u64 size;
	unsigned long bitmap[];
};

/* First bit from `from` on that has this value, or size. */
static inline unsigned long next_bit(const unsigned long *map, unsigned long size, unsigned long from, int value)
{
	while (from < size && (int)(((const u8 *)map)[from / 8] >> from % 8 & 1) != value)
		from++;
	return from < size ? from : size;
}

#define test_bit(bit, map) (((const u8 *)(map))[(bit) / 8] >> (bit) % 8 & 1)

#define for_each_set_bitrange_from(b, e, map, size) \
	for (; b = next_bit(map, size, b, 1), e = next_bit(map, size, b, 0), b < (size); b = e)

static inline void bitmap_clear(unsigned long *map, unsigned long start, unsigned long number)
{
	for (; number--; start++)
		((u8 *)map)[start / 8] &= ~(1 << start % 8);
}

#endif
