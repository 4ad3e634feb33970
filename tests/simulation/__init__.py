"""A deterministic simulation of the whole stack: real clones in real folders, on machines and a network that fail.

One seed is one run: `world.Simulation(seed).run()`. Everything random follows from the seed and all time is virtual, so
a run repeats exactly, in any process.

hardware    the machines: clock, disk, and the death of a process between any two durable steps
link        a connection: real sessions and frames, two streams of bytes that may be cut anywhere
people      what people and agents do to files and by commands, and what they may expect of it afterwards
world       the scheduler with its table of actions, and the healing
oracle      what must hold after the healing
"""
