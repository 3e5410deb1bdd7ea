#!/usr/bin/env bash
# A Slurm of two nodes on this machine, for proofs: a controller and two node daemons of one CPU each.
# Usage, as root: start-slurm.sh FOLDER; then SLURM_CONF=FOLDER/slurm.conf sbatch job.sh; end: kill $(cat FOLDER/*.pid)
# Needs Debian's slurm-wlm and munge, which it installs where they are missing. Ran with slurm-wlm 22.05.8.
set -euo pipefail
dir=$(mkdir -p "$1" && cd "$1" && pwd)
host=$(hostname -s)
if ! command -v slurmctld >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
fi
mkdir -p "$dir"/{state,log,n1,n2} /run/munge /var/log/munge
[ -s /etc/munge/munge.key ] || (umask 077; dd if=/dev/urandom of=/etc/munge/munge.key bs=1024 count=1 status=none)
chown munge /run/munge /var/log/munge /etc/munge/munge.key
chmod 755 /run/munge
chmod 400 /etc/munge/munge.key
pgrep -x munged >/dev/null || su -s /bin/bash munge -c munged
cat > "$dir/slurm.conf" <<CONF
ClusterName=proof
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/%n
SlurmctldPidFile=$dir/controller.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/log/controller
SlurmdLogFile=$dir/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
JobRequeue=1
MinJobAge=300
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=4000
PartitionName=p Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
slurmctld -f "$dir/slurm.conf"
for node in n1 n2; do slurmd -f "$dir/slurm.conf" -N "$node"; done
export SLURM_CONF=$dir/slurm.conf
for _ in $(seq 60); do
  [ "$(sinfo -h -o %T | sort -u)" = idle ] && break
  sleep 0.5
done
sinfo
