// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The lab's stand-in for the instruction that accepts memory: it notes what was accepted, so that the guest can say so
 * itself. Copied into drivers/firmware/efi/ of the lab kernel by ../patch.py.
 *
 * /sys/kernel/debug/lab/accepted    a head line, then one line a call: START END PID CPU COMM (END exclusive)
 * /sys/kernel/debug/lab/fail        write 1: from now on accepting memory panics, in the kernel's own words
 * /sys/kernel/debug/lab/delay_us    every accept takes so long, so that a dump can find one in flight
 *
 * lab_accept_memory() runs from memblock on, before anything is up, with interrupts off: it only stores.
 */
#include <linux/atomic.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/lab_accept.h>

#define LAB_CALLS 65536

struct lab_call {
	u64 start;
	u64 end;
	s32 pid;
	u32 cpu;
	char comm[TASK_COMM_LEN];
};

static struct lab_call lab_calls[LAB_CALLS];
static atomic_t lab_nr_calls = ATOMIC_INIT(0);
static atomic64_t lab_bytes = ATOMIC64_INIT(0);
static bool lab_fail;
static u32 lab_delay_us;

void lab_accept_memory(phys_addr_t start, phys_addr_t end)
{
	unsigned int i;

	if (READ_ONCE(lab_fail))
		panic("Cannot accept memory: unknown platform\n");

	i = atomic_inc_return(&lab_nr_calls) - 1;
	if (i < LAB_CALLS) {
		struct lab_call *call = &lab_calls[i];

		call->start = start;
		call->end = end;
		call->pid = current->pid;
		call->cpu = raw_smp_processor_id();
		memcpy(call->comm, current->comm, sizeof(call->comm));
	}
	atomic64_add(end - start, &lab_bytes);

	if (READ_ONCE(lab_delay_us))
		mdelay(DIV_ROUND_UP(lab_delay_us, 1000));
}

static int lab_accepted_show(struct seq_file *m, void *unused)
{
	unsigned int calls = atomic_read(&lab_nr_calls);
	unsigned int kept = min_t(unsigned int, calls, LAB_CALLS);
	unsigned int i;

	seq_printf(m, "# calls %u kept %u bytes %lld\n", calls, kept, (long long)atomic64_read(&lab_bytes));
	for (i = 0; i < kept; i++) {
		struct lab_call *call = &lab_calls[i];

		seq_printf(m, "0x%llx 0x%llx %d %u %.*s\n", call->start, call->end, call->pid, call->cpu,
			   TASK_COMM_LEN, call->comm);
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(lab_accepted);

static int __init lab_accept_init(void)
{
	struct dentry *dir = debugfs_create_dir("lab", NULL);

	debugfs_create_file("accepted", 0400, dir, NULL, &lab_accepted_fops);
	debugfs_create_bool("fail", 0600, dir, &lab_fail);
	debugfs_create_u32("delay_us", 0600, dir, &lab_delay_us);
	return 0;
}
late_initcall(lab_accept_init);
