// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Start a Linux EFI stub on a firmware that appears to have unaccepted memory.
 *
 * \lab\ranges    memory to report as type 15 (EfiUnacceptedMemoryType), one range per line, hexadecimal, END exclusive:
 *                    alloc START END     allocated from the firmware's free memory
 *                    fake START END      only reported; the firmware has no memory there (a hotplug DIMM, or nothing)
 * \lab\cmdline   the kernel's command line
 * \lab\bzImage   the kernel
 * \lab\patch     what to change in an unmodified kernel, or nothing; written by ../binary.py. Bytes in hexadecimal:
 *                    find BYTES          these are in the decompressed kernel exactly once
 *                    at OFFSET OLD NEW   from where they are found; backwards with a "-"
 *
 * Each `alloc` range gets its own memory type from the OS loader's private types, so that the firmware does not merge
 * adjacent ranges. A wrapper of GetMemoryMap() reports these types as 15 and prints every map ("lab-map") directly to
 * the first serial port: the firmware's console would allocate memory and change the map key.
 *
 * Since 6.6, the kernel's EFI stub decompresses the kernel before it asks for the final map, so that the wrapper finds
 * the kernel in memory of the types LoaderCode or LoaderData, and changes it there. A kernel that could not be changed
 * does not get past ExitBootServices().
 */
#include <efi.h>
#include <efilib.h>

#define PRIVATE_TYPE 0x80000000u
#define UNACCEPTED_TYPE 15
#define MAX_RANGES 256
#define MAX_TEXT 65536
#define UART 0x3f8
#define MAX_EDITS 8
#define MAX_BYTES 96
#define MIN_KERNEL_PAGES (16ul << 20 >> EFI_PAGE_SHIFT)
#define CR0_WP (1ul << 16)

struct range {
	UINT64 start;
	UINT64 end;
};

static struct range allocated[MAX_RANGES], faked[MAX_RANGES];
static UINTN nr_allocated, nr_faked, nr_calls;
static EFI_GET_MEMORY_MAP firmware_get_memory_map;
static EFI_EXIT_BOOT_SERVICES firmware_exit_boot_services;

struct edit {
	INT64 offset;
	UINTN size;
	UINT8 old[MAX_BYTES], new[MAX_BYTES];
};

static UINT8 signature[MAX_BYTES];
static UINTN signature_size, nr_edits;
static struct edit edits[MAX_EDITS];
static BOOLEAN patched;

/* --- the serial port, without the firmware --- */

static void put(char c)
{
	UINT8 status;

	do {
		__asm__ volatile("inb %1, %0" : "=a"(status) : "Nd"((UINT16)(UART + 5)));
	} while (!(status & 0x20));
	__asm__ volatile("outb %0, %1" : : "a"(c), "Nd"((UINT16)UART));
}

static void puts(const char *s)
{
	while (*s)
		put(*s++);
}

static void puthex(UINT64 value)
{
	int shift = 60;

	while (shift > 0 && !(value >> shift))
		shift -= 4;
	puts("0x");
	for (; shift >= 0; shift -= 4)
		put("0123456789abcdef"[(value >> shift) & 0xf]);
}

static void newline(void)
{
	puts("\r\n");
}

static EFI_STATUS fail(const char *what, EFI_STATUS status)
{
	puts("lab-loader-error: ");
	puts(what);
	puts(" ");
	puthex(status);
	newline();
	return status;
}

/* --- the memory map --- */

static EFI_MEMORY_DESCRIPTOR *descriptor(EFI_MEMORY_DESCRIPTOR *map, UINTN stride, UINTN i)
{
	return (EFI_MEMORY_DESCRIPTOR *)((UINT8 *)map + i * stride);
}

static void print_map(EFI_MEMORY_DESCRIPTOR *map, UINTN size, UINTN stride)
{
	UINTN i, count = size / stride;

	puts("lab-map-begin ");
	puthex(++nr_calls);
	puts(" ");
	puthex(count);
	puts(" ");
	puthex(stride);
	newline();
	for (i = 0; i < count; i++) {
		EFI_MEMORY_DESCRIPTOR *d = descriptor(map, stride, i);

		puts("lab-map ");
		puthex(d->Type);
		puts(" ");
		puthex(d->PhysicalStart);
		puts(" ");
		puthex(d->NumberOfPages);
		puts(" ");
		puthex(d->Attribute);
		newline();
	}
	puts("lab-map-end ");
	puthex(nr_calls);
	newline();
}

/* --- an unmodified kernel --- */

static BOOLEAN same(const UINT8 *a, const UINT8 *b, UINTN size)
{
	while (size && *a == *b) {
		a++;
		b++;
		size--;
	}
	return !size;
}

/* Find the decompressed kernel in the memory of this map. Change it, or leave it as it is. */
static void patch_kernel(EFI_MEMORY_DESCRIPTOR *map, UINTN size, UINTN stride)
{
	UINT8 *found = NULL, *p;
	UINTN i, j, cr0, matches = 0;

	for (i = 0; i < size / stride; i++) {
		EFI_MEMORY_DESCRIPTOR *d = descriptor(map, stride, i);
		UINT8 *end = (UINT8 *)(d->PhysicalStart + d->NumberOfPages * EFI_PAGE_SIZE) - signature_size;

		if ((d->Type != EfiLoaderCode && d->Type != EfiLoaderData) || d->NumberOfPages < MIN_KERNEL_PAGES)
			continue;
		for (p = (UINT8 *)d->PhysicalStart; p <= end; p++) {
			if (same(p, signature, signature_size)) {
				found = p;
				matches++;
			}
		}
	}
	if (!matches)
		return;
	if (matches > 1) {
		fail("bytes of accept_memory() found more than once:", matches);
		return;
	}
	for (i = 0; i < nr_edits; i++) {
		if (!same(found + edits[i].offset, edits[i].old, edits[i].size)) {
			fail("kernel in memory differs from its image, edit", i);
			return;
		}
	}
	/* The stub may have made the kernel's text read-only. */
	__asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
	__asm__ volatile("mov %0, %%cr0" : : "r"(cr0 & ~CR0_WP) : "memory");
	for (i = 0; i < nr_edits; i++)
		for (j = 0; j < edits[i].size; j++)
			found[edits[i].offset + j] = edits[i].new[j];
	__asm__ volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
	patched = TRUE;
	puts("lab-loader: patched accept_memory() near ");
	puthex((UINT64)found);
	newline();
}

static EFI_STATUS EFIAPI exit_boot_services(EFI_HANDLE image, UINTN key)
{
	if (signature_size && !patched)
		return fail("accept_memory() not found in memory, kernel not patched", EFI_NOT_FOUND);
	return firmware_exit_boot_services(image, key);
}

static EFI_STATUS EFIAPI get_memory_map(UINTN *size, EFI_MEMORY_DESCRIPTOR *map, UINTN *key, UINTN *stride,
					UINT32 *version)
{
	UINTN i, room = *size;
	EFI_STATUS status = firmware_get_memory_map(size, map, key, stride, version);

	if (status == EFI_BUFFER_TOO_SMALL) {
		*size += nr_faked * *stride;
		return status;
	}
	if (EFI_ERROR(status))
		return status;
	if (signature_size && !patched)
		patch_kernel(map, *size, *stride);
	if (*size + nr_faked * *stride > room) {
		*size += nr_faked * *stride;
		return EFI_BUFFER_TOO_SMALL;
	}
	for (i = 0; i < *size / *stride; i++) {
		EFI_MEMORY_DESCRIPTOR *d = descriptor(map, *stride, i);

		if (d->Type >= PRIVATE_TYPE && d->Type < PRIVATE_TYPE + nr_allocated)
			d->Type = UNACCEPTED_TYPE;
	}
	for (i = 0; i < nr_faked; i++) {
		EFI_MEMORY_DESCRIPTOR *d = descriptor(map, *stride, *size / *stride);

		d->Type = UNACCEPTED_TYPE;
		d->PhysicalStart = faked[i].start;
		d->VirtualStart = 0;
		d->NumberOfPages = (faked[i].end - faked[i].start) / EFI_PAGE_SIZE;
		d->Attribute = EFI_MEMORY_UC | EFI_MEMORY_WC | EFI_MEMORY_WT | EFI_MEMORY_WB;
		*size += *stride;
	}
	print_map(map, *size, *stride);
	return EFI_SUCCESS;
}

static void wrap_boot_services(void)
{
	UINT32 crc = 0;

	firmware_get_memory_map = BS->GetMemoryMap;
	BS->GetMemoryMap = get_memory_map;
	firmware_exit_boot_services = BS->ExitBootServices;
	BS->ExitBootServices = exit_boot_services;
	BS->Hdr.CRC32 = 0;
	BS->CalculateCrc32(&BS->Hdr, BS->Hdr.HeaderSize, &crc);
	BS->Hdr.CRC32 = crc;
}

/* Print the firmware's own map, which shows the ranges that are free. */
static void print_firmware_map(void)
{
	static UINT8 map[65536] __attribute__((aligned(8)));
	UINTN key, stride, size = sizeof(map);
	UINT32 version;

	if (!EFI_ERROR(BS->GetMemoryMap(&size, (EFI_MEMORY_DESCRIPTOR *)map, &key, &stride, &version)))
		print_map((EFI_MEMORY_DESCRIPTOR *)map, size, stride);
}

/* --- the files --- */

static EFI_STATUS read_text(EFI_FILE_HANDLE root, CHAR16 *path, char *text)
{
	EFI_FILE_HANDLE file;
	UINTN size = MAX_TEXT - 1;
	EFI_STATUS status = root->Open(root, &file, path, EFI_FILE_MODE_READ, 0);

	if (EFI_ERROR(status))
		return status;
	status = file->Read(file, &size, text);
	file->Close(file);
	if (!EFI_ERROR(status) && size == MAX_TEXT - 1)
		status = EFI_BAD_BUFFER_SIZE;
	text[size] = 0;
	return status;
}

static char *number(char *s, UINT64 *value)
{
	*value = 0;
	while (*s == ' ')
		s++;
	if (s[0] == '0' && s[1] == 'x')
		s += 2;
	for (;; s++) {
		if (*s >= '0' && *s <= '9')
			*value = *value << 4 | (UINT64)(*s - '0');
		else if (*s >= 'a' && *s <= 'f')
			*value = *value << 4 | (UINT64)(*s - 'a' + 10);
		else
			return s;
	}
}

static EFI_STATUS take_ranges(char *s)
{
	while (*s) {
		char kind = *s;
		struct range range;
		EFI_STATUS status;

		if (kind != 'a' && kind != 'f')
			return fail("ranges: neither alloc nor fake", EFI_INVALID_PARAMETER);
		while (*s && *s != ' ')
			s++;
		s = number(s, &range.start);
		s = number(s, &range.end);
		if (*s == '\n')
			s++;
		else if (*s)
			return fail("ranges: not a hexadecimal number", EFI_INVALID_PARAMETER);
		if (range.start >= range.end || (range.start | range.end) % EFI_PAGE_SIZE ||
		    nr_allocated == MAX_RANGES || nr_faked == MAX_RANGES)
			return fail("ranges: empty, not whole pages, or too many", EFI_INVALID_PARAMETER);

		if (kind == 'f') {
			faked[nr_faked++] = range;
			continue;
		}
		status = BS->AllocatePages(AllocateAddress, PRIVATE_TYPE + nr_allocated,
					   (range.end - range.start) / EFI_PAGE_SIZE, &range.start);
		if (EFI_ERROR(status)) {
			print_firmware_map();
			puthex(range.start);
			newline();
			return fail("the firmware's free memory (type 7 above) has no such range", status);
		}
		allocated[nr_allocated++] = range;
	}
	return EFI_SUCCESS;
}

static UINTN digit(char c)
{
	return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* Pairs of hexadecimal digits up to a space or a newline, which is skipped. */
static char *bytes(char *s, UINT8 *into, UINTN *size)
{
	for (*size = 0; *s > ' ' && *size < MAX_BYTES; s += 2)
		into[(*size)++] = digit(s[0]) << 4 | digit(s[1]);
	return *s == ' ' || *s == '\n' ? s + 1 : s;
}

static EFI_STATUS take_edits(char *s)
{
	if (*s != 'f')
		return fail("patch: no find", EFI_INVALID_PARAMETER);
	s = bytes(s + sizeof("find"), signature, &signature_size);
	while (*s) {
		struct edit *edit = &edits[nr_edits];
		UINT64 distance;
		UINTN new_size;
		BOOLEAN back;

		if (*s != 'a' || nr_edits++ == MAX_EDITS)
			return fail("patch: not an edit, or too many", EFI_INVALID_PARAMETER);
		s += sizeof("at");
		back = *s == '-';
		s = number(s + back, &distance) + 1;
		edit->offset = back ? -(INT64)distance : (INT64)distance;
		s = bytes(s, edit->old, &edit->size);
		s = bytes(s, edit->new, &new_size);
		if (new_size != edit->size || !edit->size)
			return fail("patch: old and new bytes differ in number", EFI_INVALID_PARAMETER);
	}
	return EFI_SUCCESS;
}

EFI_STATUS efi_main(EFI_HANDLE self, EFI_SYSTEM_TABLE *table)
{
	static EFI_GUID loaded_image_guid = EFI_LOADED_IMAGE_PROTOCOL_GUID;
	static char text[MAX_TEXT];
	static CHAR16 command_line[MAX_TEXT];
	EFI_LOADED_IMAGE *own, *kernel;
	EFI_FILE_HANDLE root;
	EFI_HANDLE image = NULL;
	EFI_STATUS status;
	UINTN i;

	InitializeLib(self, table);
	puts("\r\nlab-loader: started\r\n");
	status = BS->HandleProtocol(self, &loaded_image_guid, (void **)&own);
	if (EFI_ERROR(status))
		return fail("own image", status);
	root = LibOpenRoot(own->DeviceHandle);
	if (!root)
		return fail("own volume", EFI_NOT_FOUND);

	status = BS->LoadImage(FALSE, self, FileDevicePath(own->DeviceHandle, L"\\lab\\bzImage"), NULL, 0, &image);
	if (EFI_ERROR(status))
		return fail("load the kernel", status);
	status = BS->HandleProtocol(image, &loaded_image_guid, (void **)&kernel);
	if (EFI_ERROR(status))
		return fail("the kernel's image", status);

	status = read_text(root, L"\\lab\\cmdline", text);
	if (EFI_ERROR(status))
		return fail("read cmdline", status);
	for (i = 0; text[i] && text[i] != '\n'; i++)
		command_line[i] = (CHAR16)text[i];
	kernel->LoadOptions = command_line;
	kernel->LoadOptionsSize = (UINT32)((i + 1) * sizeof(CHAR16));

	status = read_text(root, L"\\lab\\ranges", text);
	if (EFI_ERROR(status))
		return fail("read ranges", status);
	status = take_ranges(text);
	if (EFI_ERROR(status))
		return status;

	status = read_text(root, L"\\lab\\patch", text);
	if (!EFI_ERROR(status) && text[0])
		status = take_edits(text);
	if (EFI_ERROR(status) && status != EFI_NOT_FOUND)
		return status;

	wrap_boot_services();
	puts("lab-loader: starting the kernel\r\n");
	return fail("the kernel came back", BS->StartImage(image, NULL, NULL));
}
