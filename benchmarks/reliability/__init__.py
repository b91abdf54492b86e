"""What breaks a sweep: disks that lie, processes that die, many at once."""
