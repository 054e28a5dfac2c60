"""Every decision of a session, as pure functions of (state, event, now).

One reducer keeps roster, rounds, placement and leases, and says in words why it decides as it does. No I/O, no clock,
no tensors: the coordinator drives it over sockets, the tests with a fake clock, the simulator with virtual peers.
"""
