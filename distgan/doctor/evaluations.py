"""Whether what the config wants to know of its pictures can be measured."""

from __future__ import annotations

import contextlib

from distgan.config import MEASURED_BY, Config
from distgan.data.dataset import open_dataset
from distgan.doctor.table import FINE, NOT_FINE, REMARK, Finding
from distgan.errors import UserError
from distgan.evaluation import classifier

_OWN = ("fd_own", "precision_recall_own", "modes")
_INCEPTION = ("fid", "kid", "inception_score", "precision_recall")


def check_evaluations(config: Config) -> list[Finding]:
    """Nothing where there are no evaluations. Without asking the network, and without making what is missing."""
    evaluate = config.evaluate
    if evaluate.every is None:
        return []
    problems = _problems(config)
    best = (config.checkpoint.best or "").removeprefix("evaluate/")
    findings = []
    for asked, problem, is_certain in problems:
        ends_the_run = is_certain and MEASURED_BY.get(best, best) in asked
        text = f"{', '.join(asked)}: {problem}"
        text += f"; checkpoint.best {config.checkpoint.best} cannot do without" if ends_the_run else ""
        findings.append(Finding("evaluations", NOT_FINE if ends_the_run else REMARK, text))
    told = f"every {evaluate.every}: {', '.join(evaluate.metrics)}, of {evaluate.count} pictures"
    return findings or [Finding("evaluations", FINE, told)]


def _problems(config: Config) -> list[tuple[list[str], str, bool]]:
    """Metrics, what is in their way, and whether that is certain."""
    evaluate, found = config.evaluate, []
    if own := [name for name in evaluate.metrics if name in _OWN]:
        with contextlib.suppress(UserError):  # of the shards, which have a row of their own
            if not len(classifier.labelled(open_dataset(config.data))):
                found.append((own, "need labels of two classes or more, and the shards have none", True))
    if inception := [name for name in evaluate.metrics if name in _INCEPTION]:
        from distgan.evaluation.inception import FILE, place_of_weights

        path = place_of_weights(evaluate.inception)
        if not path.is_file() and evaluate.inception is None:
            found.append((inception, f"need {path}, which training would try to fetch; put it there", False))
        elif not path.is_file():
            raise UserError(f"evaluate.inception: {evaluate.inception}: no such file; give {FILE}, or leave it out")
    return found
