"""A Parsl configuration for a cluster with Slurm and GPUs.

    dao-ase screen compositions.csv -o run/ --device cuda --config parsl_slurm.py

Pilot jobs of one node and four GPUs each, at most ten at a time; every worker sees one GPU. Change what is marked.
pip install "dao-ase[screen]"
"""

from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.launchers import SrunLauncher
from parsl.providers import SlurmProvider

config = Config(
    executors=[
        HighThroughputExecutor(
            label="gpu",
            available_accelerators=4,  # <- GPUs of a node: one worker for each
            max_workers_per_node=4,
            cpu_affinity="block",
            provider=SlurmProvider(
                partition="gpu",  # <-
                account="my-account",  # <-
                nodes_per_block=1,
                init_blocks=1,
                max_blocks=10,
                walltime="04:00:00",
                scheduler_options="#SBATCH --gpus-per-node=4",
                worker_init="source /path/to/venv/bin/activate; export OMP_NUM_THREADS=1",  # <-
                launcher=SrunLauncher(),
            ),
        )
    ],
    retries=2,  # a node that fails, or a pilot job whose time ends, gives its shard to another
)
