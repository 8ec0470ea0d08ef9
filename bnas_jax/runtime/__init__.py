"""All that depends on the machine: devices, compiling, processes, signals, C heap."""
