"""All cases of cases/, for each mode; and the dataplanes that can be driven by them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml
from packet_table import read, with_differences
from proxymode_agent.dataplane.ipvs.dataplane import IpvsDataplane
from proxymode_agent.dataplane.nftables import NftablesDataplane

if TYPE_CHECKING:
    from collections.abc import Mapping

    from packet_node import DataplaneFactory
    from packet_table import Case

FOLDER: Final = Path(__file__).parent / "cases"
DIFFERENCES: Final = {"ipvs": Path(__file__).parent / "differences-ipvs.yaml"}
FACTORIES: Final[Mapping[str, DataplaneFactory]] = {"nftables": NftablesDataplane, "ipvs": IpvsDataplane}


def cases(mode: str) -> tuple[Case, ...]:
    """The table as that mode promises it. Raises TableError."""
    found = tuple(case for of_file in read(sorted(FOLDER.glob("*.yaml"))).values() for case in of_file)
    if mode in DIFFERENCES:
        found = with_differences(found, yaml.safe_load(DIFFERENCES[mode].read_text()) or [])
    return found
