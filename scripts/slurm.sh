#!/bin/sh
# A real SLURM of two nodes on this machine, for tests: brings it up, installed where it is absent.
# "sh scripts/slurm.sh stop" ends it, with all of its jobs. Users need none of it.
set -eu
place=/run/microtome-slurm
export SLURM_CONF="$place/slurm.conf"

die() { echo "slurm: $*" >&2; exit 1; }

answers() {
    [ -f "$SLURM_CONF" ] && command -v sinfo >/dev/null 2>&1 &&
        [ "$(timeout 10 sinfo -h -N -t idle,mix,alloc -o %N 2>/dev/null | wc -l)" = 2 ]
}

install_packages() {
    command -v slurmctld >/dev/null 2>&1 && command -v slurmd >/dev/null 2>&1 &&
        command -v munged >/dev/null 2>&1 && return
    command -v apt-get >/dev/null 2>&1 || die "no SLURM found, and no apt to install it with"
    echo "slurm: installing slurm-wlm and munge"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends slurm-wlm munge
}

# Memory is limited, and jobs are ended as a whole, where this machine lets us make control groups.
write_configuration() {
    track=proctrack/linuxproc task=task/none
    if mkdir /sys/fs/cgroup/memory/slurm_probe 2>/dev/null; then
        rmdir /sys/fs/cgroup/memory/slurm_probe
        [ -d /sys/fs/cgroup/freezer ] && track=proctrack/cgroup task=task/cgroup
    fi
    host=$(hostname -s)
    mkdir -p "$place/state" "$place/log" "$place/spool-n1" "$place/spool-n2"
    chmod 755 "$place"
    cat >"$place/cgroup.conf" <<END
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
AllowedSwapSpace=0
END
    cat >"$SLURM_CONF" <<END
ClusterName=microtome
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
SlurmctldPort=16817
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd-%n.pid
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool-%n
SlurmctldLogFile=$place/log/slurmctld.log
SlurmdLogFile=$place/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=$track
TaskPlugin=$task
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmdTimeout=30
KillWait=5
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=16821 CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=16822 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
END
}

start() {
    answers && { echo "slurm: up already; SLURM_CONF=$SLURM_CONF"; return; }
    [ "$(id -u)" = 0 ] || die "only root can start one on this machine"
    install_packages
    stop
    write_configuration
    if ! munge -n >/dev/null 2>&1; then
        install -d -o munge -g munge -m 0755 /run/munge
        su -s /bin/sh munge -c "/usr/sbin/munged --pid-file=/run/munge/munged.pid"
        touch "$place/own-munge"
    fi
    slurmctld -c
    slurmd -N n1
    slurmd -N n2
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        answers && { echo "slurm: up; SLURM_CONF=$SLURM_CONF"; return; }
        sleep 1
    done
    tail -n 5 "$place"/log/* >&2
    stop
    die "it does not come up"
}

# Ends a process by the file that holds its number, which it removes as it ends, and waits for it.
end() {
    [ -f "$1" ] || return 0
    process=$(cat "$1")
    kill "$process" 2>/dev/null || return 0
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -f "$1" ] && kill -0 "$process" 2>/dev/null || return 0
        sleep 0.5
    done
    kill -9 "$process" 2>/dev/null || true
}

stop() {
    [ -f "$SLURM_CONF" ] || return 0
    if answers; then
        jobs=$(squeue -h -o %A | sort -u)
        # shellcheck disable=SC2086 - one argument a job
        [ -z "$jobs" ] || scancel $jobs || true
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
            [ -z "$(squeue -h)" ] && break
            sleep 1
        done
    fi
    end "$place/slurmd-n1.pid"
    end "$place/slurmd-n2.pid"
    end "$place/slurmctld.pid"
    [ ! -f "$place/own-munge" ] || end /run/munge/munged.pid
    find /sys/fs/cgroup -depth -type d -path '*/slurm_n[12]*' -exec rmdir {} + 2>/dev/null || true
    rm -rf "$place"
}

case "${1:-start}" in
    start) start ;;
    stop) stop ;;
    *) die "say start or stop, not $1" ;;
esac
