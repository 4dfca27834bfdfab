"""The name server of runs: it asks the host's own name servers what a run asks it.

THEORY OF OPERATION

Its sockets are bound by the launcher to the gateway's address and device, so that runs alone reach it; a question's
source is the run's slot, by the router's word. It runs without privileges and with a uid of its own: it reads what tenants wrote.

A question is read (dnspython), and another one is written for the host's name servers, from a socket of its own,
connected, with an id of its own: nothing of the run's packet travels on. An answer counts when it comes from there and has the
id and the question; it is passed on as it is, with the run's id, over UDP as far as the run's own program takes it, else cut
with a mark, and the program asks again over TCP. What it says is not looked at: a name may well stand for a private address,
since the filter is on packets.

Every number is bounded: questions at once, of a slot and in all, connections, sizes, time.
"""
