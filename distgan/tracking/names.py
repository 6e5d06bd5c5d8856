"""What a line of metrics.jsonl may hold, beside step, kimg and seconds: every name, what it means, and which of two
values is better."""

from __future__ import annotations

from fnmatch import fnmatchcase

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
STRENGTH = "augment/strength"
OVERFITTING = "augment/overfitting"

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
    STRENGTH: "with augment.strength adaptive: probability of each transformation for each picture, as of this step",
    OVERFITTING: "what it follows, as of the newest look: 0 where the critic does not overfit, 1 where it does wholly",
    THROUGHPUT: "real images shown to the critic, a second",
    DATA_WAIT: "share of the time in which a process waited for data; mean over processes",
    REDUCED: "gradients that each process gives to all-reduce in a step, MB (10^6 bytes); 0 on one process",
    HOST_MEMORY: "most memory that one process has held at once since it began, GB (10^9 bytes)",
    DEVICE_MEMORY: "most memory of a device in use at once since the line before, GB; with CUDA",
    "evaluate/swd": "sliced Wasserstein distance of generated from real pictures, x 1,000, mean over all levels",
    "evaluate/swd_floor": "the same between two sets of real pictures: what no generator needs to be under",
    "evaluate/swd_RESOLUTION": "the same as evaluate/swd on one level of the pyramid: RESOLUTION pixels a side",
    "evaluate/ms_ssim": "multi-scale similarity of pairs of generated pictures: 1 where all are the same",
    "evaluate/fd_own": "Frechet distance of generated from real pictures in the features of distgan's own classifier",
    "evaluate/fd_own_floor": "the same between two sets of real pictures",
    "evaluate/precision_own": "share of generated pictures among the real ones, in the features of the own classifier",
    "evaluate/recall_own": "share of real pictures among the generated ones, in the features of the own classifier",
    "evaluate/modes": "classes that the own classifier finds among the generated pictures",
    "evaluate/modes_kl": "KL divergence of the classes found from those of the real pictures, nats",
    "evaluate/label_accuracy": "with data.classes: share of pictures in which it finds the class that was asked for",
    "evaluate/fid": "Frechet inception distance",
    "evaluate/kid": "kernel inception distance",
    "evaluate/inception_score": "Inception score",
    "evaluate/precision": "share of generated pictures among the real ones, in the features of Inception",
    "evaluate/recall": "share of real pictures among the generated ones, in the features of Inception",
    REPLACED: "bad pictures that this start has replaced, with data.bad_pictures replace",
}
"""Shown by docs/tracking.md."""

_BETTER: dict[str, str | None] = {
    "evaluate/*floor*": None,
    "evaluate/*_kl": "lower",
    "evaluate/fd_*": "lower",
    "evaluate/*accuracy*": "higher",
    "evaluate/*fid*": "lower",
    "evaluate/*kid*": "lower",
    "evaluate/*mmd*": "lower",
    "evaluate/*swd*": "lower",
    "evaluate/*distance*": "lower",
    "evaluate/*inception*": "higher",
    "evaluate/*precision*": "higher",
    "evaluate/*recall*": "higher",
    "evaluate/*density*": "higher",
    "evaluate/*coverage*": "higher",
    "evaluate/*modes*": "higher",
    THROUGHPUT: "higher",
    DATA_WAIT: "lower",
}
"""First match counts. What is not here has no best: the losses of a game, and a Wasserstein estimate, which grows while
the critic learns and falls while the generator does, say nothing by being large or small."""


def better(name: str) -> str | None:
    """lower, higher, or None where a metric has no best."""
    return next((which for pattern, which in _BETTER.items() if fnmatchcase(name, pattern)), None)
