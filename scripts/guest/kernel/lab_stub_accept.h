/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The EFI stub's stand-in for the instruction that accepts memory. It runs after ExitBootServices() and before any
 * console, so it writes "lab-stub-accept: START END" (END exclusive) straight to the first serial port.
 * Copied into arch/x86/boot/compressed/ of the lab kernel by ../patch.py.
 */
#ifndef LAB_STUB_ACCEPT_H
#define LAB_STUB_ACCEPT_H

#define LAB_UART 0x3f8
#define LAB_UART_LSR (LAB_UART + 5)
#define LAB_UART_LSR_THRE 0x20

static inline void lab_putc(unsigned char c)
{
	unsigned char lsr;

	do {
		asm volatile("inb %1, %0" : "=a"(lsr) : "Nd"((unsigned short)LAB_UART_LSR));
	} while (!(lsr & LAB_UART_LSR_THRE));
	asm volatile("outb %0, %1" : : "a"(c), "Nd"((unsigned short)LAB_UART));
}

static inline void lab_puts(const char *s)
{
	while (*s)
		lab_putc(*s++);
}

static inline void lab_puthex(unsigned long long value)
{
	int shift;

	lab_puts("0x");
	for (shift = 60; shift >= 0; shift -= 4)
		lab_putc("0123456789abcdef"[(value >> shift) & 0xf]);
}

static inline void lab_stub_accept(unsigned long long start, unsigned long long end)
{
	lab_puts("lab-stub-accept: ");
	lab_puthex(start);
	lab_puts(" ");
	lab_puthex(end);
	lab_puts("\r\n");
}

#endif
