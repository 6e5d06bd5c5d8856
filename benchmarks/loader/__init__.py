"""How many pictures a second distgan's stream delivers, beside what else there is to read pictures with.

    python -m benchmarks.loader --data DIR [--work DIR] [--json FILE] [--cases NAME ...] [--contenders NAME ...]
        [--rounds N] [--threads N] [--first-batch] [--index]

Every contender delivers the same pictures, at the same size, as assembled uint8 batches without end, on the same cores
and from the page cache. Each runs in a process of its own and rests while another is measured: a round gives each about
a second in steady state, in another order every time, so that whatever else the machine does hits all of them. Printed
are medians: images a second, the ratio distgan / contender within a round, and CPU time an image with that of worker
processes. "bare decoding" is the same decoder on bytes in memory, with as many threads and nothing else: what no loader
with that decoder can beat.

`--data` holds cifar10_8k.zip, celeba_original_558.zip and highres_41.zip (default: $DISTGAN_TEST_DATA, else shared/data
beside the repository); without them the shapes of `distgan prepare shapes` take their place, and say so. `--work` keeps
what is prepared for the next run. About eight minutes with all contenders.

MosaicML Streaming and FFCV are optional and want other versions of what distgan uses, so they go into an environment
laid over distgan's own, with whose Python this is then run (FFCV is compiled: it needs libopencv-dev, libturbojpeg0-dev
and pkg-config):

    python -m venv PEERS
    echo "import site; site.addsitedir('$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \\
        > "$(PEERS/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/layer.pth"
    PEERS/bin/pip install mosaicml-streaming ffcv
"""
