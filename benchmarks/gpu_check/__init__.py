"""One command for whoever has a GPU: tests, parity, the benchmark of the step, and a short training, in ten minutes.

    python -m benchmarks.gpu_check --out found.json [--shards FOLDER]

Needs what distgan needs, and pytest with hypothesis and pytest-timeout for the tests. Each part runs in a process of
its own with a time limit; where one fails or is ended the others go on. `parts` has them, `training` is the last.
"""
