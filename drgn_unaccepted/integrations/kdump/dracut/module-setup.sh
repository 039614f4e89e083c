#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# dracut module for kdump's initramfs on Fedora and RHEL: /usr/lib/dracut/modules.d/98unaccepted, with unaccepted-table and
# drgn-unaccepted in /usr/bin. It brings Python with the modules that `keep --crash-kernel` imports, and drgn.

check() {
	require_binaries drgn-unaccepted unaccepted-table python3 timeout || return 1
	# Only for kdump's initramfs, which asks for it: dracut_args --add unaccepted in /etc/kdump.conf.
	return 255
}

depends() {
	return 0
}

# The files of all modules that the command imports; packages have some of them in a directory of their own.
FILES='
import sys
sys.path.append("/usr/lib/drgn-unaccepted")
import encodings.ascii, encodings.latin_1, encodings.utf_8, drgn
import drgn_unaccepted.cli, drgn_unaccepted.commands.keep, drgn_unaccepted.kernel.bpf
for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None)
    if path:
        print(path)
'

install() {
	local file
	inst_multiple drgn-unaccepted unaccepted-table python3 timeout cp mv sleep sync
	while read -r file; do
		inst_simple "$file"
		case $file in *.so*) inst_library "$file" ;; esac
	done < <(python3 -I -c "$FILES")
	inst_hook pre-pivot 0900 "$moddir/hook.sh"
}
