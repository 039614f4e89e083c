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

# The files of all modules that the command imports, also late ones; packages have some in a directory of their own.
FILES='
import contextlib, importlib, io, pkgutil, sys
sys.path.append("/usr/lib/drgn-unaccepted")
import encodings.ascii, encodings.latin_1, encodings.utf_8
import drgn_unaccepted.__main__, drgn_unaccepted.kernel
for module in pkgutil.iter_modules(drgn_unaccepted.kernel.__path__):
    importlib.import_module("drgn_unaccepted.kernel." + module.name)
with contextlib.redirect_stderr(io.StringIO()):
    for words in ("keep --crash-kernel -o /nonexistent/table", "keep --no-such"):
        sys.argv[1:] = words.split()
        drgn_unaccepted.__main__.main()
files = {getattr(module, "__file__", None) for module in sys.modules.values()}
# Libraries too: dracut looks for those of executable files alone.
files.update(line.split(None, 5)[5].rstrip() for line in open("/proc/self/maps") if ".so" in line)
print(*sorted(filter(None, files)), sep="\n")
'

install() {
	local files
	mapfile -t files < <(python3 -I -c "$FILES")
	inst_multiple drgn-unaccepted unaccepted-table python3 timeout cp mv sleep sync "${files[@]}"
	inst_hook pre-pivot 0900 "$moddir/hook.sh"
}
