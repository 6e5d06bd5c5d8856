"""Jobs of a Slurm cluster: submitted, launched on every node, requeued, listed."""
