"""What is kept of rollouts that are over: from where to where, who began them and why, how they ended."""

from __future__ import annotations

from datetime import timedelta

import pytest

from proxymode_api.annotations import CHANGE_CAUSE_ANNOTATION
from proxymode_api.common import ManagedFields, Mode
from proxymode_operator.rollout.revisions import last_editor
from rollout_world import START, World


def entry(manager: str, seconds: int, *fields: str, subresource: str = "") -> ManagedFields:
    return ManagedFields(
        manager=manager,
        time=START + timedelta(seconds=seconds),
        subresource=subresource,
        fields_v1={field: {} for field in fields},
    )


@pytest.mark.parametrize(
    ("managed", "manager"),
    [
        ([], ""),
        ([entry("kubectl", 1, "f:metadata", "f:spec"), entry("argocd-controller", 2, "f:spec")], "argocd-controller"),
        ([entry("argocd-controller", 2, "f:spec"), entry("kubectl", 1, "f:spec")], "argocd-controller"),
        ([entry("kubectl", 1, "f:spec"), entry("labeller", 2, "f:metadata")], "kubectl"),
        ([entry("kubectl", 1, "f:spec"), entry("odd", 2, "f:spec", subresource="status")], "kubectl"),
        ([ManagedFields(manager="timeless", fields_v1={"f:spec": {}})], ""),
    ],
)
def test_who_changed_it_is_who_wrote_the_spec_last(managed: list[ManagedFields], manager: str) -> None:
    assert last_editor(managed) == manager


def edited_by(world: World, manager: str, cause: str | None) -> None:
    meta = world.proxy_mode.metadata.model_copy(update={"managed_fields": [entry(manager, 1, "f:spec")]})
    world.proxy_mode = world.proxy_mode.model_copy(update={"metadata": meta})
    world.annotate(CHANGE_CAUSE_ANNOTATION, cause)


def test_history_tells_from_where_to_where_by_whom_why_and_with_what_result() -> None:
    world = World.of(3, max_unavailable=3)
    edited_by(world, "kubectl", None)
    world.agents["n2"].unable = {Mode.NFTABLES}
    world.run()
    world.edit(mode=Mode.IPVS)
    edited_by(world, "argocd-controller", "back:\n  CHG-7")
    world.run()
    back, forth = world.status.history
    assert (forth.from_mode, forth.mode, forth.changed_by, forth.change_cause) == ("ipvs", "nftables", "kubectl", "")
    assert (forth.outcome, forth.nodes, forth.updated, forth.blocked) == ("Complete", 2, 2, 1)
    assert (back.from_mode, back.mode, back.changed_by) == ("nftables", "ipvs", "argocd-controller")
    assert (back.change_cause, back.outcome, back.updated) == ("back: CHG-7", "Complete", 3)


def test_who_began_it_stays_whoever_edits_in_the_middle() -> None:
    world = World.of(3)
    edited_by(world, "kubectl", "to nftables")
    world.run(4)
    world.edit(rollout__max_unavailable=3)
    edited_by(world, "kubectl-proxymode", "hurry")
    world.run(4)
    world.abort()
    world.run(4)
    assert (world.status.history[0].changed_by, world.status.history[0].change_cause) == ("kubectl", "to nftables")


def test_a_failed_and_a_skipped_node_are_counted_when_a_rollout_is_aborted() -> None:
    world = World.of(3)
    world.agents["n0"].fails = world.agents["n0"].gives_up = True
    world.decide()
    world.skip("n2", "broken NIC")
    world.run(10)
    world.abort()
    world.decide()
    record = world.status.history[0]
    assert (record.outcome, record.updated, record.failed, record.skipped) == ("Aborted", 0, 1, 1)


def test_a_rollout_that_another_takes_the_place_of_is_counted_as_it_stood() -> None:
    world = World.of(2)
    for _ in range(4):
        world.decide()
        world.agents_step()
    assert world.decide().status.nodes.updated == 1
    world.edit(mode=Mode.IPVS)
    world.decide()
    record = world.status.history[0]
    assert (record.outcome, record.updated) == ("Superseded", 1)


def test_the_last_ten_are_kept_newest_first() -> None:
    world = World.of(1)
    for turn in range(12):
        world.edit(mode=[Mode.IPVS, Mode.NFTABLES][turn % 2])
        world.run()
    assert [record.revision for record in world.status.history] == list(range(12, 2, -1))
