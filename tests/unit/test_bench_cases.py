"""The clusters that the benchmarks are made of, and kube-proxy's ruleset for them."""

from __future__ import annotations

import itertools

import pytest

from proxymode_benchmarks.sync import ruleset
from proxymode_benchmarks.sync.cases import Case, slice_path


@pytest.mark.parametrize("text", ["1000", "x2", "1000x", "0x2", "1000x0", "-1x2", "1000x2x3", "99999x1"])
def test_what_is_no_case_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="case"):
        Case.parse(text)


def test_a_case_is_written_as_it_is_read() -> None:
    assert str(Case.parse("5006x50")) == "5006x50"


def test_every_endpoint_and_every_spare_pod_has_an_address_of_its_own() -> None:
    case = Case(30, 20)
    addresses = [address for service in range(case.services + 1) for address in case.targets(service)]
    spare = list(itertools.islice(case.spare_pods, 50))
    assert len({*addresses, *spare}) == 30 * 20 + 1 + 50


def test_slices_have_at_most_a_hundred_endpoints_and_together_all_of_them() -> None:
    case = Case(2, 250)
    slices = [one for one in case.objects() if one["kind"] == "EndpointSlice"]
    assert [len(one["endpoints"]) for one in slices] == [100, 100, 50, 100, 100, 50, 1]
    names = [f"{one['metadata']['namespace']}/endpointslices/{one['metadata']['name']}" for one in slices]
    assert slice_path(1, 100).endswith(names[4])
    listed = [endpoint["addresses"][0] for one in slices for endpoint in one["endpoints"]]
    assert listed == [address for service in range(3) for address in case.targets(service)]


def test_kube_proxy_has_a_chain_and_an_anonymous_map_for_each_service() -> None:
    case = Case(3, 2)
    lines = list(ruleset.whole(case))
    assert sum("numgen random mod" in one for one in lines) == 4
    (rule,) = [one for one in lines if "10.128.0.1 . 8080" in one and "add rule" in one]
    assert rule.endswith("dnat ip to numgen random mod 2 map { 0 : 10.128.0.1 . 8080 , 1 : 10.128.0.2 . 8080 }")


def test_a_change_writes_the_chain_that_the_whole_wrote() -> None:
    case = Case(3, 2)
    whole = set(ruleset.whole(case))
    assert set(ruleset.service_chain(2, case.targets(2))) <= whole
