#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The lab guest's init. `lab.do=` on the kernel command line is a list of verbs, separated by commas, to run in order:
#
#   fill:MIB     allocate MIB mebibytes in a tmpfs           kdump       load the crash kernel
#   fillall      allocate until nothing is unaccepted        account     write the guest's account of itself
#   free         unmount the tmpfs                           idle        print "lab: ready" and sleep
#   fail         from now on, accepting memory panics        kexec       start the same kernel again through kexec
#   delay:US     from now on, every accept takes US us       vmcore      (crash kernel) save /proc/vmcore
#   spin         fill memory forever on each of two CPUs     live        run the command in /share/live
#   accepting    wait until both CPUs accepted memory        booted      the same as a service; systemd is PID 1
#   chatter:N    write N lines to the log
#
# /share is a 9p directory on the host. With lab.share=no it is not: the account (a tar) is written to the second serial
# port, the dump (flattened) to a disk, and other disks have the kernel and the initramfs.

export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=dumb
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /run /fill /share /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t debugfs debugfs /sys/kernel/debug
mount -t securityfs securityfs /sys/kernel/security
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
exec </dev/console >/dev/console 2>&1
echo 0 >/proc/sys/kernel/printk_ratelimit
echo 0 >/proc/sys/kernel/kptr_restrict
lab=/sys/kernel/debug/lab

die() {
	echo "lab: error: $*"
	poweroff -f
	sleep 1000
}

for module in /modules/*.ko; do
	[ ! -e "$module" ] || insmod "$module" || die "$module"
done

option() {
	sed -n "s/.*\blab\.$1=\([^ ]*\).*/\1/p" /proc/cmdline
}

# The block device with this serial number.
disk() {
	for block in /sys/block/*; do
		[ "$(cat $block/serial 2>/dev/null)" != "$1" ] || echo /dev/${block##*/}
	done | grep . || die "no disk $1: the kernel needs virtio_pci and virtio_blk, built in or as modules"
}

[ "$(option share)" = no ] ||
	mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 share /share || die "no 9p share"

unaccepted_kib() {
	sed -n 's/^Unaccepted: *\([0-9]*\) kB/\1/p' /proc/meminfo
}

fill_tmpfs() {
	grep -q " /fill " /proc/mounts || mount -t tmpfs -o size=100% fill /fill
}

do_fill() {
	fill_tmpfs
	dd if=/dev/zero of=/fill/$(ls /fill | wc -l) bs=1M count="$1" 2>/dev/null || die "fill $1"
}

do_fillall() {
	fill_tmpfs
	n=0
	while [ "$(unaccepted_kib)" -gt 0 ]; do
		[ $n -lt 4096 ] || die "filled $n MiB and $(unaccepted_kib) KiB are still unaccepted"
		dd if=/dev/zero of=/fill/all.$n bs=1M count=8 2>/dev/null || die "fill of everything"
		n=$((n + 8))
	done
}

do_spin() {
	fill_tmpfs
	for mask in 1 2; do
		(while taskset $mask dd if=/dev/zero of=/fill/$mask bs=1M count=500 2>/dev/null; do rm /fill/$mask; done) &
	done
}

# Run on a third CPU: the two that accept have interrupts disabled.
do_accepting() {
	taskset -p 4 $$ >/dev/null
	until [ "$(sed -n 's/.* \([01]\) dd$/\1/p' $lab/accepted | sort -u | wc -l)" = 2 ]; do :; done
}

do_free() {
	umount /fill
}

do_fail() {
	echo 1 >$lab/fail
}

# Overflow the log with many lines, so that its oldest lines are lost and one wraps around its end.
do_chatter() {
	n=0
	while [ $n -lt "$1" ]; do
		echo "lab: chatter $n, as a driver would that has nothing to say and says it often" >/dev/kmsg
		n=$((n + 1))
	done
}

do_delay() {
	echo "$1" >$lab/delay_us
}

crash_kernel() {
	if [ "$(option share)" = no ]; then
		cat $(disk bzImage) >/share/bzImage
		cat $(disk initrd) >/share/initrd
	fi
	kexec "$@" /share/bzImage --initrd=/share/initrd
}

do_kdump() {
	# As systemd does: without a reader there is no boot ID.
	cat /proc/sys/kernel/random/boot_id >/share/boot_id
	crash_kernel -s -p --command-line="console=ttyS0 nr_cpus=1 reset_devices swiotlb=1024 cgroup_disable=memory lab.share=$(option share) lab.do=vmcore" ||
		die "kexec -p"
	[ "$(option share)" != no ] || rm /share/bzImage /share/initrd
}

do_kexec() {
	# Only once: the new kernel gets lab.then as its lab.do.
	crash_kernel -s -l --command-line="$(sed 's/lab\.do=[^ ]*//; s/lab\.then=/lab.do=/' /proc/cmdline)" || die "kexec -l"
	mkdir -p /share/before-kexec
	cp $lab/accepted /share/before-kexec/lab_accepted
	umount /share
	kexec -e
}

# Copy files of /proc and /sys to memory first: writing to the 9p share allocates, and so can accept memory meanwhile.
# Repeat if memory was accepted during the copy.
do_account() {
	try=0
	while :; do
		rm -rf /run/account
		mkdir -p /run/account
		cd /run/account
		unaccepted_kib >/run/before
		cp /proc/iomem /proc/cmdline /proc/version /proc/cpuinfo /proc/kallsyms /sys/kernel/vmcoreinfo .
		cp /sys/kernel/notes /sys/kernel/boot_params/data .
		mv data boot_params
		uname -r >uname
		for entry in $(ls /sys/firmware/memmap | sort -n); do
			(cd /sys/firmware/memmap/$entry && echo "$(cat start) $(cat end) $(cat type)")
		done >firmware-memmap
		for entry in $(ls /sys/firmware/efi/runtime-map 2>/dev/null | sort -n); do
			(cd /sys/firmware/efi/runtime-map/$entry && echo "$(cat type) $(cat phys_addr) $(cat virt_addr) $(cat num_pages) $(cat attribute)")
		done >efi-runtime-map
		cat /sys/firmware/efi/systab >efi-systab 2>/dev/null
		for node in /sys/devices/system/node/node*; do
			cat $node/meminfo >${node##*/}-meminfo
		done
		for entry in $(ls /sys/kernel/boot_params/setup_data 2>/dev/null); do
			cp /sys/kernel/boot_params/setup_data/$entry/type setup_data.$entry.type
			cp /sys/kernel/boot_params/setup_data/$entry/data setup_data.$entry.data
		done
		gzip -1 </proc/kpageflags >kpageflags.gz
		dmesg -r >dmesg
		cp /proc/buddyinfo /proc/zoneinfo /proc/vmstat /proc/meminfo .
		[ ! -e $lab/accepted ] || cp $lab/accepted lab_accepted
		mkdir -p /share/guest
		cp /run/account/* /share/guest/
		[ "$(option share)" != no ] || serial_account
		sync
		unaccepted_kib >/run/after
		cmp -s /run/before /run/after && break
		try=$((try + 1))
		[ $try -lt 5 ] || break
	done
	cd /
	rm -rf /run/account
}

serial_account() {
	rm /share/guest/kallsyms
	stty -F /dev/ttyS1 raw
	tar -C /share -c guest >/dev/ttyS1 || die "no second serial port"
}

do_idle() {
	echo "lab: ready"
	while :; do sleep 1000; done
}

do_vmcore() {
	if [ -e /share/crash-kernel ]; then
		bound_host_root
		chroot /host /bin/sh /share/crash-kernel >/share/crash-kernel.out 2>&1
	fi
	if [ "$(option share)" = no ]; then
		echo "lab: kdump to disk"
		makedumpfile --message-level 4 -F -c -d 31 /proc/vmcore >$(disk kdump) || echo "lab: error: no kdump"
		sync
		echo "lab: kdump done"
		poweroff -f
	fi
	for format in $(cat /share/kdump); do
		echo "lab: kdump $format"
		case $format in
		elf) dd if=/proc/vmcore of=/share/kdump.elf bs=1M 2>/dev/null ;;
		z) makedumpfile --message-level 4 -c -d 31 /proc/vmcore /share/kdump.z ;;
		flat) makedumpfile --message-level 4 -F -c -d 31 /proc/vmcore >/share/kdump.flat ;;
		dmesg) makedumpfile --dump-dmesg /proc/vmcore /share/kdump.dmesg ;;
		esac || echo "lab: kdump $format failed"
	done
	sync
	echo "lab: kdump done"
	poweroff -f
}

# Mount the host's root file system, read-only, with a tmpfs on top so that mount points can be made in it. The
# directory of `lab live --layer` goes in between.
host_root() {
	mkdir -p /lower /layer /upper /host
	mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /lower || die "no host file system"
	mount -t tmpfs tmpfs /upper
	mkdir -p /upper/up /upper/work
	below=/lower
	if [ "$(option layer)" = yes ]; then
		mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose layer /layer || die "no layer"
		below=/layer:/lower
	fi
	mount -t overlay -o "lowerdir=$below,upperdir=/upper/up,workdir=/upper/work" overlay /host || die "no overlay"
	mkdir -p /host/share
}

bound_host_root() {
	host_root
	for place in proc sys dev share; do
		mount --rbind /$place /host/$place
	done
}

do_live() {
	bound_host_root
	echo "lab: live"
	chroot /host /bin/sh /share/live >/share/live.out 2>/share/live.err
	echo $? >/share/live.status.new
	mv /share/live.status.new /share/live.status
	sync
	echo "lab: live done"
	poweroff -f
}

# Use the units of packages but not those that the host's administrator enabled. The guest has the host's time.
do_booted() {
	host_root
	rm -rf /host/etc/systemd/system
	mkdir -p /host/etc/systemd/system
	# With this file, systemd takes the guest for a container and ignores the kernel command line.
	rm -f /host/.dockerenv
	# This service would empty /tmp, file by file.
	ln -s /dev/null /host/etc/systemd/system/systemd-tmpfiles-setup.service
	cat >/host/etc/systemd/system/lab.target <<-END
		[Unit]
		Requires=basic.target
		After=basic.target
		Wants=lab-live.service timers.target paths.target
		AllowIsolate=yes
	END
	cat >/host/etc/systemd/system/lab-live.service <<-END
		[Unit]
		After=basic.target
		[Service]
		Type=oneshot
		ExecStart=/bin/sh -c '/bin/sh /share/live >/share/live.out 2>/share/live.err; echo \$\$? >/share/live.status.new; mv /share/live.status.new /share/live.status; sync; echo 1 >/proc/sys/kernel/sysrq'
		StandardError=journal+console
	END
	mount --move /share /host/share
	echo "lab: live"
	umount -l /dev /sys /run /proc
	exec switch_root /host /lib/systemd/systemd
}

for verb in $(option do | tr ',' ' '); do
	name=${verb%%:*}
	argument=${verb#*:}
	echo "lab: do $verb"
	do_$name "$argument" || die "$verb"
done
echo "lab: done"
poweroff -f
