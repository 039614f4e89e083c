#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced before the hook of kdump (9999), which writes the dump below one of these directories.
if [ -s /proc/vmcore ]; then
	/usr/bin/unaccepted-table "$NEWROOT/var/crash" /kdumproot/var/crash /sysroot/var/crash
fi
