"""How clones meet: discovery, pairing, channel, session, node. Knows sockets; knows nothing of terminals."""
