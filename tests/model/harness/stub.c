/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Around drivers/firmware/efi/libstub/unaccepted_memory.c: hands it a map, keeps what it did. */
#include "kernel.h"

#define EFI_SUCCESS 0
#define EFI_UNSUPPORTED 1
#define EFI_UNACCEPTED_MEMORY 15
#define EFI_ACPI_RECLAIM_MEMORY 9
#define LINUX_EFI_UNACCEPTED_MEM_TABLE_GUID 0
#define EFI_UNACCEPTED_UNIT_SIZE unit_size_wanted
#define efi_err(...) ((void)0)
#define efi_memdesc_ptr(map, stride, index) ((efi_memory_desc_t *)((map) + (stride) * (index)))
#define efi_bs_call(service, ...) boot_##service(__VA_ARGS__)

struct efi_boot_memmap {
	unsigned long map_size;
	unsigned long desc_size;
	efi_memory_desc_t map[];
};

u64 unit_size_wanted;
u64 accepted[4096][2];
int number_accepted;
int overran;
struct efi_unaccepted_memory *installed;

static struct efi_unaccepted_memory *get_efi_config_table(efi_guid_t guid)
{
	return installed;
}

static efi_status_t boot_allocate_pool(int type, size_t size, void **memory)
{
	*memory = calloc(1, size + 8);
	return EFI_SUCCESS;
}

static efi_status_t boot_install_configuration_table(efi_guid_t *guid, void *table)
{
	installed = table;
	return EFI_SUCCESS;
}

static efi_status_t boot_free_pool(void *memory)
{
	free(memory);
	return EFI_SUCCESS;
}

static void arch_accept_memory(u64 start, u64 end)
{
	accepted[number_accepted][0] = start;
	accepted[number_accepted++][1] = end;
}

/* The kernel's would write wherever it is told to; this one says so. */
static void bitmap_set(unsigned long *map, u64 start, u64 number)
{
	u64 bits = installed->size * 8;

	if (start > bits || number > bits - start) {
		overran = 1;
		return;
	}
	for (; number--; start++)
		((u8 *)map)[start / 8] |= 1 << start % 8;
}

#include KERNEL_FILE

/* A table from an earlier stage; without one the kernel allocates its own. */
void install(u64 phys_base, u64 size, u32 unit_size)
{
	installed = calloc(1, sizeof(*installed) + size + 8);
	installed->version = 1;
	installed->unit_size = unit_size;
	installed->phys_base = phys_base;
	installed->size = size;
}

void forget(void)
{
	free(installed);
	installed = unaccepted_table = NULL;
	number_accepted = overran = 0;
}

/* What setup_e820() does with type 15. The table's address, or NULL if the map has no such memory. */
struct efi_unaccepted_memory *boot(const void *entries, int number, int stride, u64 unit_size)
{
	struct efi_boot_memmap *map = malloc(sizeof(*map) + (size_t)number * stride);
	int i;

	map->map_size = (unsigned long)number * stride;
	map->desc_size = stride;
	memcpy(map->map, entries, map->map_size);
	unit_size_wanted = unit_size;
	if (allocate_unaccepted_bitmap(number, map) != EFI_SUCCESS)
		abort();
	for (i = 0; i < number; i++) {
		efi_memory_desc_t *d = efi_memdesc_ptr((unsigned long)map->map, map->desc_size, i);

		if (d->type == EFI_UNACCEPTED_MEMORY)
			process_unaccepted_memory(d->phys_addr, d->phys_addr + d->num_pages * PAGE_SIZE);
	}
	free(map);
	return installed;
}
