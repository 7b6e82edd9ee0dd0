"""Notes on the size and time of the exchanges that release statistics."""

from __future__ import annotations

from hanse_server.stage_log import read_stages
from hanse_simulations.experiment.arm_run import ArmRun

_WORD = 4
"""Bytes of a masked coordinate: sums are modulo 2^32."""


def exchange_notes(run: ArmRun) -> list[str]:
    """One sentence for each sum of statistics that a trained arm released under masks."""
    enrolment = run.nodes[0].enrolment
    if enrolment is None or not run.settings.secure:
        return []
    seconds = {
        line["round"]: line["seconds"]
        for line in read_stages(run.folder.path)
        if line["stage"] == "train"
    }
    notes = []
    for phase in run.settings.schedule.statistics:
        size = _WORD * enrolment.manifest.terms(phase.name).layout.length
        numbers = sum(
            part.length
            for part in enrolment.manifest.sections_of(phase.name)
            if part.name == "update"
        )
        spent = ", ".join(
            f"{seconds[number]:.1f} s"
            for number in range(phase.first, phase.last + 1)
            if number in seconds
        )
        notes.append(
            f"Phase {phase.name} released {numbers:,} numbers in one exchange: "
            f"{size / 1e6:,.2f} MB from each store, {spent} with masks and noise."
        )
    return notes
