"""What a prepare or an index has done, and the lines of config that use it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

TRAINABLE = (16, 1024)  # pixels a side that `data.resolution` may have
NAMED = 5  # skipped pictures that the summary names


@dataclass(frozen=True)
class Summary:
    """The result of `prepare`: counts are pictures, `bytes` those of the tars, `seconds` of this call.

    `skipped` holds (name, reason); `upscaled` were enlarged, `small` left out because they would have to be. `kept`
    counts shards that an earlier, interrupted start had finished; `finished_before` says that there was nothing to do
    (`upscaled` is then not known). `indexed` is set where the pictures are not our own: `resolution` and `channels` are
    those of the first, None where it is not square or not known, and `settings` are further lines that the config
    needs.
    """

    out: Path
    resolution: int | None
    channels: int | None
    classes: tuple[str, ...]
    written: int
    shards: int
    bytes: int
    skipped: tuple[tuple[str, str], ...] = ()
    upscaled: int = 0
    small: int = 0
    kept: int = 0
    seconds: float = 0.0
    finished_before: bool = False
    indexed: bool = False
    settings: tuple[str, ...] = ()

    @classmethod
    def of_finished(cls, out: Path, index: dict, seconds: float) -> Summary:
        size = sum(shard["bytes"] for shard in index["shards"])
        facts = (
            index["resolution"],
            index["channels"],
            tuple(index["classes"]),
            index["count"],
            len(index["shards"]),
        )
        skipped = tuple((name, reason) for name, reason in index.get("skipped", ()))
        return cls(out, *facts, size, skipped, small=index.get("small", 0), seconds=seconds, finished_before=True)

    @classmethod
    def of_records(cls, job, records: dict, kept: int, seconds: float) -> Summary:
        full = [record for record in records.values() if record.samples]
        return cls(
            job.out,
            job.recipe.resolution,
            job.recipe.channels,
            job.source.classes,
            written=sum(record.samples for record in full),
            shards=len(full),
            bytes=sum(record.bytes for record in full),
            skipped=tuple(skip for record in records.values() for skip in record.skipped),
            upscaled=sum(record.upscaled for record in full),
            small=sum(record.small for record in records.values()),
            kept=kept,
            seconds=seconds,
        )

    def text(self) -> str:
        """The summary as lines for a person, with the config to paste at the end."""
        lines = [self._headline()]
        if self.kept:
            lines.append(f"shards kept from an earlier start: {self.kept}")
        if self.skipped:
            lines.append(f"skipped {pictures(len(self.skipped))} that cannot be read:")
            lines += [f"  {name}: {reason}" for name, reason in self.skipped[:NAMED]]
            lines += [f"  ... and {len(self.skipped) - NAMED} more"] if len(self.skipped) > NAMED else []
        if self.small:
            lines.append(f"left out {pictures(self.small)} smaller than {self.resolution} pixels")
        if self.upscaled:
            size = f"{self.resolution} pixels"
            way_out = "--skip-small leaves out such pictures"
            lines.append(f"warning: {pictures(self.upscaled)} smaller than {size} enlarged; {way_out}")
        lines.append(f"classes: {self._class_names()}")
        return "\n".join(lines + ["for the config:", *self._config()])

    def _headline(self) -> str:
        shards = f"{self.shards} shard{'s' * (self.shards != 1)}"
        size = f"{pictures(self.written)} in {shards}, {self.bytes / 1e6:.1f} MB, in {self.out}"
        if self.finished_before:
            return f"nothing to do: already prepared with these arguments ({size})"
        return f"{'indexed' if self.indexed else 'prepared'} {size}, {self.seconds:.1f} s"

    def _class_names(self) -> str:
        if not self.classes:
            return "none"
        shown = ", ".join(name if name.isprintable() else ascii(name) for name in self.classes[:20])
        return f"{len(self.classes)} ({shown}{', ...' if len(self.classes) > 20 else ''})"

    def _config(self) -> list[str]:
        classes = f"  # or {len(self.classes)}, conditional" if self.classes else ""
        return [
            "data:",
            f"  shards: {self.out.resolve()}",
            *self._size(),
            f"  channels: {self.channels or 3}",
            f"  classes: 0{classes}",
            *(f"  {line}" for line in self.settings),
        ]

    def _size(self) -> list[str]:
        if not self.indexed:
            return [f"  resolution: {self.resolution}"]
        smallest, largest = TRAINABLE
        if self.resolution is None or not smallest <= self.resolution <= largest:
            return ["  resolution: 64  # any size: they are cropped and resized", "  fit: crop"]
        return [f"  resolution: {self.resolution}  # of the first picture; others need fit: crop"]


def pictures(count: int) -> str:
    """So many, as words."""
    return f"{count} picture{'s' * (count != 1)}"
