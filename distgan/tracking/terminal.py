"""What a person sees: a progress bar on a terminal, plain lines in a file."""

from __future__ import annotations

import sys
from pathlib import Path

from tqdm import tqdm

from distgan.tracking.names import THROUGHPUT

_SHORT = {
    "critic/loss": "critic",
    "critic/wasserstein": "wasserstein",
    "critic/penalty": "penalty",
    "generator/loss": "generator",
    THROUGHPUT: "images/s",
}

_JUDGED = "evaluate/"


def _is_told(name: str) -> bool:
    """What evaluations say, but for single levels of the pyramid."""
    return name.startswith(_JUDGED) and not name.rpartition("_")[2].isdigit()


class Terminal:
    """Progress with losses and images a second, on stderr."""

    def __init__(self, step: int, total: int) -> None:
        self._total = total
        self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True) if sys.stderr.isatty() else None
        self._first: tuple[int, float] | None = None

    def metrics(self, line: dict) -> None:
        text = "  ".join(f"{short} {line[name]:.4g}" for name, short in _SHORT.items() if name in line)
        judged = "  ".join(f"{name.removeprefix(_JUDGED)} {line[name]:.4g}" for name in line if _is_told(name))
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(line["step"] - self._bar.n)
            if judged:
                self._bar.write(f"step {line['step']}/{self._total}  {judged}", file=sys.stderr)
            return
        print(f"step {line['step']}/{self._total}  {text}{self._left(line)}", file=sys.stderr, flush=True)
        if judged:
            print(f"step {line['step']}/{self._total}  {judged}", file=sys.stderr, flush=True)

    def _left(self, line: dict) -> str:
        if self._first is None:
            self._first = line["step"], line["seconds"]
            return ""
        steps, seconds = line["step"] - self._first[0], line["seconds"] - self._first[1]
        return f"  left {_clock(seconds / steps * (self._total - line['step']))}" if steps > 0 else ""

    def picture(self, name: str, path: Path, step: int) -> None:
        pass

    def checkpoint(self, path: Path) -> None:
        pass

    def rewind(self, step: int) -> None:
        pass

    def close(self, status: str) -> None:
        if self._bar is not None:
            self._bar.close()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
