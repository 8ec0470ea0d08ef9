"""The commands `data prepare`, `data convert` and `data check`."""
