# How jobs are run: run.pl on this machine; slurm.pl and queue.pl (Grid Engine) on clusters, for example
#   export train_cmd="slurm.pl --mem 4G"
# Extraction on GPUs adds --gpu 1 to it. Training (stage 3) runs where run.sh does.
export train_cmd="run.pl"
