// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What an unmodified kernel calls in place of snp_accept_memory(start, end): it writes both to port 0xe9, where QEMU has
 * a debug console that is a file, as 16 bytes. Linked by ../binary.py to the place in the kernel that it is put at;
 * lab_lock is 4 bytes of the kernel's data that nothing uses. It runs with interrupts disabled, maybe on many CPUs.
 */
	.globl _start
_start:
	mov	$0xe9, %edx
1:	lock btsl $0, lab_lock(%rip)
	jc	1b
	mov	$16, %ecx
2:	mov	%edi, %eax
	out	%al, %dx
	shrd	$8, %rsi, %rdi
	shr	$8, %rsi
	loop	2b
	movl	$0, lab_lock(%rip)
	ret
