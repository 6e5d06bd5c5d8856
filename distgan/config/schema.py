"""Every key of a config with its default; a field's docstring is its help."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from distgan.config.augment import Augment
from distgan.config.duration import AnyDuration, Duration, Progress, Time
from distgan.config.families import Critic, Generator
from distgan.config.growing import Course, Growing
from distgan.config.size import AnySize, Size
from distgan.config.values import Count, NotNegative, Positive, Section


def _held_out(value: object) -> object:
    is_text = isinstance(value, str) and not re.fullmatch(r"[\d.\s]*%?", value)
    if value is None or is_text or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
        return value
    raise ValueError('an amount with a unit, such as "1000 images" or "2 shards", or names of shards')


class Data(Section):
    """The pictures: sharded tars that `distgan prepare` wrote, or any plain webdataset tars."""

    shards: str | list[str]
    """Folder, tar, glob, brace pattern (`dir/x-{00000..00007}.tar`), URL of these, or a list of them."""
    resolution: Annotated[int, Field(ge=16, le=1024)]
    """Height and width of the pictures that are trained on, pixels."""
    channels: Literal[1, 3] = 3
    """1 (greyscale) or 3 (RGB)."""
    classes: Annotated[int, Field(ge=0)] = 0
    """0 trains without labels; the number of classes of the shards trains conditionally on the label."""
    flip: bool = False
    """Mirror each picture left to right with probability one half."""
    fit: Literal["exact", "crop"] = "exact"
    """exact refuses pictures of another size; crop takes the centred square of each and resizes it while reading."""
    threads: Count | None = None
    """Threads of each process that read and decode pictures. Unset: one for each core of the process."""
    order: Literal["shuffle", "window", "resampled"] = "shuffle"
    """shuffle: all pictures of an epoch in one permutation; window: about `window` shards are mixed at a time (remote
    data, or more than fits in memory); resampled: webdataset's own pipeline, neither exact nor invariant."""
    window: Count = 16
    """With order window: shards that are mixed at a time, over all partitions together."""
    partitions: Count = 1
    """Parts of the set that each fill an equal part of every batch: a machine reads the shards of its parts alone. A
    multiple of the number of machines; the order depends on it, and not on the machines."""
    holdout: Annotated[str | list[str] | None, BeforeValidator(_held_out)] = None
    """Never trained on: `"1000 images"` of all shards, `"2 shards"` from the end, or names or patterns of shards."""
    tier: Literal["auto", "device", "memory", "stream"] = "auto"
    """Where decoded pictures are kept: all on the device, all in memory that the processes of a machine share, or
    nowhere (stream); auto: the first of these that takes a quarter of what is free."""
    bad_pictures: Literal["fail", "replace"] = "fail"
    """What becomes of a picture that cannot be read: fail ends the run; replace takes another of its shard, or of the
    whole set where the shard is gone or cut off, the same for any number of processes."""
    bad_limit: Count = 100
    """With bad_pictures replace: more different bad pictures than this end the run."""
    cache: str | None = None
    """Folder for remote shards and for indexes of foreign ones, on a disk of this machine. Unset: $DISTGAN_CACHE, or
    distgan in the user's cache folder."""
    cache_size: AnySize = Size("100 GB", 100 * 10**9)
    """Most that the shards in the cache take: MB, GB or TB; the least recently used make room."""
    stage: bool = False
    """Copy shards of local paths into the cache first, as remote ones are: for shared file systems that are slower than
    the disk of the node."""
    allow_shell: bool = False
    """Run the commands of `pipe:` shards, which can do anything that the user can."""


class Train(Section):
    """How long, with what batch, in which precision."""

    length: Progress
    """Length of the whole run: `"20 steps"`, or `"500 kimg"` (thousand real images shown to the critic)."""
    batch_size: Count = 64
    """Images of one update over ALL processes (m in WGAN-GP algorithm 1)."""
    micro_batch: Count | None = None
    """Most images of one forward on one process; gradients are accumulated over the rest. Unset: no limit."""
    critic_steps: Count = 5
    """Critic updates for each generator update (n_critic). One step is that many and one generator update."""
    precision: Literal["fp32", "bf16", "fp16", "fp64"] = "fp32"
    """Arithmetic of the forwards: fp32, bf16, fp16 (with a scaled loss), or fp64 (slow; for checking equality)."""
    reduce: Literal["fp32", "bf16"] = "fp32"
    """Numbers in which processes add up their gradients: fp32, or bf16, which halves what is sent and rounds it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: CUDA where there is any; cpu; cuda, which refuses to start on a machine without it."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the objectives, double backward included; auto: on with CUDA, unless activations are checkpointed."""
    tf32: bool = False
    """Let convolutions and matrix products of fp32 use TF32 on CUDA, with 10 bits of mantissa; no effect elsewhere."""
    cuda_graphs: bool = False
    """With compile on CUDA: replay an update as one CUDA graph, for small pictures, where launching takes the time. Not
    yet run on a GPU by its authors: compare with false first."""
    checkpoint_activations: bool = False
    """Keep only the input of each layer or block for the backward and compute the rest again there: less memory, more
    time. Not together with compile."""
    ema_kimg: NotNegative = 10.0
    """Half-life of the average over the generator's weights, kimg; 0 turns the average off."""
    ema_rampup: NotNegative = 0.05
    """The half-life is at most this share of the images seen so far (StyleGAN2-ADA); 0: no ramp-up."""
    max_time: Time | None = None
    """Wall-clock time of one start, `"23 h"`: training saves and leaves, as after a signal, to be gone by then."""
    bad_numbers: Literal["stop", "skip", "rollback"] = "stop"
    """At a loss or gradient that is not finite, which is never applied: stop leaves what is needed to study it; skip
    goes on with the next update; rollback goes on from the newest checkpoint with other noise. fp16 skips by itself."""
    rollbacks: Count = 3
    """With bad_numbers rollback: times at most in a run."""
    stuck_after: Time = Duration(10, "min")
    """A process that does not move for so long ends the run; longer than the longest pause of a sound one."""


class Objective(Section):
    """What the two networks minimise."""

    loss: Literal["wasserstein", "nonsaturating", "minimax", "hinge", "relativistic"] = "wasserstein"
    """wasserstein (WGAN), nonsaturating and minimax (GAN), hinge, relativistic (pairing, as in R3GAN)."""
    penalty: Literal["gp", "lp", "r1", "r2", "r1r2", "clip", "none"] = "gp"
    """gp (two-sided, WGAN-GP eq. 3), lp (one-sided), r1 (at reals), r2 (at fakes), r1r2, clip (WGAN), none."""
    weight: NotNegative = 10.0
    """Weight of the penalty: lambda of WGAN-GP, gamma of R1."""
    target: NotNegative = 1.0
    """Gradient norm that gp and lp ask for."""
    every: Count = 1
    """Penalise every n-th critic update only, with n times the weight (lazy regularisation, StyleGAN2)."""
    drift: NotNegative = 0.0
    """Weight of E[D(real)^2], which holds the scores near zero (Progressive GAN uses 0.001)."""
    clip: Positive = 0.01
    """With penalty clip: critic weights are clamped to [-clip, clip] after each update (c of WGAN)."""
    allow_batch_norm: bool = False
    """Let critic.norm batch pass with a penalty, to see it fail: the gradient is then that of the sum of the scores, in
    which each picture changes the scores of all others, and says nothing of the critic's slope at one picture."""


Measure = Literal[
    "swd",
    "ms_ssim",
    "fd_own",
    "precision_recall_own",
    "modes",
    "fid",
    "kid",
    "inception_score",
    "precision_recall",
]

Metric = Literal[
    "critic/loss",
    "critic/wasserstein",
    "critic/penalty",
    "critic/grad_norm_mean",
    "generator/loss",
    "generator/diversity",
    "evaluate/swd",
    "evaluate/ms_ssim",
    "evaluate/fd_own",
    "evaluate/precision_own",
    "evaluate/recall_own",
    "evaluate/modes",
    "evaluate/modes_kl",
    "evaluate/label_accuracy",
    "evaluate/fid",
    "evaluate/kid",
    "evaluate/inception_score",
    "evaluate/precision",
    "evaluate/recall",
]


class Checkpoint(Section):
    """When weights and state are written."""

    every: AnyDuration = Duration(1000, "steps")
    """Between two checkpoints: steps, kimg, or wall-clock time (`"15 min"`). The last step always has one."""
    keep: Count = 3
    """Newest checkpoints that are kept."""
    keep_every: Progress | None = None
    """Of each such stretch of training the first checkpoint is kept for ever: `"10000 steps"`."""
    best: Metric | None = None
    """The checkpoint at which this metric was best is kept too, by its newest line in metrics.jsonl; with one of
    evaluate/ every evaluation has a checkpoint, and only those are judged."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Which value of `best` is the best."""


class Samples(Section):
    """Pictures of the same latents all along the run."""

    every: Progress = Duration(500, "steps")
    """Between two sample grids."""
    count: Count = 64
    """Pictures in a grid."""


class Evaluate(Section):
    """How good the pictures are, measured on all processes, and the same for any number of them."""

    every: Progress | None = None
    """Between two evaluations, of which the last step has one too; each has a line of metrics.jsonl. Unset: none."""
    metrics: Annotated[list[Measure], Field(min_length=1)] = ["swd", "ms_ssim"]
    """swd and ms_ssim (Progressive GAN) need no weights; fd_own, precision_recall_own and modes take a classifier that
    is trained on the labelled shards; fid, kid, inception_score and precision_recall take Inception's weights."""
    count: Annotated[int, Field(ge=2)] = 10_000
    """Pictures that are generated for it, and real ones at most that they are compared with."""
    inception: str | None = None
    """File of Inception's weights. Unset: from the cache of torch.hub, else downloaded into it."""


def _tag(value: str) -> str:
    if not value.strip():
        raise ValueError("a tag that is not empty")
    return value


class Wandb(Section):
    """Weights & Biases; needs no account while mode is off or offline."""

    mode: Literal["off", "offline", "online"] = "off"
    """off, offline (files under run_dir/wandb, for `wandb sync`), or online."""
    project: str = "distgan"
    """Project that receives the run."""
    entity: str | None = None
    """Account or team; unset: the account's default."""
    group: str | None = None
    """Group of runs; unset: one that all runs share whose configs differ in their seed alone."""
    job_type: str | None = "train"
    """What the run is in its group."""
    name: str | None = None
    """Name of the run; unset: the name of run_dir."""
    tags: list[Annotated[str, AfterValidator(_tag)]] = []
    """Tags of the run."""
    notes: str | None = None
    """A description of the run."""
    checkpoints: Literal["none", "last", "all"] = "none"
    """Checkpoints whose weights become artifacts of the run: none, the last one of each start, or all."""


class Tracking(Section):
    """What is written of the losses, and where."""

    every: Progress = Duration(50, "steps")
    """Between two lines of metrics.jsonl; each is the mean since the one before."""
    watch: bool = True
    """Look for collapse at each line, and warn; measures generator/diversity on 16 pictures."""
    tensorboard: bool = False
    """Write event files for TensorBoard, under run_dir/tensorboard."""
    wandb: Wandb = Wandb()
    """Weights & Biases."""


class Config(Section):
    """A run."""

    run_dir: str
    """Folder that receives everything; starting again with the same one resumes."""
    seed: int = 0
    """Seed of every draw: latents, interpolation, order of the data, initial weights."""
    data: Data
    train: Train
    objective: Objective = Objective()
    generator: Generator
    critic: Critic
    growing: Growing | None = None
    """Progressive growing, of networks that can; unset: data.resolution from the first step on."""
    augment: Augment | None = None
    """Augmentation of what the critic sees, for small sets; unset: none."""
    checkpoint: Checkpoint = Checkpoint()
    samples: Samples = Samples()
    evaluate: Evaluate = Evaluate()
    tracking: Tracking = Tracking()

    @property
    def course(self) -> Course:
        """Which step is at which resolution, with what batch."""
        train = self.train
        return Course.of(train.length, train.batch_size, train.critic_steps, self.growing, self.data.resolution)

    @property
    def total_steps(self) -> int:
        return self.course.steps

    @property
    def grown(self) -> Config:
        """The same without growing: from the first step on as at data.resolution."""
        if self.growing is None:
            return self
        batch = self.growing.batch_sizes.get(self.data.resolution, self.train.batch_size)
        return self.always(self.data.resolution, batch)

    @property
    def heaviest(self) -> Config:
        """The same without growing: from the first step on as in the stage that needs the most memory. Where the maps
        halve as the side doubles, that is about the number of pictures times their side."""
        if self.growing is None:
            return self
        stage = max(self.course.stages, key=lambda stage: (stage.batch_size * stage.resolution, stage.resolution))
        return self.always(stage.resolution, stage.batch_size)

    def always(self, resolution: int, batch_size: int) -> Config:
        """The same at this resolution, with this batch, from the first step on."""
        data = self.data.model_copy(update={"resolution": resolution})
        train = self.train.model_copy(update={"batch_size": batch_size})
        return self.model_copy(update={"growing": None, "data": data, "train": train})
