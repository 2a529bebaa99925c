"""As first_packets.py, by the kernel's own packet generator: a hundred times as many where the CPU is emulated.

    python pktgen.py SOURCE-NETWORK ADDRESS PORT LINK MAC CPU

The packets leave by LINK to MAC. The generator's thread is bound to CPU, and so is all that becomes of the packets up
to where they are dropped; who wants updates and packets at the same time makes the updates on another CPU. The source
port is drawn for each packet, and the source address goes round. See Documentation/networking/pktgen.rst.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path("/proc/net/pktgen")  # of the network namespace
MODULE = "pktgen"
SOURCES = 32  # addresses at most: one device each, for the generator draws IPv4 addresses only
FRAME_BYTES = {4: 60, 6: 80}  # headers and the generator's own 16 bytes
DELAY_NANOSECONDS = 1000  # between two packets of one address; with none the first address would have all turns


def available() -> bool:
    """Whether this kernel has the generator, or gets it now."""
    if modprobe := shutil.which("modprobe"):
        subprocess.run([modprobe, "--quiet", MODULE], check=False, capture_output=True)
    return FOLDER.exists()


def tell(file: str, *lines: str) -> None:
    """The generator takes one command a write, and wants its newline. Raises OSError for what it does not take."""
    for line in lines:
        with (FOLDER / file).open("w") as control:
            control.write(f"{line}\n")


def device(source: str, target: str, port: int, mac: str) -> Iterator[str]:
    """The commands that make a device send from one address."""
    version = ipaddress.ip_address(target).version
    to, from_ = ("dst_min", "src_min") if version == 4 else ("dst6", "src6")
    yield from ("count 0", f"delay {DELAY_NANOSECONDS}", f"pkt_size {FRAME_BYTES[version]}", f"dst_mac {mac}")
    yield from (f"{to} {target}", f"{from_} {source}", f"udp_dst_min {port}", f"udp_dst_max {port}")
    yield from ("udp_src_min 1024", "udp_src_max 65535", "flag UDPSRC_RND", "flag UDPCSUM", "flag NO_TIMESTAMP")


def sent(name: str) -> int:
    """Packets that a device has sent."""
    found = re.search(r"pkts-sofar: (\d+)", (FOLDER / name).read_text())
    assert found is not None
    return int(found[1])


def main() -> None:
    network, target, port = ipaddress.ip_network(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    link, mac, cpu = sys.argv[4:]
    thread = f"kpktgend_{cpu}"
    sources = [network[0]] if network.num_addresses == 1 else [network[1 + number] for number in range(SOURCES)]
    devices = {f"{link}@{number}": str(source) for number, source in enumerate(sources)}
    tell(thread, "rem_device_all", *(f"add_device {name}" for name in devices))
    for name, source in devices.items():
        tell(name, *device(source, target, port, mac))
    signal.signal(signal.SIGTERM, lambda *_: None)  # to end the generator's run, not this process
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    tell("pgctrl", "start")  # returns when a signal comes
    total = sum(map(sent, devices))
    tell(thread, "rem_device_all")  # before it is told that we are done: the next generator would find the thread busy
    sys.stdout.write(f"{total}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
