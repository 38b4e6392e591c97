"""Training: the loop, its schedules and checks, from one process on a CPU to several nodes of GPUs."""
