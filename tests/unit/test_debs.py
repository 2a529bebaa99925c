"""The cache folder and the reading of apt's answers; downloads themselves are exercised by the beds' own tests."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from proxymode_testbeds import cache, debs
from proxymode_testbeds.debs import IndexTarget

if TYPE_CHECKING:
    from pathlib import Path

DEBIAN = "http://mirror.example/debian/"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYMODE_CACHE", str(tmp_path / "cache"))


class TestCacheEntry:
    def test_builds_once_and_returns_the_same_folder(self) -> None:
        built: list[Path] = []

        def build(folder: Path) -> None:
            built.append(folder)
            (folder / "tool").write_text("v1")

        first = cache.entry("tools", "v1", build)
        second = cache.entry("tools", "v1", build)

        assert first == second == cache.root() / "tools" / "v1"
        assert (first / "tool").read_text() == "v1"
        assert len(built) == 1

    def test_a_failed_build_leaves_nothing_and_is_tried_again(self) -> None:
        def fail(folder: Path) -> None:
            (folder / "half").touch()
            raise RuntimeError("disk on fire")

        with pytest.raises(RuntimeError, match="disk on fire"):
            cache.entry("tools", "v1", fail)
        assert not (cache.root() / "tools" / "v1").exists()

        made = cache.entry("tools", "v1", lambda folder: (folder / "whole").touch())
        assert [path.name for path in made.iterdir()] == ["whole"]

    def test_what_a_killed_builder_left_behind_is_not_used(self) -> None:
        left_over = cache.root() / "tools" / ".v1.tmp"
        left_over.mkdir(parents=True)
        (left_over / "half").touch()

        made = cache.entry("tools", "v1", lambda folder: (folder / "whole").touch())

        assert [path.name for path in made.iterdir()] == ["whole"]

    def test_processes_at_the_same_time_build_once(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.touch()
        context = multiprocessing.get_context("fork")
        start = context.Barrier(4)
        processes = [context.Process(target=_build_and_log, args=(start, log)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(30)

        assert [process.exitcode for process in processes] == [0] * 4
        assert log.read_text() == "built\n"

    @pytest.mark.parametrize("bad", ["", "../up", "a/b", ".hidden", "two words"])
    def test_a_key_must_be_a_file_name(self, bad: str) -> None:
        with pytest.raises(ValueError, match="plain file name"):
            cache.entry("tools", bad, lambda _: None)

    def test_digest_tells_parts_apart(self) -> None:
        assert cache.digest(["ab", "c"]) != cache.digest(["a", "bc"])
        assert cache.digest(["a", "b"]) != cache.digest(["b", "a"])


def _build_and_log(start: multiprocessing.synchronize.Barrier, log: Path) -> None:
    def build(_: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")

    start.wait(30)
    cache.entry("tools", "v1", build)


class TestMirror:
    def test_is_the_archive_labelled_debian(self) -> None:
        targets = debs.parse_index_targets(
            "Google Cloud|cloud-sdk-bookworm|main|https://packages.example/apt/\n"
            "Debian-Security|bookworm-security|main|http://mirror.example/debian-security/\n"
            f"Debian|bookworm|main|{DEBIAN}\n"
        )
        assert debs.choose_mirror(targets, "bookworm") == DEBIAN

    def test_before_the_first_update_is_the_archive_of_the_machines_own_suite(self) -> None:
        targets = debs.parse_index_targets(
            "$(LABEL)|nodistro|main|https://deb.example/node\n"
            "$(LABEL)|bookworm-security|main|http://mirror.example/debian-security/\n"
            f"$(LABEL)|bookworm|main|{DEBIAN}\n"
        )
        assert targets[0] == IndexTarget("", "nodistro", "main", "https://deb.example/node")
        assert debs.choose_mirror(targets, "bookworm") == DEBIAN

    def test_none_is_an_error_that_says_where_to_look(self) -> None:
        with pytest.raises(debs.DebianError, match=r"'bookworm'.*sources\.list\.d"):
            debs.choose_mirror([IndexTarget("Debian", "bookworm", "contrib", DEBIAN)], "bookworm")


class TestPackages:
    def test_stanzas_are_read_by_field_and_folded_lines_left_out(self) -> None:
        text = (
            "Package: busybox-static\nVersion: 1:1.35.0-4\nDescription: shell\n with: colon\n\n"
            "Package: etcd\nVersion: 3\n"
        )
        assert debs.parse_stanzas(text) == [
            {"Package": "busybox-static", "Version": "1:1.35.0-4", "Description": "shell"},
            {"Package": "etcd", "Version": "3"},
        ]

    def test_only_exact_dependencies_without_alternatives_are_followed(self) -> None:
        stanza = {
            "Pre-Depends": "base:amd64 (= 1.0)",
            "Depends": "linux-image-6.1.0-50-amd64 (= 6.1.176-1), kmod, libc6 (>= 2.36), a (= 1) | b (= 2)",
        }
        assert debs.exact_dependencies_of(stanza) == {"base": "1.0", "linux-image-6.1.0-50-amd64": "6.1.176-1"}

    def test_key_of_one_package_is_readable(self) -> None:
        assert debs.entry_key({"busybox-static": "1:1.35.0-4"}) == "busybox-static_1%3a1.35.0-4"

    def test_key_of_many_depends_on_every_version(self) -> None:
        before = debs.entry_key({"a": "1", "b": "1"})
        assert before == debs.entry_key({"a": "1", "b": "1"})
        assert before != debs.entry_key({"a": "1", "b": "2"})
        assert before.startswith("a+1-")

    def test_an_impossible_suite_is_refused_before_apt_sees_it(self) -> None:
        with pytest.raises(ValueError, match=r"'sid; rm'.*suite or code name"):
            debs.resolve("sid; rm", ["etcd"])
