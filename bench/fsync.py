"""Times fdatasync on a file of this directory, as the log does it: prints p50 and p99 in nanoseconds as JSON."""
import json
import os
import sys
import time

name = os.path.join(sys.argv[1], "fsync")
fd = os.open(name, os.O_CREAT | os.O_WRONLY, 0o600)
os.posix_fallocate(fd, 0, 4 << 20)  # Pebble writes into space that is there already
os.fsync(fd)
took = []
for i in range(1000):
    began = time.perf_counter_ns()
    os.pwrite(fd, b"x" * 1024, i * 1024)
    os.fdatasync(fd)
    took.append(time.perf_counter_ns() - began)
    time.sleep(0.001)
os.close(fd)
os.unlink(name)
took.sort()
print(json.dumps({"p50": took[500], "p99": took[990]}))
