"""What the planner promises, as checks of one decision, or of one state, against the truth that a `World` keeps.

Shared by the random life (`test_rollout_invariants`) and the exhaustive search (`test_rollout_exhaustive`). Nothing
here asks the planner what it thinks of a node.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from proxymode_api.annotations import ABORT_ANNOTATION, RETRY_ANNOTATION
from proxymode_api.common import Mode
from proxymode_api.nodeproxymode import Phase
from proxymode_api.proxymode_status import RolloutOrder
from proxymode_api.rollout import Approval, TopologyPolicy
from proxymode_operator.rollout.model import WriteKind
from proxymode_operator.rollout.selection import matches
from proxymode_operator.rollout.stages import rounded_up
from rollout_world import MOVES, World, options_of

if TYPE_CHECKING:
    from proxymode_operator.rollout.model import Decisions, Node, Write


def check(world: World, decisions: Decisions) -> None:
    """Raises AssertionError unless what was decided about this world keeps every promise."""
    moves = [write for write in decisions.writes if write.kind in MOVES]
    unavailable = world.all_unavailable()
    in_flight = {name for name in world.nodes if world.in_flight(name)}
    newly = {write.node for write in moves} - in_flight
    if newly:
        assert len(unavailable | newly) <= world.budget, (unavailable, newly)
        assert len(unavailable) < world.budget
    if moves:
        assert not world.proxy_mode.spec.rollout.paused
        aborted = world.proxy_mode.metadata.annotations.get(ABORT_ANNOTATION) == str(world.status.revision)
        assert not aborted or world.status.completed_at
    for write in decisions.writes:
        check_write(world, write, decisions.status.revision)
    turns = [write for write in moves if write.kind is WriteKind.TURN]
    if turns:
        assert world.proxy_mode.status.revision == decisions.status.revision, "told before it was on record"
        check_gates(world, {write.node for write in turns})
        check_windows(world, {write.node for write in turns})
        check_answers(world, {write.node: write.intent.stage for write in turns})
        check_domain(world, {write.node for write in turns} & newly)


def check_write(world: World, write: Write, revision: int) -> None:
    """Each kind of write changes what it may change, and nothing else."""
    node = world.nodes[write.node]
    before = node.asked.intent if node.asked else None
    skipped = node.asked is not None and node.asked.skip != ""
    if write.kind is WriteKind.TURN:
        assert not skipped, "told a node that a person wants to be left alone"
        assert write.intent.mode is world.proxy_mode.spec.mode
        assert write.intent.options == options_of(world)
        assert write.intent.mode not in world.agents[write.node].unable or not blocked_known(world, write.node)
        assert node.report is not None, "told a node of which nothing is known"
    elif write.kind is WriteKind.RETURN:
        assert before is not None
        assert before.turn is not None
        assert write.intent.mode is before.turn.before_mode
        assert write.intent.mode in world.asked_modes | {Mode.IPVS}, "a mode that nobody asked for or ran"
        assert (write.intent.mode, write.intent.options) != (before.mode, before.options), "sent nowhere"
    elif write.kind is WriteKind.RETRY:
        assert RETRY_ANNOTATION in world.proxy_mode.metadata.annotations
        assert not skipped
        assert before is not None
        assert world.in_flight(write.node), "told to try again what it has done"
        assert (write.intent.mode, write.intent.options) == (world.proxy_mode.spec.mode, options_of(world))
        assert replace(write.intent, attempt=before.attempt, turn=before.turn) == before
        assert write.intent.attempt == before.attempt + 1, "the agent would not see it"
    else:
        assert write.intent.mode is (before.mode if before else None), "moved a node without telling it"
        if write.kind is WriteKind.MARK:
            assert before is not None
            assert write.intent.spec() == before.spec()
        elif write.kind is WriteKind.PLACE:
            assert before is not None
            assert replace(write.intent, stage=before.stage) == before, "more than the stage"
            assert before.revision != revision, "moved to another stage after this revision told it"
        else:
            assert write.intent.turn == (before.turn if before else None)
        if before is not None and before.mode is not None:
            used = before.mode.value
            assert getattr(write.intent.options, used) == getattr(before.options, used)
            assert write.intent.options.masquerade_all == before.options.masquerade_all


def blocked_known(world: World, name: str) -> bool:
    """Whether the agent has said that the node cannot run what is wanted."""
    report = world.nodes[name].report
    return report is not None and bool(report.blockers) and report.preflight_mode is world.proxy_mode.spec.mode


def check_gates(world: World, told: set[str]) -> None:
    """Every told node is reached by a stage before which everything is complete, soaked and approved; or it is
    one that failed on its way from what is wanted now."""
    told = {name for name in told if not (world.in_flight(name) and came_from_wanted(world, name))}
    if world.status.order is not RolloutOrder.FORWARD:
        check_undo(world, told)
        return
    stored = {stage.name: stage for stage in world.status.stages}
    reach, reachable = 0, set[str]()
    for stage in world.proxy_mode.spec.rollout.stages:
        if stage.approval is Approval.MANUAL and not (stage.name in stored and stored[stage.name].approved):
            break
        if stage.selector is not None:
            reachable |= {name for name, node in world.nodes.items() if matches(stage.selector, node.labels)}
        else:
            total = len(world.nodes)
            limit = stage.count if stage.count is not None else rounded_up(stage.percent or 0, total)
            reach = max(reach, min(limit, total))
        if not world.soaked(stage.name):
            break
    revision = world.status.revision
    # One that was sent back has left its place in the stage to another.
    mine = {
        name
        for name, node in world.nodes.items()
        if node.asked and node.asked.intent.turn and node.asked.intent.revision == revision and wanted_by(world, node)
    }
    outside = (mine | told) - reachable
    assert not (told - reachable) or len(outside) <= reach, (told, mine, reach, reachable)


def check_undo(world: World, told: set[str]) -> None:
    """In reverse a node goes back only when all stages after that in which it was told have gone back, and have soaked
    where nodes of them had to."""
    if world.status.order is RolloutOrder.AT_ONCE:
        return
    backwards = [stage.name for stage in reversed(world.proxy_mode.spec.rollout.stages)]
    recorded = [stage_of(world, name) for name in told]
    furthest = max((backwards.index(stage) for stage in recorded if stage in backwards), default=0)
    for stage in backwards[:furthest]:
        assert world.soaked(stage) or (world.completed(stage) and not went_back(world, stage)), (told, stage)


def went_back(world: World, stage: str) -> bool:
    """Whether this revision told a node of the stage."""
    return any(
        node.asked.intent.revision == world.status.revision and node.asked.intent.stage == stage
        for node in world.nodes.values()
        if node.asked is not None and node.asked.intent.turn is not None
    )


def check_answers(world: World, stages: dict[str, str]) -> None:
    """The first stage begins only after the gates have been asked, any other after they have said yes since a stage was
    complete. `stages`: in which one each node is told."""
    told = {name for name in stages if not (world.in_flight(name) and came_from_wanted(world, name))}
    undoes = world.status.order is not RolloutOrder.FORWARD
    if undoes or world.status.completed_at or world.gates_came_late or not told:
        return
    started = {stage.name: stage for stage in world.status.stages if stage.started_at is not None}
    for gate in world.proxy_mode.spec.rollout.gates:
        said_yes = [at for name, at in world.yes if name == gate.name and at >= world.status.started_at]
        assert said_yes, "nobody has asked"
        if started and not {stages[name] for name in told} <= started.keys():
            done = [stage.completed_at for stage in started.values() if stage.gates_passed_at is not None]
            assert any(at >= completed for at in said_yes for completed in done), (said_yes, started)


def check_domain(world: World, newly: set[str]) -> None:
    """Nodes that were told lately and have neither done nor failed, and those told now, are all of one domain."""
    if world.proxy_mode.spec.rollout.topology_policy is not TopologyPolicy.ONE_DOMAIN or not newly:
        return
    busy = set(newly)
    for name, node in world.nodes.items():
        turn = node.asked.intent.turn if node.asked else None
        if node.asked is None or turn is None or node.report is None or node.asked.skip or turn.failed:
            continue
        lately = world.now - turn.tried_at < timedelta(seconds=60)
        gave_up = node.report.phase in (Phase.FAILED, Phase.BLOCKED)
        if lately and not gave_up and world.in_flight(name):
            busy.add(name)
    assert len({world.nodes[name].labels["zone"] for name in busy}) == 1, busy


def stage_of(world: World, name: str) -> str:
    """Which is on record on the node."""
    asked = world.nodes[name].asked
    return asked.intent.stage if asked is not None else ""


def check_windows(world: World, told: set[str]) -> None:
    """Outside the windows (every other minute, in these worlds) nodes are told only to come home. In none of these
    worlds is a node whose Services nobody handles."""
    homeward = {name for name in told if world.in_flight(name) and came_from_wanted(world, name)}
    closed = bool(world.proxy_mode.spec.rollout.windows) and world.now.minute % 2 == 1
    assert not closed or told == homeward, (told, homeward)


def wanted_by(world: World, node: Node) -> bool:
    """Whether the node was asked for what the ProxyMode wants now."""
    asked = node.asked.intent if node.asked is not None else None
    return asked is not None and (asked.mode, asked.options) == (world.proxy_mode.spec.mode, options_of(world))


def came_from_wanted(world: World, name: str) -> bool:
    """Whether what is wanted now is what the node ran before it was told."""
    asked = world.nodes[name].asked
    assert asked is not None
    turn = asked.intent.turn
    wanted = (world.proxy_mode.spec.mode, options_of(world))
    return turn is not None and (turn.before_mode, turn.before_options) == wanted
