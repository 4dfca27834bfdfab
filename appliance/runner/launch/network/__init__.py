"""What a run reaches: a network namespace a slot, a router between them and the host, and the host's one table.

THEORY OF OPERATION

    slot 0  eth0 ── s0 ┐                                   ┌ a table `inet codeactions…`: masquerades, and drops
    slot 1  eth0 ── s1 ┤ router ── uplink ── codeactions0 ─┤ what comes from there for the host, but DNS
    slot 2  eth0 ── s2 ┘ (a namespace of ours)     the host┘ to codeactions0's own address

The router lets out to public addresses and to what NETWORK_ALLOW opens, nothing from slot to slot, nothing in. So a packet passes
three independent places: the routing of a slot that has one neighbour, the router's rules, the host's.

Nothing has a name that outlives the launcher. Namespaces are held by descriptors of the launcher alone, a veth goes with its
namespace, and the host's table is owned by a process that ends with the launcher (`flags owner`, Linux 5.12), which also keeps
others' `nft flush ruleset` from removing it. A launcher that is killed -9 leaves nothing to sweep. The device's name is the
lock: several launchers on one host take the first free number, and with it their addresses.

Modules: addresses (who has which, what is closed), rules (texts for nft and ip), namespaces, slots, conntrack, forwarding, table
(the host's), router (puts it together), resolver (the child that answers DNS), path (does a packet get out?).
"""
