"""Real nodes on a LAN that exists on this machine only. `network.py` is the LAN, `test_lan.py` what happens on it."""
