"""What each verb writes, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import cli_world as world
from proxymode_api.modes import Mode
from proxymode_api.nodeproxymode import NodeProxyMode
from proxymode_api.proxymode import ProxyMode
from proxymode_cli import verbs
from proxymode_cli.asking import choose
from proxymode_cli.cluster import warnings
from proxymode_cli.errors import ExitCode, UserError
from proxymode_cli.verbs import Home


def proxy_mode(**status: Any) -> ProxyMode:
    wire = copy.deepcopy(world.PROXY_MODE)
    wire["status"].update(status)
    return ProxyMode.model_validate(wire)


def paused() -> ProxyMode:
    wire = copy.deepcopy(world.PROXY_MODE)
    wire["spec"]["rollout"]["paused"] = True
    return ProxyMode.model_validate(wire)


AWAITING = {
    "stages": [
        {"name": "canary", "phase": "Complete"},
        {"name": "half", "phase": "AwaitingApproval"},
        {"name": "all", "phase": "Pending"},
    ]
}


def test_pause_and_resume_say_when_there_is_nothing_to_do() -> None:
    assert verbs.pause(proxy_mode()).patch == {"spec": {"rollout": {"paused": True}}}
    assert verbs.pause(paused()).patch is None
    assert verbs.resume(paused()).patch == {"spec": {"rollout": {"paused": False}}}
    assert verbs.resume(proxy_mode()).patch is None


def test_promote_takes_the_stage_that_waits() -> None:
    deed = verbs.promote(proxy_mode(**AWAITING), None, everything=False)
    assert deed.patch == {"metadata": {"annotations": {"proxymode.io/promote": "half"}}}


def test_promote_takes_a_stage_ahead_or_all() -> None:
    assert verbs.promote(proxy_mode(), "all", everything=False).told == "stage all approved"
    deed = verbs.promote(proxy_mode(), None, everything=True)
    assert deed.patch == {"metadata": {"annotations": {"proxymode.io/promote": "all"}}}


@pytest.mark.parametrize(
    ("stage", "everything", "code", "text"),
    [
        (None, False, ExitCode.USAGE, "no stage of fleet waits for approval; give --stage with one of canary"),
        ("zone-z", False, ExitCode.NOT_FOUND, "no stage 'zone-z'; it has canary, half, all"),
        ("half", True, ExitCode.USAGE, "not both"),
    ],
)
def test_promote_refuses(stage: str | None, everything: bool, code: ExitCode, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        verbs.promote(proxy_mode(), stage, everything=everything)
    assert caught.value.code is code


def test_abort_names_the_revision() -> None:
    deed = verbs.abort(proxy_mode())
    assert deed.patch == {"metadata": {"annotations": {"proxymode.io/abort": "3"}}}
    assert "revision 3 aborted" in deed.told


@pytest.mark.parametrize("status", [{"revision": 0}, {"status": "Complete"}])
def test_abort_refuses_where_nothing_goes_on(status: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        verbs.abort(proxy_mode(**status))


FAILED = {"nodes": {"failed": 2}}
KNOWN = {
    name: NodeProxyMode.model_validate({"metadata": {"name": name, **more}, "spec": {"proxyMode": owner}})
    for name, owner, more in (
        ("a", "fleet", {}),
        ("b", "fleet", {"annotations": {"proxymode.io/skip": "x"}}),
        ("c", "other", {}),
    )
}


def test_retry_names_nodes_or_all() -> None:
    deed = verbs.retry(proxy_mode(**FAILED), [], KNOWN)
    assert deed.patch == {"metadata": {"annotations": {"proxymode.io/retry": "all"}}}
    deed = verbs.retry(proxy_mode(**FAILED), ["b", "a", "b"], KNOWN)
    assert deed.patch == {"metadata": {"annotations": {"proxymode.io/retry": "b,a"}}}


@pytest.mark.parametrize("outcome", ["Aborted", "RolledBack"])
def test_a_revision_that_has_ended_early_is_neither_promoted_nor_tried_again(outcome: str) -> None:
    past = {"revision": 3, "mode": "nftables", "startedAt": world.NOW, "endedAt": world.NOW, "outcome": outcome}
    ended = proxy_mode(**AWAITING, **FAILED, history=[past])
    with pytest.raises(UserError, match=rf"revision 3 of fleet has ended \({outcome}\)"):
        verbs.promote(ended, None, everything=True)
    with pytest.raises(UserError, match="starts nothing more: undo takes nodes back"):
        verbs.retry(ended, [], KNOWN)


def test_skip_and_unskip_are_about_the_nodes() -> None:
    deed = verbs.skip(proxy_mode(), ["a", "b"], KNOWN, " broken NIC ")
    assert deed == ({"metadata": {"annotations": {"proxymode.io/skip": "broken NIC"}}}, "goes round a, b: broken NIC")
    assert verbs.unskip(proxy_mode(), ["a", "b"], KNOWN).patch == {
        "metadata": {"annotations": {"proxymode.io/skip": None}}
    }
    assert verbs.unskip(proxy_mode(), ["a"], KNOWN).patch is None


def test_wishes_about_nodes_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(UserError, match="no node of fleet has failed"):
        verbs.retry(proxy_mode(nodes={}), [], KNOWN)
    with pytest.raises(UserError, match="node 'z' not found: it has no NodeProxyMode"):
        verbs.retry(proxy_mode(**FAILED), ["z"], KNOWN)
    with pytest.raises(UserError, match="node 'c' is not decided by fleet but by other"):
        verbs.skip(proxy_mode(), ["c"], KNOWN, "why")
    with pytest.raises(UserError, match="say why"):
        verbs.skip(proxy_mode(), ["a"], KNOWN, " ")


def undoing(order: str = "Reverse", **rollout: Any) -> dict[str, Any]:
    spec = {"mode": "ipvs"} | ({"rollout": rollout} if rollout else {})
    return {"metadata": {"annotations": {"proxymode.io/undo": order}}, "spec": spec}


def test_undo_goes_back_to_the_mode_before_and_says_what_keeps_it() -> None:
    found = proxy_mode(fromMode="ipvs")
    assert verbs.undo(found, now=False).patch == undoing()
    assert verbs.undo(found, now=False, at_once=True).patch == undoing("AtOnce")
    assert verbs.undo(proxy_mode(fromMode=None), now=False, to=Home.IPVS).patch == undoing()
    assert verbs.undo(found, now=False, to=Home.NFTABLES).patch is None
    assert "paused" not in verbs.undo(found, now=False).told
    assert "nothing moves before resume" in verbs.undo(paused(), now=False).told


def test_undo_of_a_change_that_no_rollout_has_begun_with_takes_back_that_change() -> None:
    assert verbs.undo(proxy_mode(mode="ipvs", fromMode="nftables"), now=False).patch == undoing()


def owned(policy: str, mode: str = "nftables", **status: Any) -> ProxyMode:
    wire = copy.deepcopy(world.PROXY_MODE)
    wire["spec"] |= {"mode": mode, "kubeProxy": {"policy": policy}}
    wire["status"] |= status
    return ProxyMode.model_validate(wire)


@pytest.mark.parametrize("mode", ["nftables", "ipvs"])
def test_nodes_that_were_taken_over_go_back_to_kube_proxy_in_one_command(mode: str) -> None:
    deed = verbs.undo(owned("TakeOver", mode), now=False, to=Home.KUBE_PROXY)
    spec = {"mode": "nftables", "kubeProxy": {"policy": "HandBack"}}
    assert deed.patch == {"metadata": {"annotations": {"proxymode.io/undo": "Reverse"}}, "spec": spec}
    assert deed.told == "handed back to kube-proxy, the last stage first"
    assert verbs.undo(owned("HandBack"), now=False, to=Home.KUBE_PROXY).patch is None


def members(*modes: tuple[str, str]) -> list[NodeProxyMode]:
    """One node of fleet for each: what it runs now, and from where its last switch led; empty: it has had none."""
    found = []
    for number, (now, before) in enumerate(modes):
        switch = {"fromMode": before, "toMode": "nftables", "startedAt": world.at(minutes=5)} if before else None
        found.append(NodeProxyMode.model_validate(world.node_proxy_mode(f"n{number}", now, switch=switch)))
    return found


TAKEN = ("nftables", "kube-proxy-ipvs")
NOT_YET = ("kube-proxy-ipvs", "")
HANDED_BACK = {"mode": "nftables", "kubeProxy": {"policy": "HandBack"}}


@pytest.mark.parametrize("nodes", [members(TAKEN, TAKEN), members(TAKEN, NOT_YET), members(NOT_YET, NOT_YET)])
def test_an_undo_of_a_take_over_leads_to_kube_proxy_and_takes_nobody_else_over(nodes: list[NodeProxyMode]) -> None:
    found = owned("TakeOver", revision=1, fromMode="ipvs", history=[])
    assert verbs.undo(found, nodes, now=False).patch == undoing() | {"spec": HANDED_BACK}
    assert verbs.undo(found, nodes, now=False, to=Home.IPVS).patch == undoing(), "who says it gets it"


def test_an_undo_of_a_later_revision_leads_to_the_agents_mode_before() -> None:
    earlier = {"revision": 1, "mode": "ipvs", "startedAt": world.at(hours=2), "endedAt": world.at(hours=1)}
    earlier |= {"outcome": "Complete", "nodes": 2}
    found = owned("TakeOver", revision=2, fromMode="ipvs", history=[earlier])
    nodes = members(("nftables", "ipvs"), ("ipvs", "kube-proxy-ipvs"))
    assert verbs.undo(found, nodes, now=False).patch == undoing()
    nobody_moved = owned("TakeOver", revision=2, fromMode="ipvs", history=[earlier | {"nodes": 0}])
    assert verbs.undo(nobody_moved, nodes, now=False).patch == undoing() | {"spec": HANDED_BACK}
    first = owned("TakeOver", revision=1, fromMode="ipvs", history=[])
    just_edited = first.model_copy(update={"status": first.status.model_copy(update={"mode": Mode.IPVS})})
    assert verbs.undo(just_edited, nodes, now=False).patch == undoing()


def test_where_nothing_has_moved_nothing_is_undone() -> None:
    with pytest.raises(UserError, match=r"no node of fleet has moved, all run kube-proxy.*proxymode abort fleet"):
        verbs.undo(owned("Ignore", fromMode="ipvs"), members(NOT_YET, NOT_YET), now=False)
    somebody = members(NOT_YET, ("nftables", "ipvs"))
    assert verbs.undo(owned("Ignore", fromMode="ipvs"), somebody, now=False).patch == undoing()


def test_who_types_what_git_decides_is_told_so() -> None:
    ours = owned("TakeOver", fromMode="ipvs", changedBy="kubectl-client-side-apply")
    theirs = owned("TakeOver", fromMode="ipvs", changedBy="argocd-controller")
    deed = verbs.undo(theirs, now=False, to=Home.KUBE_PROXY)
    assert verbs.written_back(ours, deed) == ""
    assert verbs.written_back(theirs, deed).startswith("argocd-controller writes this object")
    assert verbs.written_back(theirs, deed).endswith("(spec.kubeProxy.policy: HandBack, spec.mode: nftables)")
    assert "(spec.rollout.paused: true)" in verbs.written_back(theirs, verbs.pause(theirs))
    assert verbs.written_back(theirs, verbs.abort(theirs)) == "", "an annotation stays"


def test_an_undo_to_a_mode_says_that_it_is_not_one_to_kube_proxy() -> None:
    assert "undo --to kube-proxy gives nodes back" in verbs.undo(owned("TakeOver", fromMode="ipvs"), now=False).told


def test_a_hand_back_is_undone_by_taking_over_again() -> None:
    deed = verbs.undo(owned("HandBack", fromMode="nftables"), now=False)
    spec = {"mode": "nftables", "kubeProxy": {"policy": "TakeOver"}}
    assert deed.patch == {"metadata": {"annotations": {"proxymode.io/undo": "Reverse"}}, "spec": spec}


def test_what_was_never_taken_over_cannot_be_given_back() -> None:
    with pytest.raises(
        UserError, match=r"has taken no node over from kube-proxy: its spec\.kubeProxy\.policy is Ignore"
    ):
        verbs.undo(owned("Ignore"), now=False, to=Home.KUBE_PROXY)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"fromMode": None}, "is not on record, or was not one mode; say it: undo --to ipvs"),
        ({"fromMode": "nftables"}, "revision 3 of fleet changed options and not the mode"),
        ({"revision": 0, "mode": None}, "fleet has no rollout to undo"),
    ],
)
def test_undo_does_not_guess(status: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        verbs.undo(proxy_mode(**status), now=False)


def test_undo_says_that_it_keeps_to_the_windows_or_takes_them_out() -> None:
    wire = copy.deepcopy(world.PROXY_MODE)
    wire["spec"]["rollout"]["windows"] = [{"schedule": "0 22 * * *", "duration": "4h"}]
    wire["status"]["fromMode"] = "ipvs"
    found = ProxyMode.model_validate(wire)
    deed = verbs.undo(found, now=False)
    assert deed.patch == undoing()
    assert "within spec.rollout.windows only" in deed.told
    assert verbs.undo(found, now=True).patch == undoing(windows=None)
    assert verbs.undo(proxy_mode(fromMode="ipvs"), now=True).patch == undoing()


@pytest.mark.parametrize(
    ("name", "names", "code", "text"),
    [
        ("x", ["a", "b"], ExitCode.NOT_FOUND, "'x' not found; there is a, b"),
        ("x", [], ExitCode.NOT_FOUND, "there is none at all"),
        (None, ["a", "b"], ExitCode.USAGE, "name one of a, b"),
        (None, [], ExitCode.NOT_FOUND, "no ProxyMode"),
    ],
)
def test_which_proxymode_is_meant_must_be_clear(name: str | None, names: list[str], code: ExitCode, text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        choose(name, names)
    assert caught.value.code is code


def test_the_only_proxymode_needs_no_name() -> None:
    assert choose(None, ["fleet"]) == "fleet"
    assert choose("a", ["a", "b"]) == "a"


@pytest.mark.parametrize(
    ("header", "texts"),
    [
        ("", []),
        ('299 - "ipvs is deprecated"', ["ipvs is deprecated"]),
        ('299 - "a, \\"b\\"", 299 - "c"', ['a, "b"', "c"]),
    ],
)
def test_warnings_of_the_api_server(header: str, texts: list[str]) -> None:
    assert warnings(header) == texts
