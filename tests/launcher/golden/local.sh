#!/bin/bash
# A run of foretrain on one machine. To continue from its newest checkpoint: bash '/scratch/my work/runs/it'"'"'s 100% new/job.sh'
cd '/scratch/my work' || exit
export LANG=C.UTF-8
export NOTE='it'"'"'s $5'
export PYTHONPATH='/scratch/my work/runs/it'"'"'s 100% new/code'
export PYTHONSAFEPATH=1
exec /opt/env/bin/python -m foretrain.launcher.local.supervise --max-starts 3 '/scratch/my work/runs/it'"'"'s 100% new' \
  /opt/env/bin/python -m foretrain train '/scratch/my work/runs/it'"'"'s 100% new/config.yaml'
