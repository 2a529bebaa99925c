"""The deprecation table, and what it says to clusters of different versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxymode_api.deprecation import (
    RETIREMENTS,
    DeprecationState,
    KubeProxyMode,
    Minor,
    deprecation,
    minor_if_any,
    parse_minor,
)
from proxymode_api.modes import Mode, ObservedMode


@pytest.mark.parametrize(
    ("text", "minor"),
    [
        ("v1.36.2", Minor(1, 36)),
        ("1.36+", Minor(1, 36)),
        ("1.36", Minor(1, 36)),
        ("v1.36.0-gke.1000", Minor(1, 36)),
        ("v1.9.11+k3s1", Minor(1, 9)),
        (" v1.40.0-alpha.3.12+0123456789abcd\n", Minor(1, 40)),
    ],
)
def test_versions_as_api_servers_write_them(text: str, minor: Minor) -> None:
    assert parse_minor(text) == minor


@pytest.mark.parametrize("text", ["", "v1", "1.", "latest", "v1.x", "-1.36", "1,36", "vv1.36", "1.36000", "١.٣٦"])
def test_a_garbage_version_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected major\.minor as in v1\.36\.2"):
        parse_minor(text)
    assert minor_if_any(text) is None


@given(st.integers(0, 9999), st.integers(0, 9999))
def test_every_minor_survives_printing_and_parsing(major: int, minor: int) -> None:
    assert parse_minor(f"v{Minor(major, minor)}.0") == Minor(major, minor)


def test_minors_are_ordered_as_releases_not_as_text() -> None:
    assert Minor(1, 9) < Minor(1, 10) < Minor(1, 35) < Minor(2, 0)


@pytest.mark.parametrize(
    ("version", "state", "message"),
    [
        (
            "v1.33.9",
            DeprecationState.ANNOUNCED,
            "ipvs is deprecated from 1.35, off by default from 1.40, removed in 1.43 (KEP-5495): move to nftables",
        ),
        (
            "v1.34.0",
            DeprecationState.ANNOUNCED,
            "ipvs is deprecated from 1.35 (the next minor of this cluster), off by default from 1.40, "
            "removed in 1.43 (KEP-5495): move to nftables",
        ),
        (
            "v1.35.0",
            DeprecationState.DEPRECATED,
            "ipvs is deprecated since 1.35, off by default from 1.40, removed in 1.43 (KEP-5495): move to nftables",
        ),
        (
            "v1.39.1",
            DeprecationState.DEPRECATED,
            "ipvs is deprecated since 1.35, off by default from 1.40 (the next minor of this cluster), "
            "removed in 1.43 (KEP-5495): move to nftables",
        ),
        (
            "1.40+",
            DeprecationState.OFF_BY_DEFAULT,
            "ipvs is deprecated since 1.35, off by default since 1.40 (feature gate KubeProxyIPVS turns it on), "
            "removed in 1.43 (KEP-5495): move to nftables",
        ),
        (
            "v1.42.3",
            DeprecationState.OFF_BY_DEFAULT,
            "ipvs is deprecated since 1.35, off by default since 1.40 (feature gate KubeProxyIPVS turns it on), "
            "removed in 1.43 (the next minor of this cluster) (KEP-5495): move to nftables",
        ),
        (
            "v1.43.0",
            DeprecationState.REMOVED,
            "ipvs was removed from kube-proxy in 1.43 (KEP-5495), and this cluster runs 1.43: move to nftables",
        ),
        (
            "v1.50.0",
            DeprecationState.REMOVED,
            "ipvs was removed from kube-proxy in 1.43 (KEP-5495), and this cluster runs 1.50: move to nftables",
        ),
    ],
)
def test_ipvs_as_seen_by_clusters_of_different_age(version: str, state: DeprecationState, message: str) -> None:
    found = deprecation(Mode.IPVS, parse_minor(version))
    assert found is not None
    assert (found.state, found.message) == (state, message)
    assert found.in_effect is (state is not DeprecationState.ANNOUNCED)


def test_a_cluster_of_unknown_version_is_warned_without_claims_about_its_next_minor() -> None:
    found = deprecation(Mode.IPVS, None)
    assert found is not None
    assert found.in_effect
    assert found.message == (
        "ipvs is deprecated since 1.35, off by default from 1.40, removed in 1.43 (KEP-5495): move to nftables"
    )


def test_nftables_iptables_and_kernelspace_are_not_given_up() -> None:
    assert deprecation(Mode.NFTABLES, Minor(1, 43)) is None
    assert deprecation(KubeProxyMode.IPTABLES, Minor(1, 43)) is None
    assert deprecation(KubeProxyMode.KERNELSPACE, Minor(1, 43)) is None


def test_a_mode_that_went_without_the_intermediate_steps() -> None:
    found = deprecation(KubeProxyMode.USERSPACE, Minor(1, 25))
    assert found is not None
    assert found.message == "userspace is removed in 1.26 (the next minor of this cluster): move to nftables"


def test_the_steps_of_a_retirement_are_in_order_and_lead_to_a_mode_that_stays() -> None:
    for name, plan in RETIREMENTS.items():
        steps = [step for step in (plan.deprecated, plan.off_by_default, plan.removed) if step is not None]
        assert steps == sorted(steps), name
        assert deprecation(plan.replacement, plan.removed) is None, name


@given(st.sampled_from(list(RETIREMENTS)), st.integers(0, 60))
def test_an_upgrade_never_goes_back_to_an_earlier_state(name: KubeProxyMode, minor: int) -> None:
    order = list(DeprecationState)
    before, after = deprecation(name, Minor(1, minor)), deprecation(name, Minor(1, minor).next())
    assert before is not None
    assert after is not None
    assert order.index(before.state) <= order.index(after.state)


def test_every_mode_that_an_agent_can_observe_is_in_the_table() -> None:
    for observed in ObservedMode:
        if observed is not ObservedMode.NONE:
            KubeProxyMode(observed.value.removeprefix("kube-proxy-"))
