# SPDX-License-Identifier: LGPL-2.1-or-later
# mypy: ignore-errors
"""sos plugin: what drgn-unaccepted says of the running kernel and of dumps that it has looked at.

Copy to the directory of sos' plugins (python3 -c 'import sos.report.plugins as p; print(p.__path__[0])').
"""

from __future__ import annotations

from sos.report.plugins import DebianPlugin, IndependentPlugin, Plugin, RedHatPlugin, SuSEPlugin, UbuntuPlugin


class DrgnUnaccepted(Plugin, RedHatPlugin, DebianPlugin, UbuntuPlugin, SuSEPlugin, IndependentPlugin):
    short_desc = "Unaccepted memory of confidential guests"

    plugin_name = "drgn_unaccepted"
    profiles = ("system", "hardware", "memory", "virt")
    packages = ("drgn-unaccepted", "python3-drgn-unaccepted")
    commands = ("drgn-unaccepted",)

    def setup(self):
        # Each answer by itself: what one cannot tell, another may. check exits with 1 or 2 where it finds something.
        commands = ["drgn-unaccepted summary", "drgn-unaccepted check"]
        for name in ("summary", "check", "zones", "efi", "e820", "accepting"):
            commands.append(f"drgn-unaccepted --format json {name}")
        self.add_cmd_output(commands, timeout=120)
        # The flight recorder's last snapshots, and answers that lie beside crash dumps; never a dump.
        answers = ["/var/crash/*.unaccepted.json", "/var/crash/*/*.unaccepted.json"]
        self.add_copy_spec(["/var/lib/drgn-unaccepted", *answers], sizelimit=25)
