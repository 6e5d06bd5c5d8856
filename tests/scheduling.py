"""Who runs which test where several processes share them (pytest-xdist)."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

TOGETHER = {"tests/slurm/test_cluster.py", "tests/slurm/test_jobs.py"}
"""Files whose tests one process runs, since all of them need the Slurm cluster."""


class OneByOne(LoadScopeScheduling):
    """A free process is given the next test, and all that share the Slurm cluster go to one.

    A process that dies costs the test that it was in, and the others go on: xdist's own scheduler would try that test
    again, hand out anew what had been done, and then wait for ever."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "cluster" if file in TOGETHER else nodeid

    def remove_node(self, node) -> str | None:
        """The test that a process died in; None where it had nothing to do."""
        left = {scope: unit for scope, unit in self.assigned_work.pop(node).items() if not all(unit.values())}
        if not left:
            return None
        unit = next(iter(left.values()))
        died_in = next(test for test, done in unit.items() if not done)
        unit[died_in] = True
        for scope, unit in reversed(left.items()):
            if not all(unit.values()):
                self.workqueue[scope] = unit
                self.workqueue.move_to_end(scope, last=False)
        for other in self.assigned_work:
            self._reschedule(other)
        return died_in

    def _reschedule(self, node) -> None:
        """A process begins a test when it knows the next one, or that there is none."""
        if node not in self.registered_collections:  # it has just been started, and will ask itself
            return
        super()._reschedule(node)
        if self._pending_of(self.assigned_work[node]) < 2:
            super()._reschedule(node)
