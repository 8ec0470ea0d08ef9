"""What knows which machine this is: devices, compiling, processes, signals and the C heap."""
