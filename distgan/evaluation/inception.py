"""Metrics in the features of Inception, by torch-fidelity's own functions; only with its standard weights is a distance
called FID."""

from __future__ import annotations

import io
import pickle
import urllib.request
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from distgan.errors import ConfigError
from distgan.evaluation.crew import Crew
from distgan.evaluation.features import Features, RealFeatures, extracted
from distgan.evaluation.reals import Reals
from distgan.evaluation.shares import Share
from distgan.evaluation.store import Store, digest
from distgan.files import new_file
from distgan.trouble import tell

FILE = URL_INCEPTION_V3.rpartition("/")[2]
_PATIENCE = 20.0
"""Seconds for a server that does not answer."""
_LAYERS = ["2048", "logits_unbiased"]
_KID_SUBSET = 1000
"""Pictures of each of KID's 100 subsets, at most."""


class Weights(NamedTuple):
    """What was found of Inception."""

    state: dict[str, Tensor] | None
    problem: str = ""
    is_mistake: bool = False
    """Whether a file that the config names is the problem."""


class InceptionExtractor:
    """The 2,048 features before Inception's last layer, and its 1,008 logits without their bias."""

    name, width = "inception", 2048

    def __init__(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Raises RuntimeError where the weights are of another network."""
        self.digest = digest(state)
        self._network, self._device = _network(state).to(device), device

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Grey pictures are seen as three equal channels."""
        return torch.cat(self._network(pixels.to(self._device).expand(-1, 3, -1, -1)), 1)


def _network(state: dict[str, Tensor]) -> FeatureExtractorInceptionV3:
    """Raises RuntimeError where the weights are of another network."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    with warnings.catch_warnings(), torch.device("meta"):  # no initial weights, which take seconds
        warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
        network = FeatureExtractorInceptionV3("inception", _LAYERS, feature_extractor_weights_path=file)
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


class Inception:
    """`fid`, `kid`, `inception_score`, `precision`, `recall`, as far as they are asked for."""

    def __init__(self, asked: Collection[str], reals: Reals, store: Store, file: str | None) -> None:
        """`file`: evaluate.inception."""
        self._asked, self._file = asked, file
        self._real = RealFeatures(reals, store)

    def prepare(self, crew: Crew) -> str | None:
        """Raises ConfigError, on all processes alike, where evaluate.inception is no file of these weights."""
        found = crew.main(lambda moved: weights(self._file))
        if found.is_mistake:
            raise ConfigError(found.problem)
        if found.state is None:
            return found.problem
        self._extractor = InceptionExtractor(found.state, crew.runtime.device)
        if set(self._asked) != {"inception_score"}:
            self._real.prepare(crew, self._extractor)
        return None

    def measure(self, crew: Crew, fakes: Share, labels: Tensor | None) -> dict[str, float]:
        found = extracted(crew, self._extractor, fakes)
        return crew.main(lambda moved: self._values(Features(*(part.cpu() for part in found)), moved))

    def _values(self, fakes: Features, moved: Callable[[], None]) -> dict[str, float]:
        functions = {"fid": self._fid, "kid": self._kid, "inception_score": _score, "precision_recall": self._ratios}
        values: dict[str, float] = {}
        for name in self._asked:
            values |= functions[name](fakes)
            moved()
        return values

    def _fid(self, fakes: Features) -> dict[str, float]:
        fake, real = (fid_features_to_statistics(part) for part in (fakes.features, self._real.compared))
        return {"fid": fid_statistics_to_metric(fake, real, verbose=False)[KEY_METRIC_FID]}

    def _kid(self, fakes: Features) -> dict[str, float]:
        real, fake = self._real.compared, fakes.features
        subset = min(_KID_SUBSET, len(real), len(fake))
        return {"kid": kid_features_to_metric(fake, real, kid_subset_size=subset, verbose=False)[KEY_METRIC_KID_MEAN]}

    def _ratios(self, fakes: Features) -> dict[str, float]:
        count = min(len(self._real.compared), len(fakes.features))
        fake, real = fakes.features[:count], self._real.compared[:count]
        found = prc_features_to_metric(fake, real, save_cpu_ram=True, verbose=False)
        return {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}


def _score(fakes: Features) -> dict[str, float]:
    return {"inception_score": isc_features_to_metric(fakes.logits)[KEY_METRIC_ISC_MEAN]}


def place_of_weights(file: str | None) -> Path:
    """The file that is named, or else its place in the cache of torch.hub."""
    return Path(torch.hub.get_dir()) / "checkpoints" / FILE if file is None else Path(file).expanduser()


def weights(file: str | None) -> Weights:
    """Inception's weights from a file, or where none is named from the cache of torch.hub, else downloaded into it."""
    path = place_of_weights(file)
    if file is not None:
        if not path.is_file():
            return Weights(None, f"evaluate.inception: {file}: no such file; give {FILE}, or leave it out", True)
        return _read(path, f"evaluate.inception: {file}", f"give {FILE} as torch-fidelity has it")
    if not path.is_file() and (failure := _fetched(path)):
        return Weights(
            None,
            f"Inception's weights are needed, which could not be fetched ({failure}); put {FILE} of torch-fidelity's "
            f"release v0.2.0 into {path.parent}, or name it in evaluate.inception",
        )
    found = _read(path, str(path), "remove it, so that it is fetched again")
    return found._replace(is_mistake=False)


def _fetched(path: Path) -> str:
    """Why the weights could not be downloaded; empty where they are there now."""
    tell(f"evaluate: fetching Inception's weights into {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(URL_INCEPTION_V3, timeout=_PATIENCE) as source, new_file(path) as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
            if target.tell() != int(source.headers.get("Content-Length", target.tell())):
                raise OSError("only a part of it came")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        return " ".join(str(getattr(reason, "strerror", None) or reason).split())
    return ""


def _read(path: Path, called: str, way_out: str) -> Weights:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        _network(state)
    except OSError as error:
        return Weights(None, f"{called}: cannot be read ({error.strerror}); {way_out}", True)
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, EOFError, pickle.UnpicklingError):
        return Weights(None, f"{called}: does not hold Inception's weights; {way_out}", True)
    return Weights(dict(state))
