"""Schedulers that the kernel does not have."""

from __future__ import annotations

from proxymode_agent.dataplane.ipvs.schedulers import Schedulers


def test_the_kernel_is_asked_once_for_what_it_has_and_again_for_what_it_lacks() -> None:
    asked: list[str] = []
    loaded = {"rr", "wlc"}

    def has(name: str) -> bool:
        asked.append(name)
        return name in loaded

    schedulers = Schedulers("wlc")
    assert schedulers.asked([]) == set()
    assert not schedulers.known(["wlc"])
    assert schedulers.replacements(["wlc", "sed", "rr"], has) == {"sed": "rr"}
    assert schedulers.known(["wlc", "sed", "rr"])
    assert schedulers.replacements(["wlc", "sed"], has) == {"sed": "rr"}
    loaded.add("sed")
    assert schedulers.replacements(["wlc", "sed"], has) == {}
    assert asked == ["wlc", "sed", "sed", "sed"]
