"""What the commands `data prepare`, `data convert` and `data check` do to a data set on
disk.
"""
