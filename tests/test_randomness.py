from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distgan import randomness

WORD = (1 << 64) - 1
FNV = {"": 0xCBF29CE484222325, "a": 0xAF63DC4C8601EC8C, "foobar": 0x85944171F73967E8}
"""64-bit FNV-1a, as its authors list it."""
KEYS = randomness.image_keys(randomness.key(0, "test"), torch.arange(4096))


def splitmix64(state: int) -> int:
    """The next number of the generator as Steele, Lea and Flood print it, from the state before its increment."""
    z = (state + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def finalise(z: int) -> int:
    """SplitMix64's mixing alone."""
    return splitmix64((z - 0x9E3779B97F4A7C15) & WORD)


def unsigned(values: torch.Tensor) -> list[int]:
    return [value & WORD for value in values.flatten().tolist()]


def kolmogorov(sample: torch.Tensor, distribution) -> float:
    """The largest distance of the sample's distribution from the one asked for, times sqrt(N): 1.95 has p = 0.001."""
    ordered = np.sort(sample.double().flatten().numpy())
    count = len(ordered)
    wanted = np.array([distribution(x) for x in ordered])
    steps = np.arange(count + 1) / count
    return max(np.abs(wanted - steps[1:]).max(), np.abs(wanted - steps[:-1]).max()) * math.sqrt(count)


def gaussian(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """The correlation times sqrt(N): standard normal where the two are independent."""
    both = torch.stack([a.flatten(), b.flatten()]).double()
    return float(torch.corrcoef(both)[0, 1]) * math.sqrt(both.shape[1])


class TestAgainstTheReference:
    @given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=20))
    def test_the_mixing_in_wrapping_int64_is_that_of_unsigned_arithmetic(self, values):
        assert unsigned(randomness._mix(torch.tensor(values))) == [finalise(value & WORD) for value in values]

    def test_the_published_stream_of_seed_zero_comes_out(self):
        """The first outputs of SplitMix64 from seed 0, as every implementation lists them."""
        published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
        counter = torch.arange(1, 5) * randomness._GOLDEN
        assert unsigned(randomness._mix(counter)) == published

    @given(base=st.integers(-(1 << 63), (1 << 63) - 1), position=st.integers(0, 1 << 40))
    def test_image_keys(self, base, position):
        key = randomness.image_keys(base, torch.tensor([position]))
        inner = finalise(position * 0x9E3779B97F4A7C15 & WORD)
        assert unsigned(key) == [finalise(inner ^ (base & WORD))]

    @pytest.mark.parametrize("name", FNV)
    def test_a_purpose_is_the_hash_of_its_name(self, name):
        assert randomness._purpose(name) & WORD == FNV[name]

    def test_uniform_and_normal(self):
        keys, purpose = KEYS[:5], FNV["foobar"]
        states = [finalise(key ^ purpose) for key in unsigned(keys)]
        words = [[splitmix64(s + i * 0x9E3779B97F4A7C15 & WORD) for i in range(6)] for s in states]
        uniform = [[(word >> 40) * 2.0**-24 for word in row] for row in words]
        assert randomness.uniform(keys, "foobar", (2, 3)).flatten(1).tolist() == uniform
        normal = [
            [
                math.sqrt(-2 * math.log(((w >> 32) + 1) / 2**32)) * math.cos(2 * math.pi * (w & 0xFFFFFFFF) / 2**32)
                for w in row
            ]
            for row in words
        ]
        got = randomness.normal(keys, "foobar", (2, 3), torch.float64).flatten(1)
        torch.testing.assert_close(got, torch.tensor(normal, dtype=torch.float64), rtol=1e-13, atol=1e-14)


class TestPinned:
    """These values must never change: an old run would go on with other numbers."""

    def test_keys(self):
        assert randomness.key(0, "critic", 3, 1) == KEY
        assert randomness.image_keys(0, torch.arange(3)).tolist() == IMAGE_KEYS
        assert randomness.subkeys(torch.tensor([1, 2]), "latent").tolist() == SUBKEYS

    def test_draws(self):
        keys = randomness.image_keys(7, torch.arange(2))
        assert randomness.uniform(keys, "epsilon").tolist() == UNIFORM
        normal = randomness.normal(keys, "latent", (2,), torch.float64)
        torch.testing.assert_close(normal, torch.tensor(NORMAL, dtype=torch.float64), rtol=1e-14, atol=0)
        assert randomness.permutation(7, 10).tolist() == PERMUTATION


KEY = -4279505581894655584
IMAGE_KEYS = [0, 5197578548964807871, -3642288131749336026]
SUBKEYS = [-5391687947789706284, -2016307551859036177]
UNIFORM = [0.4269447922706604, 0.34147971868515015]
NORMAL = [[-0.13617759098654325, 0.3453847420749199], [-0.20643461019475298, 0.6544258254332301]]
PERMUTATION = [8, 4, 3, 9, 1, 5, 0, 2, 6, 7]


class TestStatistics:
    def test_uniform_draws_fill_the_unit_interval_evenly(self):
        draws = randomness.uniform(KEYS, "a", (8,))
        assert 0 <= float(draws.min()) and float(draws.max()) < 1
        assert kolmogorov(draws, lambda x: x) < 1.95
        assert abs(float(draws.mean()) - 0.5) < 4 / math.sqrt(12 * draws.numel())

    def test_normal_draws_are_standard_normal(self):
        draws = randomness.normal(KEYS, "a", (8,), torch.float64)
        count = draws.numel()
        assert kolmogorov(draws, gaussian) < 1.95
        assert abs(float(draws.mean())) < 4 / math.sqrt(count)
        assert abs(float(draws.var()) - 1) < 4 * math.sqrt(2 / count)
        assert abs(float((draws**4).mean()) - 3) < 4 * math.sqrt(96 / count)
        assert torch.isfinite(draws).all()

    def test_the_first_draws_of_neighbouring_images_are_no_line(self):
        first = randomness.normal(KEYS, "a", dtype=torch.float64)
        assert abs(correlation(first[:-1], first[1:])) < 4
        assert kolmogorov(first, gaussian) < 1.95

    @pytest.mark.parametrize("other", ["b", "A", "a ", "", "aa"])
    def test_purposes_are_independent(self, other):
        one, two = (randomness.normal(KEYS, purpose, (8,)) for purpose in ("a", other))
        assert abs(correlation(one, two)) < 4 and abs(correlation(one**2, two**2)) < 4

    def test_neighbouring_seeds_and_steps_are_independent(self):
        bases = [randomness.key(seed, "critic", step) for seed, step in ((0, 0), (1, 0), (0, 1))]
        draws = [randomness.normal(randomness.image_keys(base, torch.arange(4096)), "a", (4,)) for base in bases]
        for i, j in ((0, 1), (0, 2), (1, 2)):
            assert abs(correlation(draws[i], draws[j])) < 4
            assert abs(correlation(draws[i][:-1], draws[j][1:])) < 4

    def test_places_within_an_image_are_independent(self):
        draws = randomness.normal(KEYS, "a", (16,), torch.float64)
        off = torch.corrcoef(draws.T) - torch.eye(16)
        assert float(off.abs().max()) * math.sqrt(len(KEYS)) < 4.5

    def test_bits_are_set_half_the_time_and_one_bit_of_the_key_turns_half_of_them(self):
        bits = lambda x: ((x[:, None] >> torch.arange(64)) & 1).double()  # noqa: E731
        mixed = randomness.subkeys(KEYS, "a")
        margin = 4.5 * 0.5 / math.sqrt(len(KEYS))
        assert float((bits(mixed).mean(0) - 0.5).abs().max()) < margin
        for place in (0, 17, 63):
            turned = mixed ^ randomness.subkeys(KEYS ^ (torch.ones((), dtype=torch.int64) << place), "a")
            assert float((bits(turned).mean(0) - 0.5).abs().max()) < margin

    def test_no_two_of_many_keys_are_alike(self):
        keys = torch.cat([randomness.image_keys(randomness.key(seed), torch.arange(2**16)) for seed in range(4)])
        assert len(torch.unique(keys)) == len(keys)

    def test_every_order_of_three_is_as_frequent(self):
        orders = [tuple(randomness.permutation(randomness.key(seed), 3).tolist()) for seed in range(1200)]
        counts = np.array([orders.count(order) for order in set(orders)])
        assert len(counts) == 6 and ((counts - 200) ** 2 / 200).sum() < 20.5  # chi squared, 5 degrees, p = 0.001


class TestInvariance:
    @given(start=st.integers(0, 63), length=st.integers(1, 64))
    def test_a_slice_draws_what_the_whole_batch_draws_there(self, start, length):
        positions = torch.arange(64)
        part = slice(start, start + length)
        assert torch.equal(randomness.image_keys(5, positions)[part], randomness.image_keys(5, positions[part]))
        for draw in (randomness.uniform, randomness.normal):
            assert torch.equal(draw(KEYS[:64], "a", (3,))[part], draw(KEYS[:64][part], "a", (3,)))

    def test_the_shape_is_no_part_of_the_draw(self):
        assert torch.equal(randomness.normal(KEYS, "a", (2, 3)).flatten(1), randomness.normal(KEYS, "a", (6,)))
        assert torch.equal(randomness.normal(KEYS, "a", (9,))[:, :6], randomness.normal(KEYS, "a", (6,)))

    def test_the_dtype_only_rounds(self):
        wide = randomness.uniform(KEYS, "a", dtype=torch.float64)
        assert torch.equal(wide.float().double(), wide) and torch.equal(randomness.uniform(KEYS, "a").double(), wide)
        assert torch.equal(randomness.normal(KEYS, "a"), randomness.normal(KEYS, "a", dtype=torch.float64).float())

    def test_nothing_is_taken_from_the_generator_of_torch(self):
        before = torch.get_rng_state()
        first = randomness.normal(KEYS, "a")
        torch.manual_seed(1)
        assert torch.equal(randomness.normal(KEYS, "a"), first)
        torch.set_rng_state(before)

    def test_keys_tell_types_and_places_apart(self):
        parts = [(1, 2), (2, 1), ("1", 2), (12,), (1, 2, 0), ("1, 2",), (-1, 2), (True, 2)]
        assert len({randomness.key(*part) for part in parts}) == len(parts)


@given(base=st.integers(-(1 << 63), (1 << 63) - 1), count=st.integers(1, 500))
def test_a_permutation_holds_each_number_once(base, count):
    order = randomness.permutation(base, count)
    assert order.dtype == torch.int64 and sorted(order.tolist()) == list(range(count))


def draws(keys: torch.Tensor) -> list[torch.Tensor]:
    found = (draw(keys, "a", shape) for draw in (randomness.uniform, randomness.normal) for shape in ((), (2,), (3, 5)))
    return [randomness.subkeys(keys, "a"), *found]


def test_the_compiler_meets_no_range_of_numbers_to_multiply():
    """It would take the product for an index, in 32 bits on CUDA."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    found = torch.compile(draws, backend=backend, dynamic=False, fullgraph=True)(KEYS[:7])
    assert all(torch.equal(*pair) for pair in zip(found, draws(KEYS[:7]), strict=True))
    (graph,) = graphs
    assert not [node for node in graph.graph.nodes if "arange" in str(node.target)]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_compiles_the_draws():
    found = torch.compile(draws, dynamic=False)(KEYS.cuda())
    for got, wanted in zip(found, draws(KEYS), strict=True):
        torch.testing.assert_close(got.cpu(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_bits():
    assert torch.equal(randomness.uniform(KEYS.cuda(), "a", (8,)).cpu(), randomness.uniform(KEYS, "a", (8,)))
    torch.testing.assert_close(
        randomness.normal(KEYS.cuda(), "a", (8,), torch.float64).cpu(),
        randomness.normal(KEYS, "a", (8,), torch.float64),
        rtol=1e-13,
        atol=1e-13,
    )
