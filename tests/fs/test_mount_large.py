#!/usr/bin/python3
"""A folder of 300,000 files under a descriptor limit of 1,024: listed, read and changed, in bounded memory."""
import os
import signal
import time

from mount_fixture import Mount, deliver, make_maildir, run_tests

ALICE = "example.org/alice"
COUNT = 300000
RESIDENT_KIB_MAX = 64 * 1024


def name(number):
    return f"{number}.x:2,S"


def resident_kib(pid):
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def listed_and_read():
    with Mount(files=1024) as mount:
        # Made before the mount knows of them, as an existing store is.
        mount.kill(signal.SIGTERM)
        os.makedirs(f"{mount.backing}/{ALICE}")
        make_maildir(f"{mount.backing}/{ALICE}/Maildir")
        for number in range(COUNT):
            with open(f"{mount.backing}/{ALICE}/Maildir/cur/{name(number)}", "w", encoding="ascii") as file:
                file.write(str(number))
        mount.start()
        cur = f"{mount.mount}/{ALICE}/Maildir/cur"
        for _ in range(2):
            start = time.monotonic()
            with os.scandir(cur) as entries:
                sizes = {entry.name: entry.stat().st_size for entry in entries}
            print(f"{time.monotonic() - start:.1f} s", end=" ")
            assert len(sizes) == COUNT
            assert all(sizes[name(number)] == len(str(number)) for number in range(0, COUNT, 1009))
        opened = [open(f"{cur}/{name(number)}", encoding="ascii") for number in range(0, COUNT, 1000)]
        assert [file.read() for file in opened] == [str(number) for number in range(0, COUNT, 1000)]
        for number in range(0, COUNT, 1000):
            os.rename(f"{cur}/{name(number)}", f"{cur}/{number}.x:2,FS")
        for file in opened:
            file.close()
        deliver(f"{mount.mount}/{ALICE}/Maildir", "one.more")
        assert len(os.listdir(cur)) == COUNT
        descriptors = len(os.listdir(f"/proc/{mount.process.pid}/fd"))
        assert descriptors < 128, descriptors
        resident = resident_kib(mount.process.pid)
        print(f"{resident} KiB", end=" ")
        assert resident < RESIDENT_KIB_MAX, resident


if __name__ == "__main__":
    run_tests([listed_and_read])
