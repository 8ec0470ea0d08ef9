"""The code that depends on the machine: devices, XLA, processes, signals, C heap."""
