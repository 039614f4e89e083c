/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copied into include/linux/ of the lab kernel by ../patch.py. */
#ifndef _LINUX_LAB_ACCEPT_H
#define _LINUX_LAB_ACCEPT_H

#include <linux/types.h>

void lab_accept_memory(phys_addr_t start, phys_addr_t end);

#endif
