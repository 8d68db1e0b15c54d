"""The front of a search, measured a second time before it is reported.

The best of many noisy values is too good to be true. A second value by which nothing was selected
is not: another measurement of latency, and accuracy on validation images that the search has not
read. Where networks were trained alone, the accuracy that counts is theirs, and a second reading of
the inherited one selects nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from configs.errors import TooNoisy
from experiments.reporting.verified import VerifiedNetwork
from experiments.settings import verified_goal
from search.trials import SearchResult, TrialRecord
from search_space import Architecture


def confirm_front(
    result: SearchResult,
    measure: Callable[[Architecture], Mapping[str, float]],
    store: Callable[[TrialRecord], None],
) -> SearchResult:
    """Return the result with a front of second values; the first are beside them (`searched_...`).

    A member that exceeds a bound the second time leaves the front, and those take its place that it
    kept off the front; they are measured a second time too. Those that it stopped in a race do not:
    they were not read in full. Then members that are dominated by second values leave. What has a
    second measurement from an earlier run is not measured a third time. Where no member keeps the
    bounds, the front holds what was measured, as `infeasible`, and the note says so. A member that
    the device is too busy to measure keeps its first values.

    Args:
        measure: Gives the second values of an architecture; may raise `TooNoisy`.
        store: Called with each record that has been measured again.
    """
    goal, records = result.goal, {record.number: record for record in result.trials}
    noisy: set[int] = set()
    over: set[int] = set()
    while True:
        candidates = [record for number, record in records.items() if number not in over]
        front = goal.front(candidates)
        for record in front:
            if record.again or record.number in noisy:
                continue
            try:
                again = dict(measure(record.architecture))
            except TooNoisy:
                noisy.add(record.number)
                continue
            records[record.number] = dataclasses.replace(record, again=again)
            store(records[record.number])
        members = [records[record.number].measured_again() for record in front]
        exceeding = {member.number for member in members if goal.exceeded(member.metrics)}
        if not exceeding:
            break
        over |= exceeding
    notes = [result.note] if result.note else []
    if over and not members:
        members = [_judged(records[number].measured_again(), result) for number in over]
        nearest = min(members, key=lambda member: goal.violation(member.metrics))
        notes.append(
            f"none of the {len(over)} best architectures keeps its bounds when it is measured a "
            f"second time; the nearest: {nearest.message}"
        )
    else:
        members = goal.front(members)
    if count := sum(member.number in noisy for member in members):
        notes.append(
            f"the device was too busy to measure {count} of {len(members)} members a second time; "
            "they keep the values of the search"
        )
    trials = [records[record.number] for record in result.trials]
    return dataclasses.replace(result, trials=trials, front=members, note="; ".join(notes))


def confirm_verified(
    result: SearchResult,
    networks: Sequence[VerifiedNetwork],
    measure: Callable[[Architecture], Mapping[str, float]],
    store: Callable[[TrialRecord], None],
) -> tuple[SearchResult, list[VerifiedNetwork]]:
    """Return the result with the front of those networks that were trained to the end.

    All of these are measured a second time, so that whoever is not on the front is dominated by
    what is reported of another. Bounds and missing or repeated measurements as in `confirm_front`.

    Args:
        measure, store: As for `confirm_front`.

    Returns:
        The result, with the goal of networks that are trained alone, and all networks with their
        second measurements.
    """
    result = dataclasses.replace(result, goal=verified_goal(result.goal))
    goal, confirmed, noisy = result.goal, list[VerifiedNetwork](), 0
    for network in networks:
        if network.finished and not network.record.again:
            try:
                again = dict(measure(network.record.architecture))
            except TooNoisy:
                noisy += 1
            else:
                record = dataclasses.replace(network.record, again=again)
                store(record)
                network = dataclasses.replace(network, record=record)
        confirmed.append(network)
    finished = [_judged(network.reported, result) for network in confirmed if network.finished]
    front, notes = goal.front(finished), [result.note] if result.note else []
    if not front:
        front = finished
        nearest = min(front, key=lambda member: goal.violation(member.metrics))
        notes.append(
            f"none of the {len(front)} verified networks keeps its bounds when it is measured a "
            f"second time; the nearest: {nearest.message}"
        )
    if noisy:
        notes.append(
            f"the device was too busy to measure {noisy} of {len(finished)} verified networks a "
            "second time; they keep the values of the search"
        )
    records = {network.record.number: network.record for network in confirmed}
    trials = [records.get(record.number, record) for record in result.trials]
    return dataclasses.replace(result, trials=trials, front=front, note="; ".join(notes)), confirmed


def _judged(member: TrialRecord, result: SearchResult) -> TrialRecord:
    state, message = result.goal.judge(member.metrics)
    return dataclasses.replace(member, state=state, message=message)
