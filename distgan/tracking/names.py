"""What a line of metrics.jsonl may hold, beside step, kimg and seconds: every name, and what it means."""

from __future__ import annotations

HISTOGRAM = "critic/grad_norm_histogram"
HELD_OUT = "critic/wasserstein_held_out"
GAP = "critic/held_out_gap"
EMA_DISTANCE = "generator/ema_distance"
DIVERSITY = "generator/diversity"
THROUGHPUT = "throughput/images_per_second"
DATA_WAIT = "throughput/data_wait_fraction"
REDUCED = "throughput/reduced_mb_per_step"
HOST_MEMORY = "memory/host_gb"
DEVICE_MEMORY = "memory/device_gb"
REPLACED = "data/replaced_pictures"

OF_THE_MACHINE = ("seconds", THROUGHPUT, DATA_WAIT, REDUCED, HOST_MEMORY, DEVICE_MEMORY)
"""What says how fast and on what a run was computed. All else is a function of its config."""

_SINCE = "since the line before, over all images, updates and processes"

MEANINGS = {
    "critic/loss": f"the critic's whole loss, penalty and drift included; mean {_SINCE}",
    "critic/wasserstein": f"E D(real) - E D(fake) on training pictures; mean {_SINCE}",
    "critic/penalty": f"the penalty, not weighted; mean {_SINCE}",
    "critic/grad_norm_mean": f"norm of the critic's gradient in its input, at the penalty's points; mean {_SINCE}",
    "critic/grad_norm_max": f"the largest of these norms {_SINCE}",
    HISTOGRAM: f"how many of these norms lie in each of 66 cells (distgan/histogram.py) {_SINCE}",
    HELD_OUT: "E D(held-out real) - E D(fake) with the weights of this step, over one global batch (data.holdout)",
    GAP: "E D(training real) - E D(held-out real) with the weights of this step: how far the critic overfits",
    "generator/loss": f"the generator's loss; mean {_SINCE}",
    DIVERSITY: "how different 16 samples are, over how different real pictures are: 1 healthy, 0 collapsed",
    EMA_DISTANCE: "distance of the averaged weights from the generator's, over the norm of the generator's",
    **{
        f"{network}/{name}": meaning
        for network in ("critic", "generator")
        for name, meaning in (
            ("gradient_norm", "norm of the gradient in all weights, at the last update of this step"),
            ("update_norm", "norm of what that update changed the weights by"),
            ("skipped_updates", "updates left out because of numbers that are not finite, of the whole run"),
            ("loss_scale", "with fp16: by what the loss is multiplied"),
        )
    },
    THROUGHPUT: "real images shown to the critic, a second",
    DATA_WAIT: "share of the time in which a process waited for data; mean over processes",
    REDUCED: "gradients that each process gives to all-reduce in a step, MB (10^6 bytes); 0 on one process",
    HOST_MEMORY: "most memory that one process has held at once since it began, GB (10^9 bytes)",
    DEVICE_MEMORY: "most memory of a device in use at once since the line before, GB; with CUDA",
    REPLACED: "bad pictures that this start has replaced, with data.bad_pictures replace",
}
"""Shown by docs/tracking.md."""
