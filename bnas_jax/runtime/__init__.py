"""All that depends on the machine: devices, compiling, processes, signals and the C
heap.
"""
