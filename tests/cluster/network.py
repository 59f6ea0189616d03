"""Two network namespaces: a node, and a client outside of it, with a cable between them."""

import subprocess

NODE, OUTSIDE = "caravan-node", "caravan-outside"
NODE_ADDRESS, OUTSIDE_ADDRESS = "10.77.0.1", "10.77.0.2"


def up() -> None:
    down()
    for name in (NODE, OUTSIDE):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    ip("link", "add", "caravan0", "netns", NODE, "type", "veth", "peer", "name", "caravan1", "netns", OUTSIDE)
    for name, link, address in (
        (NODE, "caravan0", NODE_ADDRESS),
        (OUTSIDE, "caravan1", OUTSIDE_ADDRESS),
    ):
        ip("-n", name, "address", "add", f"{address}/24", "dev", link)
        ip("-n", name, "link", "set", link, "up")
    ip("-n", NODE, "route", "add", "default", "via", OUTSIDE_ADDRESS)
    ip("-n", OUTSIDE, "route", "add", "default", "via", NODE_ADDRESS)
    subprocess.run([*within(NODE), "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"], check=True)


def down() -> None:
    for name in names() & {NODE, OUTSIDE}:
        ip("netns", "delete", name)


def names() -> set[str]:
    """All network namespaces of this machine that have a name; every pod has one."""
    known = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in known.splitlines()}


def within(name: str) -> tuple[str, ...]:
    """What a command begins with that is to run there. `ip netns exec` would hide the cgroup mounts."""
    return ("nsenter", f"--net=/run/netns/{name}", "--")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)
