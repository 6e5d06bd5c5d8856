"""What the private cluster's configuration files say."""

from __future__ import annotations

from pathlib import Path

NETWORK = "10.213.0"
HEAD = "head"
GRACE = 30
"""Seconds that a preempted job may take to save (GraceTime), and a cancelled one (KillWait)."""
REQUEUE_DELAY = 5
"""Seconds that a requeued job waits before it may start again, for which Slurm takes the life of a credential. The
least that Slurm accepts; its default is 120."""


def address(name: str) -> str:
    """head -> 10.213.0.1, n2 -> 10.213.0.12."""
    return f"{NETWORK}.{1 if name == HEAD else 10 + int(name[1:])}"


def write(folder: Path, nodes: list[str], freezer: bool) -> None:
    """slurm.conf, cgroup.conf and hosts in the folder.

    With cgroups of version 1 (`freezer`) signals reach the leader of a task only, as on most clusters; without, all
    that it started too."""
    names = [HEAD, *nodes]
    (folder / "hosts").write_text("".join(f"{address(n)} {n}\n" for n in names) + "127.0.0.1 localhost\n")
    (folder / "cgroup.conf").write_text(
        "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\n" if freezer else "CgroupPlugin=disabled\n"
    )
    machines = "\n".join(f"NodeName={n} NodeAddr={address(n)} CPUs=16 RealMemory=100000" for n in nodes)
    (folder / "slurm.conf").write_text(f"""\
ClusterName=private
SlurmctldHost={HEAD}({address(HEAD)})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge,cred_expire={REQUEUE_DELAY}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/{"cgroup" if freezer else "linuxproc"}
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=2,bf_interval=1
KillWait={GRACE}
SlurmdTimeout=300
ReturnToService=2
MinJobAge=86400
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{machines}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime={GRACE}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
""")
